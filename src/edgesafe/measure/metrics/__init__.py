"""Metrics of calibration and selective prediction as pure functions on float64 arrays."""
