"""How long recordings are, and to what lengths they are brought."""

import numpy as np
import torch
from speechbrain.utils.distributed import if_main_process
from tqdm import tqdm

from speechbrain_bilevel.dataio.audio import (
    NO_LENGTH,
    SAMPLE_RATE,
    open_audio,
    read_audio,
    resampling_factors,
)
from speechbrain_bilevel.distributed import rank, world_size
from speechbrain_bilevel.errors import InputError

#: Samples that a network sees of a recording at most, 60 s. What attention
#: takes grows with the square of the length: 60 s take 225 times what 4 s do,
#: and a single file of an hour would take all memory.
LONGEST = 60 * SAMPLE_RATE
#: And at least, unless it was trained on fewer: 1 s; shorter ones are repeated.
SHORTEST = SAMPLE_RATE
# From one length to the next: at most 1 - 1 / 1.04, 3.8 %, is repetition.
_RATIO = 1.04


def bucket_lengths(samples):
    """The lengths that recordings are brought to.

    They depend on the network alone, so that a recording's score does not
    depend on the other recordings.

    Arguments
    ---------
    samples : int
        Which the network was trained on.

    Returns
    -------
    numpy.ndarray
        In samples, growing by 4 % from ``SHORTEST`` (or ``samples``, if they
        are fewer) to ``LONGEST``.

    Example
    -------
    >>> bucket_lengths(64600)[[0, 1, 2, -2, -1]]
    array([ 16000,  16640,  17305, 944662, 960000])
    """
    lengths = [min(samples, SHORTEST)]
    while lengths[-1] < LONGEST:
        following = max(lengths[-1] + 1, int(_RATIO * lengths[-1]))
        lengths.append(min(following, LONGEST))
    return np.array(lengths)


def measure_lengths(trials, samples):
    """How many samples there are to be seen of each trial's recording.

    Called by every process of a distributed run: each looks at a share of the
    files, and all learn of all. Headers tell it, but for streams, which are
    decoded.

    Arguments
    ---------
    trials : Sequence of Trial
    samples : int
        See ``bucket_lengths``; more than the longest of these is not seen.

    Returns
    -------
    numpy.ndarray
        [trials], of 32 bits, at 16 kHz; 0 where a file cannot be read.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_bilevel.dataio.trials import Trial
    >>> path = str(getfixture("tmp_path") / "a.wav")
    >>> soundfile.write(path, np.zeros(4000), 8000)
    >>> trial = Trial("a", path, "-", "-", "bonafide", "eval")
    >>> measure_lengths([trial], samples=64600)
    array([8000], dtype=int32)
    """
    longest = int(bucket_lengths(samples)[-1])
    mine = tqdm(
        range(rank(), len(trials), world_size()),
        desc="Measuring",
        unit="file",
        disable=not if_main_process(),
    )
    share = np.fromiter(
        (_length(trials[index].path, longest) for index in mine), np.int32
    )
    shares = [share] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(shares, share)
    lengths = np.empty(len(trials), np.int32)
    for number, share in enumerate(shares):
        lengths[number :: world_size()] = share
    return lengths


def _length(path, longest):
    try:
        with open_audio(path) as file:
            frames, rate = file.frames, file.samplerate
        if frames >= NO_LENGTH:
            return len(read_audio(path, longest))
    except InputError:
        # Told of when it is to be scored, with all that cannot be.
        return 0
    up, down = resampling_factors(rate)
    return min(-(-frames * up // down), longest)


def padding(lengths, samples):
    """Which part of what a network computes is repetition.

    Arguments
    ---------
    lengths : numpy.ndarray
        See ``measure_lengths``.
    samples : int
        See ``bucket_lengths``.

    Returns
    -------
    float

    Example
    -------
    >>> round(padding(np.array([100, 103]), samples=100), 4)
    0.0049
    """
    lengths = lengths[lengths > 0]
    buckets = bucket_lengths(samples)
    seen = buckets[np.searchsorted(buckets, lengths)].sum()
    return float(1 - lengths.sum() / max(1, seen)) if len(lengths) else 0.0
