"""Augmentations of training audio, one of them with a learned strength."""
