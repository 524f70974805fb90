"""Audio files of strangers -> waveforms that a network can take."""

import contextlib
import math
import os
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import torch

from speechbrain_bilevel.dataio.silence import speech_bounds
from speechbrain_bilevel.errors import InputError

SAMPLE_RATE = 16000
#: Rates outside are headers gone wrong; the resampler's filter grows with them.
LOWEST_RATE, HIGHEST_RATE = 1_000, 400_000
#: libsndfile reports at least so many frames where a header states no length,
#: as in a stream. FLAC counts in 36 bits.
NO_LENGTH = 2**36
# Frames are averaged over channels in blocks of this many values.
_BLOCK = 1 << 18
#: What the resampling filter sees beyond a frame at most, in seconds.
MARGIN = 0.05


def read_audio(path, samples, trim_silence=False):
    """Reads the beginning of an audio file as mono at 16 kHz.

    Only what is needed is decoded, so a file of hours costs no more than one
    of seconds, unless silence is trimmed: that takes decoding all of it, a
    block at a time. Other rates are resampled, channels are averaged.

    Arguments
    ---------
    path : str or Path
        Any format soundfile reads.
    samples : int
        At most so many samples (at 16 kHz) are returned.
    trim_silence : bool
        Leave out the silence before and behind the speech; see
        ``dataio.silence.speech_bounds``.

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
    with open_audio(path) as file:
        wav = _read_mono(file, samples, trim_silence, path)
        rate = file.samplerate
        silent = not wav.any() and _rest_is_silent(file)
    if len(wav) == 0:
        raise empty(path)
    if silent:
        raise silent_throughout(path)
    if rate != SAMPLE_RATE:
        wav = scipy.signal.resample_poly(wav, *resampling_factors(rate))
    return torch.from_numpy(wav[:samples].astype(np.float32))


def read_window(path, samples, trim_silence=False):
    """Reads what a network sees of an audio file; refuses to show it nothing.

    Arguments
    ---------
    path : str or Path
    samples : int
    trim_silence : bool
        See ``read_audio``.

    Returns
    -------
    torch.Tensor
        [time], float32, as ``read_audio``.

    Raises
    ------
    InputError
        As ``read_audio``, and if what was read is digital silence.

    Example
    -------
    >>> path = getfixture("tmpdir") / "late.wav"
    >>> speech = np.tile([0.5, -0.5], 800)
    >>> soundfile.write(path, np.append(np.zeros(1600), speech), 16000)
    >>> read_window(path, samples=1000, trim_silence=True)[80:].abs().min()
    tensor(0.5000)
    """
    wav = read_audio(path, samples, trim_silence)
    if not wav.any():
        raise InputError(
            f"{path}: its first {len(wav) / SAMPLE_RATE:.2f} s are digital "
            "silence and the network sees no more; cut them off"
        )
    return wav


@contextlib.contextmanager
def open_audio(path):
    """Opens an audio file, to be read from its beginning on.

    Arguments
    ---------
    path : str or Path
        Any format soundfile reads.

    Yields
    ------
    soundfile.SoundFile

    Raises
    ------
    InputError
        If the file is missing, no audio, or of an impossible sample rate; and
        if what is read within is damaged.

    Example
    -------
    >>> path = getfixture("tmpdir") / "a.wav"
    >>> soundfile.write(path, [0.5, -0.5], 8000)
    >>> with open_audio(path) as file:
    ...     file.samplerate, file.frames
    (8000, 2)
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
        with _Stream(path) as file:
            if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
                raise InputError(
                    f"{path}: a sample rate of {file.samplerate} Hz; expected "
                    f"{LOWEST_RATE} to {HIGHEST_RATE} Hz"
                )
            yield file
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{path}: cannot be read as audio ({error.error_string}); "
            "expected an intact file of a format that soundfile knows, such "
            "as FLAC, WAV, OGG or MP3"
        ) from error


def resampling_factors(rate):
    """By what to multiply and to divide a rate to get 16 kHz.

    Arguments
    ---------
    rate : int
        In Hz.

    Returns
    -------
    up, down : int

    Example
    -------
    >>> resampling_factors(44100)
    (160, 441)
    """
    divisor = math.gcd(rate, SAMPLE_RATE)
    return SAMPLE_RATE // divisor, rate // divisor


def _read_mono(file, samples, trim_silence, path):
    seconds = samples / SAMPLE_RATE
    if file.samplerate != SAMPLE_RATE:
        seconds += MARGIN
    start, stop = 0, file.frames
    if trim_silence:
        blocks = mono_blocks(file, start, stop, path)
        start, stop = speech_bounds(blocks, file.samplerate)
        file.seek(0)
        for _ in mono_blocks(file, 0, start, path):
            pass
    stop = min(stop, start + math.ceil(seconds * file.samplerate))
    blocks = list(mono_blocks(file, start, stop, path))
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)


def empty(path):
    """The refusal of a file without samples.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    InputError
    """
    return InputError(f"{path}: holds no audio; expected at least a sample")


def silent_throughout(path):
    """The refusal of a file of zeros.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    InputError
    """
    return InputError(
        f"{path}: digital silence throughout, all channels together; nothing "
        "to hear"
    )


def mono_blocks(file, start, stop, path):
    """Yields the mean over channels of some frames, a block at a time.

    Arguments
    ---------
    file : soundfile.SoundFile
        It is at the first of them; see ``open_audio``.
    start, stop : int
        Which frames.
    path : str or Path
        For messages.

    Yields
    ------
    numpy.ndarray
        [frames], float32.

    Raises
    ------
    InputError
        If the file ends before, or samples are NaN or infinite.
    """
    while start < stop:
        size = min(stop - start, max(1, _BLOCK // file.channels))
        block = file.read(size, dtype="float32", always_2d=True)
        if len(block) < size and file.frames < NO_LENGTH:
            raise InputError(
                f"{path}: truncated, it ends after {start + len(block)} of "
                f"{file.frames} frames; fetch it again"
            )
        mono = block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise InputError(f"{path}: holds NaN or infinite samples")
        yield mono
        if len(block) < size:
            return
        start += size


def _rest_is_silent(file):
    size = max(1, _BLOCK // file.channels)
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        if block.mean(axis=1).any():
            return False
    return True


class _Stream(soundfile.SoundFile):
    """An audio file that is read from its beginning on.

    Of files that can seek, soundfile seeks after every block to where it is
    already. Behind silence, that distorts the next 30 ms of an MP3.
    """

    def seekable(self):
        """Not needed, so not to be done."""
        return False


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
