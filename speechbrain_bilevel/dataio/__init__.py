"""Trials, audio and batches."""
