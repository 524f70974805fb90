"""Metrics of spoofing countermeasures, computed from arrays of scores."""
