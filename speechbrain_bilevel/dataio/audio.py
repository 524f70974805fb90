"""Audio files of strangers -> waveforms that a network can take."""

import math
import os
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import torch

from speechbrain_bilevel.errors import InputError

SAMPLE_RATE = 16000
# Rates outside are headers gone wrong; the resampler's filter grows with them.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 400_000
# Frames are averaged over channels in blocks of this many values.
_BLOCK = 1 << 18
# What the resampling filter sees beyond the last frame, in seconds.
_MARGIN = 0.05


def read_audio(path, samples):
    """Reads the beginning of an audio file as mono at 16 kHz.

    Only what is needed is decoded, so a file of hours costs no more than one
    of seconds. Other rates are resampled, channels are averaged.

    Arguments
    ---------
    path : str or Path
        Any format soundfile reads.
    samples : int
        At most so many samples (at 16 kHz) are returned.

    Returns
    -------
    torch.Tensor
        [time], float32; time is ``samples``, or less when the file is shorter.

    Raises
    ------
    InputError
        If the file is missing, no audio, truncated, empty or silent
        throughout, or what was read holds NaN or infinite values.

    Example
    -------
    >>> path = getfixture("tmpdir") / "stereo.wav"
    >>> soundfile.write(path, np.random.rand(8000, 2), 8000)
    >>> read_audio(path, samples=64600).shape
    torch.Size([16000])
    """
    path = Path(path)
    # Unlike Path's methods, these never raise, e.g. on a name too long.
    if not os.path.isfile(path):
        kind = "is a folder" if os.path.isdir(path) else "does not exist"
        raise InputError(f"{path}: {kind}; expected an audio file")
    if path.suffix.lower() == ".raw":
        raise InputError(
            f"{path}: raw samples tell neither rate nor channels; expected a "
            "format with a header, such as FLAC, WAV, OGG or MP3"
        )
    try:
        with soundfile.SoundFile(path) as file:
            wav, rate = _read_mono(file, samples, path), file.samplerate
            silent = not wav.any() and _rest_is_silent(file)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path}: cannot be read as audio ({error.error_string}); "
            "expected an intact file of a format that soundfile knows, such "
            "as FLAC, WAV, OGG or MP3"
        ) from error
    if len(wav) == 0:
        raise InputError(f"{path}: holds no audio; expected at least a sample")
    if not np.isfinite(wav).all():
        raise InputError(f"{path}: holds NaN or infinite samples")
    if silent:
        raise InputError(f"{path}: digital silence throughout; nothing to hear")
    if rate != SAMPLE_RATE:
        divisor = math.gcd(rate, SAMPLE_RATE)
        up, down = SAMPLE_RATE // divisor, rate // divisor
        wav = scipy.signal.resample_poly(wav, up, down)
    return torch.from_numpy(wav[:samples].astype(np.float32))


def _read_mono(file, samples, path):
    if not _LOWEST_RATE <= file.samplerate <= _HIGHEST_RATE:
        raise InputError(
            f"{path}: a sample rate of {file.samplerate} Hz; expected "
            f"{_LOWEST_RATE} to {_HIGHEST_RATE} Hz"
        )
    seconds = samples / SAMPLE_RATE
    if file.samplerate != SAMPLE_RATE:
        seconds += _MARGIN
    wanted = min(file.frames, math.ceil(seconds * file.samplerate))
    mono = np.empty(wanted, dtype=np.float32)
    done = 0
    while done < wanted:
        size = min(wanted - done, max(1, _BLOCK // file.channels))
        block = file.read(size, dtype="float32", always_2d=True)
        if len(block) < size:
            raise InputError(
                f"{path}: truncated, it ends after {done + len(block)} of "
                f"{file.frames} frames; fetch it again"
            )
        mono[done : done + size] = block.mean(axis=1)
        done += size
    return mono


def _rest_is_silent(file):
    size = max(1, _BLOCK // file.channels)
    return not any(block.any() for block in file.blocks(size, dtype="float32"))


def fit_length(wav, samples):
    """The first ``samples`` samples, repeated when there are fewer.

    Arguments
    ---------
    wav : torch.Tensor
        [time]
    samples : int
        Length to return.

    Returns
    -------
    torch.Tensor
        [samples]

    Example
    -------
    >>> fit_length(torch.tensor([1, 2]), 5)
    tensor([1, 2, 1, 2, 1])
    """
    if len(wav) < samples:
        wav = wav.repeat(-(-samples // len(wav)))
    return wav[:samples]
