"""Fewer inferences for the same decision: a variant is measured where its baseline was nearly undecided.

    draw             the frame of units, strata by margin, the two-stage draw, sizes of a growing sample
    margin           a sample matched to its baseline: estimates, variances, covariances
    margin_metrics   the metrics over corrupted cells, and their differences, from such a sample

docs/sampling.md explains it: formulas, an example, references.
"""
