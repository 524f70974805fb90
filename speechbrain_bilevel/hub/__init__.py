"""Pretrained folders: written, passed on, and loaded without trusting them."""
