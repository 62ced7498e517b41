"""Intervals: of rates and means, of means over cells, of calibration errors."""
