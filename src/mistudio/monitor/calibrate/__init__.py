"""Thresholds for a rate of false positives, found on reference texts."""
