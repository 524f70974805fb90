"""Bi-level training for SpeechBrain, and spoofing countermeasures made with it."""
