"""Layers, losses and learning rate schedules."""
