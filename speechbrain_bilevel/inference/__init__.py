"""Trained detectors: loading, scoring, sharing."""
