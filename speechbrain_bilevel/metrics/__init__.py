"""Spoofing metrics on plain numpy arrays, score files and reports."""
