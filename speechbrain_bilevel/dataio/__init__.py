"""Audio, corpora, lists of trials, and constants that all modules share."""

#: Sample rate of every waveform that a network sees, in Hz.
SAMPLE_RATE = 16000
#: Rates of files, in Hz. Others are broken headers; the resampling filter grows
#: with them.
LOWEST_RATE, HIGHEST_RATE = 1_000, 400_000
#: libsndfile reports at least this many frames if a header states no length, as
#: in a stream. FLAC counts in 36 bits.
NO_LENGTH = 2**36
#: The two labels; their order is that of a network's outputs.
LABELS = SPOOF, BONAFIDE = "spoof", "bonafide"
#: The ``attack`` of bona fide speech.
NO_ATTACK = "-"
#: Endings of files that are taken for audio unseen, so that a damaged one is
#: reported as such.
ENDINGS = (
    *(".3ga", ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape"),
    *(".au", ".awb", ".caf", ".flac", ".gsm", ".m4a", ".m4b", ".mka", ".mkv"),
    *(".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".mpga", ".oga", ".ogg"),
    *(".opus", ".raw", ".rf64", ".snd", ".sph", ".spx", ".voc", ".w64"),
    *(".wav", ".wave", ".weba", ".webm", ".wma", ".wv"),
)
