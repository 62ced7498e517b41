"""Fewer inferences for the same certainty: samples in strata of the margin, and what they say of the whole."""
