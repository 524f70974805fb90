"""Audio, corpora, lists of trials, and constants that all modules share."""

#: Sample rate of every waveform that a network sees, in Hz.
SAMPLE_RATE = 16000
#: The two labels; their order is that of a network's outputs.
LABELS = SPOOF, BONAFIDE = "spoof", "bonafide"
#: The ``attack`` of bona fide speech.
NO_ATTACK = "-"
