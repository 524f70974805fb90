"""Checkpoints, distributed processes, errors, files, seeds and tables."""
