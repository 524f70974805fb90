"""Augmentations of training audio, one of them of a learned strength."""
