"""Certificates by complete enumeration: a range of lighting or a sensor fault is a finite set of 8-bit images.

tables       point operations as look-up tables, exactly
faults       shifts, dead pixels and lines, patches, JPEG
sets         all distinct images of an image
ids          "brightness=2" -> the set
enumeration  every image of a set through the file
archive      certificates.npz <-> records
summary      certificates -> metrics, paired differences, radius curve
"""
