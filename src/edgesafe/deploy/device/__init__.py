"""Devices that a target reaches over ssh: files copied there, the stand-alone script run, results brought back."""
