"""Metrics of spoofing countermeasures: arrays in, numbers out."""
