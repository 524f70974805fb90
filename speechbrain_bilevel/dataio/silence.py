"""Where a recording's leading silence ends and its trailing silence begins.

In ASVspoof's corpora, bona fide and spoofed utterances differ in how much
silence they begin and end with, and a countermeasure may learn that instead of
what spoofing sounds like (Müller et al., "Speech is Silver, Silence is Golden:
What do ASVspoof-trained Models Really Learn?", ASVspoof workshop, 2021). Scores
of trimmed recordings show whether one did.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# In seconds.
_FRAME, _HOP = 0.025, 0.010
# 40 dB below the loudest frame, as a ratio of powers.
_SILENT = 1e-4
# Of a constant, the variance may be other than 0 by rounding; the least power of
# 16 bits is some 1e-13.
_INAUDIBLE = 1e-20


def speech_bounds(blocks, rate):
    """The part of a recording that is left when silence around it is cut.

    The recording is seen in frames of 25 ms, one every 10 ms; the last may be
    shorter, by less than 10 ms. A frame is silent if its power, the variance
    of its samples, is more than 40 dB below that of the loudest frame. The silent frames before the
    first other frame and those behind the last one are cut, so that what is
    left begins and ends within 10 ms of a sharp beginning and end; pauses in
    between stay. Nothing is cut of digital silence, whatever its offset, or
    of less than a frame.

    The blocks need not fit into memory together: 3 MB are needed for an hour.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        The recording in pieces of [time], of any lengths; finite values.
    rate : int
        Samples per second.

    Returns
    -------
    start : int
        The first sample to keep.
    stop : int
        One more than the last sample to keep; greater than ``start`` unless
        there are no samples at all.

    Example
    -------
    >>> silence, speech = np.zeros(1600), np.tile([1.0, -1.0], 800)
    >>> speech_bounds([silence, speech, silence], rate=16000)
    (1520, 3200)
    """
    frame, hop = round(_FRAME * rate), round(_HOP * rate)
    powers, rest, samples = [], np.empty(0), 0
    for block in blocks:
        samples += len(block)
        rest = np.concatenate([rest, block])
        if len(rest) >= frame:
            frames = sliding_window_view(rest, frame)[::hop]
            powers.append(frames.var(axis=1))
            rest = rest[len(frames) * hop :]
    # The last whole frame ends so far into the rest.
    if len(rest) > frame - hop:
        powers.append([rest.var()])
    if not powers:
        return 0, samples
    powers = np.concatenate(powers)
    if powers.max() < _INAUDIBLE:
        return 0, samples
    first, last = np.flatnonzero(powers >= _SILENT * powers.max())[[0, -1]]
    start = 0 if first == 0 else (first - 1) * hop + frame
    stop = samples if last == len(powers) - 1 else (last + 1) * hop
    return int(start), int(stop)
