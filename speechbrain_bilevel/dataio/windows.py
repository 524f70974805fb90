"""Recordings of any length, a window at a time."""

import math

import numpy as np
import scipy.signal

from speechbrain_bilevel.dataio.audio import (
    MARGIN,
    empty,
    mono_blocks,
    open_audio,
    resampling_factors,
)

# At least so many frames are resampled at once.
_STEP = 1 << 17


def read_blocks(path):
    """Yields an audio file as mono at 16 kHz, a block at a time.

    What it needs of memory does not depend on the length of the file. The
    blocks together are what ``dataio.audio.read_audio`` reads.

    Arguments
    ---------
    path : str or Path
        Any format soundfile reads.

    Yields
    ------
    numpy.ndarray
        [time], float32; blocks differ in length.

    Raises
    ------
    InputError
        If the file is missing, no audio, truncated or empty, or holds NaN or
        infinite values; for some faults, when the reading gets there.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmpdir") / "a.wav"
    >>> soundfile.write(path, np.random.rand(30000), 8000)
    >>> sum(len(block) for block in read_blocks(path))
    60000
    """
    with open_audio(path) as file:
        blocks = mono_blocks(file, 0, file.frames, path)
        up, down = resampling_factors(file.samplerate)
        if up != down:
            blocks = _resample(blocks, up, down, file.samplerate)
        n_samples = 0
        for block in blocks:
            n_samples += len(block)
            yield block
        if n_samples == 0:
            raise empty(path)


def _resample(blocks, up, down, rate):
    """Blocks at 16 kHz, each resampled with what lies beside it."""
    # Multiples of down, after which a frame falls on a sample again.
    margin = down * math.ceil(MARGIN * rate / down)
    step = max(down * math.ceil(_STEP / down), 4 * margin)
    pending, before = np.empty(0, dtype=np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= before + step + margin:
            part = pending[: before + step + margin]
            wav = scipy.signal.resample_poly(part, up, down)
            first, last = before * up // down, (before + step) * up // down
            yield wav[first:last]
            pending, before = pending[before + step - margin :], margin
    if len(pending) > before:
        wav = scipy.signal.resample_poly(pending, up, down)
        yield wav[before * up // down :]


def read_windows(path, samples, hop):
    """Yields overlapping windows of an audio file, mono at 16 kHz.

    The last window ends where the file ends; it overlaps more than the others.
    What this needs of memory does not depend on the length of the file.

    Arguments
    ---------
    path : str or Path
        Any format soundfile reads.
    samples : int
        Length of a window; of a shorter file there is one window with all of
        it.
    hop : int
        From the start of one to the start of the next, at most ``samples``.

    Yields
    ------
    start : int
        The window's first sample in the file at 16 kHz.
    window : numpy.ndarray
        [time], float32.

    Raises
    ------
    InputError
        See ``read_blocks``.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmpdir") / "a.wav"
    >>> soundfile.write(path, np.arange(7) / 8, 16000, subtype="FLOAT")
    >>> for start, window in read_windows(path, samples=4, hop=2):
    ...     print(start, 8 * window)
    0 [0. 1. 2. 3.]
    2 [2. 3. 4. 5.]
    3 [3. 4. 5. 6.]
    """
    held, start, window = np.empty(0, dtype=np.float32), 0, None
    for block in read_blocks(path):
        held = np.concatenate([held, block])
        while len(held) >= samples:
            window = held[:samples]
            yield start, window
            held, start = held[hop:], start + hop
    if window is None:
        yield 0, held
        return
    # The samples behind the last window.
    rest = held[samples - hop :]
    if len(rest):
        yield (
            start - hop + len(rest),
            np.concatenate([window, rest])[-samples:],
        )
