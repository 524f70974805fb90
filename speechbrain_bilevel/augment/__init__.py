"""Augmentations, among them such whose strength is learned."""
