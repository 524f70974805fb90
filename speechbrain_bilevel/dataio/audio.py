"""Read any audio file as a mono 16 kHz waveform, at once or as a stream."""

import contextlib
import glob
import itertools
import math
import os
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import torch
from numpy.lib.stride_tricks import sliding_window_view

from speechbrain_bilevel.dataio import (
    HIGHEST_RATE,
    LOWEST_RATE,
    NO_LENGTH,
    SAMPLE_RATE,
)
from speechbrain_bilevel.utils.errors import InputError

#: Endings of the files to take from a folder. libsndfile cannot read those in
#: the last line; they are taken too, so that an error names them.
ENDINGS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"),
    *(".aifc", ".au", ".caf", ".w64", ".rf64", ".sph"),
    *(".m4a", ".mp4", ".aac", ".wma", ".amr", ".webm"),
)

# Channels are averaged in blocks of this many values.
_BLOCK = 1 << 18
# The longest reach of the resampling filter to either side, in seconds.
_MARGIN = 0.05
# At least this many frames are resampled at once.
_STEP = 1 << 17
# Length and distance of the frames that are tested for silence, in seconds.
_FRAME, _HOP = 0.025, 0.010
# 40 dB below the loudest frame, as a ratio of powers.
_SILENT = 1e-4
# Rounding gives a constant signal a variance of up to this; the least power of
# 16-bit audio is some 1e-13.
_INAUDIBLE = 1e-20


# -------------------------------------------------------------------- at once
def read_audio(path, num_samples, trim_silence=False):
    """Read the beginning of an audio file as mono at 16 kHz.

    Channels are averaged, other rates resampled. Only the part that is needed
    is decoded; if that is digital silence, the waveform starts at the first
    sound instead. ``trim_silence`` decodes the complete file, block by block.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads.
    num_samples : int
        Maximum length of the result, in samples at 16 kHz.
    trim_silence : bool
        Cut the silence before and after the speech; see ``speech_bounds``.

    Returns
    -------
    torch.Tensor
        [time], float32; shorter than ``num_samples`` if the file is.

    Raises
    ------
    InputError
        If the file is missing, not audio, truncated, empty or all silent, or
        the part that was read holds NaN or infinite values.

    Example
    -------
    >>> path = getfixture("tmpdir") / "stereo.wav"
    >>> soundfile.write(path, np.random.rand(8000, 2), 8000)
    >>> read_audio(path, num_samples=64600).shape
    torch.Size([16000])
    """
    with open_audio(path) as file:
        wav = _read_mono(file, num_samples, trim_silence, path)
        rate = file.samplerate
    if rate != SAMPLE_RATE:
        wav = scipy.signal.resample_poly(wav, *resampling_factors(rate))
    return torch.from_numpy(wav[:num_samples].astype(np.float32))


def _read_mono(file, num_samples, trim_silence, path):
    count = math.ceil(num_samples / SAMPLE_RATE * file.samplerate)
    margin = 0
    if file.samplerate != SAMPLE_RATE:
        margin = math.ceil(_MARGIN * file.samplerate)
    start, end = 0, file.frames
    if trim_silence:
        blocks = mono_blocks(file, start, end, path)
        start, end = speech_bounds(blocks, file.samplerate)
        file.seek(0)
        for _ in mono_blocks(file, 0, start, path):
            pass
    stop = min(end, start + count + margin)
    wav = _join(mono_blocks(file, start, stop, path))
    if len(wav) == 0:
        raise empty(path)
    if not wav[:count].any():
        rest = mono_blocks(file, stop, end, path)
        wav = _first_sound(itertools.chain([wav], rest), count + margin)
        if len(wav) == 0:
            raise silent(path)
    return wav


def _first_sound(blocks, count):
    """Return up to ``count`` samples, from the first one that is not zero."""
    heard, length = [], 0
    for block in blocks:
        if not heard:
            sounds = np.flatnonzero(block)
            block = block[sounds[0] :] if len(sounds) else block[:0]
        if len(block):
            heard.append(block)
            length += len(block)
        if length >= count:
            break
    return _join(heard)[:count]


def _join(blocks):
    return np.concatenate([np.empty(0, dtype=np.float32), *blocks])


@contextlib.contextmanager
def open_audio(path):
    """Open an audio file as a ``soundfile.SoundFile``, to be read forward only.

    Raise an ``InputError`` if the file is missing, not audio or has an
    impossible sample rate, or if reading in the context finds it damaged.
    """
    path = Path(path)
    # Unlike Path's methods, these never raise, e.g. on a name too long.
    if not os.path.isfile(path):
        kind = "is a folder" if os.path.isdir(path) else "does not exist"
        raise InputError(f"{path}: {kind}; expected an audio file")
    if path.suffix.lower() == ".raw":
        raise InputError(
            f"{path}: raw samples state neither rate nor channels; expected a "
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


class _Stream(soundfile.SoundFile):
    """An audio file that is only read forward.

    In a file that can seek, soundfile seeks to the current position after each
    block. After silence, that distorts the next 30 ms of an MP3.
    """

    def seekable(self):
        """Return False, so that soundfile does not seek."""
        return False


def mono_blocks(file, start, stop, path):
    """Yield the mean over channels of the frames from ``start`` to ``stop``.

    ``file`` must be positioned at ``start``. The blocks are float32, [frames].
    Raise an ``InputError`` with ``path`` in its message if the file ends early
    or holds NaN or infinite samples.
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


def resampling_factors(rate):
    """Return (up, down), with which ``rate * up / down`` is 16 kHz.

    Example
    -------
    >>> resampling_factors(44100)
    (160, 441)
    """
    divisor = math.gcd(rate, SAMPLE_RATE)
    return SAMPLE_RATE // divisor, rate // divisor


def empty(path):
    """Return the error for a file without samples."""
    return InputError(f"{path}: holds no audio; expected at least a sample")


def silent(path):
    """Return the error for a file of zeros."""
    return InputError(
        f"{path}: digital silence throughout, all channels together; nothing "
        "to hear"
    )


def fit_length(wav, num_samples):
    """Cut or repeat a waveform, [time], to exactly ``num_samples`` samples.

    Example
    -------
    >>> fit_length(torch.tensor([1, 2]), 5)
    tensor([1, 2, 1, 2, 1])
    """
    if len(wav) < num_samples:
        wav = wav.repeat(-(-num_samples // len(wav)))
    return wav[:num_samples]


# ------------------------------------------------------------------ as a stream
def read_blocks(path):
    """Yield an audio file as mono float32 blocks at 16 kHz, each [time].

    Memory does not depend on the length of the file. The joined blocks equal
    what ``read_audio`` reads from a file that starts with sound. Raise its
    errors, except the one for silence, some of them only during the reading.
    """
    with open_audio(path) as file:
        blocks = mono_blocks(file, 0, file.frames, path)
        up, down = resampling_factors(file.samplerate)
        if up != down:
            blocks = _resample(blocks, up, down, file.samplerate)
        num_samples = 0
        for block in blocks:
            num_samples += len(block)
            yield block
        if num_samples == 0:
            raise empty(path)


def _resample(blocks, up, down, rate):
    """Yield blocks at 16 kHz, each resampled together with its neighbors."""
    # In multiples of down frames, a frame coincides with a sample again.
    margin = down * math.ceil(_MARGIN * rate / down)
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


def read_windows(path, num_samples, hop):
    """Yield (start, window) for overlapping windows of a file, mono at 16 kHz.

    ``start`` is in samples; ``window`` is float32, [num_samples]. Windows start
    ``hop`` <= ``num_samples`` samples apart, but the last one ends with the
    file. A shorter file is one window. See ``read_blocks`` for errors.
    """
    held, start, window = np.empty(0, dtype=np.float32), 0, None
    for block in read_blocks(path):
        held = np.concatenate([held, block])
        while len(held) >= num_samples:
            window = held[:num_samples]
            yield start, window
            held, start = held[hop:], start + hop
    if window is None:
        yield 0, held
        return
    # The samples after the last window.
    rest = held[num_samples - hop :]
    if len(rest):
        last = np.concatenate([window, rest])[-num_samples:]
        yield start - hop + len(rest), last


# ------------------------------------------------------------------- the rest
def speech_bounds(blocks, rate):
    """Return the first sample of the speech, and one more than its last.

    A frame lasts 25 ms, the last one up to 10 ms less; one starts every 10 ms.
    It is silent if its power, the variance of its samples, is more than 40 dB
    below that of the loudest frame. Silent frames at both ends are cut, to
    within 10 ms; pauses stay. Recordings of less than a frame, or of digital
    silence with or without an offset, are not cut.

    In ASVspoof's corpora the silence around bona fide and spoofed utterances
    differs in length, and a countermeasure may learn just that (Müller et al.,
    "Speech is Silver, Silence is Golden: What do ASVspoof-trained Models Really
    Learn?", ASVspoof workshop, 2021).

    ``blocks`` are successive pieces of the recording, each [time]; ``rate`` is
    in Hz.

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
    # The last full frame ends frame - hop samples into the rest.
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


def find_audio(paths):
    """List the audio files that paths, folders and patterns stand for.

    A folder stands for all files in it and below that have one of ``ENDINGS``,
    sorted. Patterns have ``*``, ``?`` or ``**``. A path that does not exist is
    kept, so that whoever opens it reports it.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found = []
    for path in map(os.fspath, paths):
        matches = [path]
        if not os.path.exists(path):
            matches = sorted(glob.glob(path, recursive=True)) or [path]
        for match in matches:
            inside = _audio_in(match) if os.path.isdir(match) else []
            found += inside or [match]
    return found


def _audio_in(folder):
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in ENDINGS
        and not name.startswith(".")
    )
