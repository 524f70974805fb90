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

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.utils.errors import InputError

#: Rates outside are broken headers; the resampler's filter grows with them.
LOWEST_RATE, HIGHEST_RATE = 1_000, 400_000
#: libsndfile reports at least so many frames where a header states no length,
#: as in a stream. FLAC counts in 36 bits.
NO_LENGTH = 2**36
#: File name endings that are taken of a folder. libsndfile cannot read the last
#: ones: they are taken too, so that they are refused by name, not skipped.
ENDINGS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"),
    *(".aifc", ".au", ".caf", ".w64", ".rf64", ".sph"),
    *(".m4a", ".mp4", ".aac", ".wma", ".amr", ".webm"),
)

# Channels are averaged in blocks of so many values.
_BLOCK = 1 << 18
# What the resampling filter sees beyond a frame at most, in seconds.
_MARGIN = 0.05
# At least so many frames are resampled at once.
_STEP = 1 << 17
# Frames in which silence is looked for, in seconds.
_FRAME, _HOP = 0.025, 0.010
# 40 dB below the loudest frame, as a ratio of powers.
_SILENT = 1e-4
# Rounding gives a constant signal a variance of up to this; the least power of
# 16-bit audio is some 1e-13.
_INAUDIBLE = 1e-20


# -------------------------------------------------------------------- at once
def read_audio(path, num_samples, trim_silence=False):
    """Read the beginning of an audio file as mono at 16 kHz.

    Only what is needed is decoded, so a file of hours costs no more than one
    of seconds, unless silence is trimmed: that takes decoding all of it, a
    block at a time. Other rates are resampled, channels are averaged. Where all
    that was asked for is digital silence, the waveform starts at the first
    sound instead.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads.
    num_samples : int
        Maximum length of the result, at 16 kHz.
    trim_silence : bool
        Leave out the silence before and behind the speech; see
        ``speech_bounds``.

    Returns
    -------
    torch.Tensor
        [time], float32; shorter than ``num_samples`` if the file is.

    Raises
    ------
    InputError
        If the file is missing, not audio, truncated, empty or silent
        throughout, or what was read holds NaN or infinite values.

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
    """So many samples from the first one that is not zero."""
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
    """Open an audio file, to be read from its beginning on.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads.

    Yields
    ------
    soundfile.SoundFile

    Raises
    ------
    InputError
        If the file is missing, not audio, or of an impossible sample rate; and
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
    """An audio file that is read from its beginning on.

    Of files that can seek, soundfile seeks after every block to where it is
    already. Behind silence, that distorts the next 30 ms of an MP3.
    """

    def seekable(self):
        """Not needed, so not to be done."""
        return False


def mono_blocks(file, start, stop, path):
    """Yield the mean over channels of some frames, a block at a time.

    Arguments
    ---------
    file : soundfile.SoundFile
        Positioned at the first of them; see ``open_audio``.
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


def resampling_factors(rate):
    """By what to multiply and to divide a rate in Hz to get 16 kHz.

    Example
    -------
    >>> resampling_factors(44100)
    (160, 441)
    """
    divisor = math.gcd(rate, SAMPLE_RATE)
    return SAMPLE_RATE // divisor, rate // divisor


def empty(path):
    """The error for a file without samples."""
    return InputError(f"{path}: holds no audio; expected at least a sample")


def silent(path):
    """The error for a file of zeros."""
    return InputError(
        f"{path}: digital silence throughout, all channels together; nothing "
        "to hear"
    )


def fit_length(wav, num_samples):
    """Cut a waveform, or repeat it where it is too short.

    Arguments
    ---------
    wav : torch.Tensor
        [time]
    num_samples : int

    Returns
    -------
    torch.Tensor
        [num_samples]

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
    """Yield an audio file as mono at 16 kHz, a block at a time.

    Memory does not depend on the length of the file. The blocks together are
    what ``read_audio`` reads of a file that starts with sound.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads.

    Yields
    ------
    numpy.ndarray
        [time], float32; blocks differ in length.

    Raises
    ------
    InputError
        If the file is missing, not audio, truncated or empty, or holds NaN or
        infinite values; for some faults, when the reading gets there.

    Example
    -------
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
        num_samples = 0
        for block in blocks:
            num_samples += len(block)
            yield block
        if num_samples == 0:
            raise empty(path)


def _resample(blocks, up, down, rate):
    """Blocks at 16 kHz, each resampled with what lies beside it."""
    # Multiples of down, after which a frame falls on a sample again.
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
    """Yield overlapping windows of an audio file, mono at 16 kHz.

    The last window ends where the file ends; it overlaps more than the others.
    Memory does not depend on the length of the file.

    Arguments
    ---------
    path : str or Path
        Any format that soundfile reads.
    num_samples : int
        Length of a window; a shorter file is one window.
    hop : int
        From the start of one to the start of the next, at most ``num_samples``.

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
    >>> path = getfixture("tmpdir") / "a.wav"
    >>> soundfile.write(path, np.arange(7) / 8, 16000, subtype="FLOAT")
    >>> for start, window in read_windows(path, num_samples=4, hop=2):
    ...     print(start, 8 * window)
    0 [0. 1. 2. 3.]
    2 [2. 3. 4. 5.]
    3 [3. 4. 5. 6.]
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
    # The samples behind the last window.
    rest = held[num_samples - hop :]
    if len(rest):
        last = np.concatenate([window, rest])[-num_samples:]
        yield start - hop + len(rest), last


# ------------------------------------------------------------------- the rest
def speech_bounds(blocks, rate):
    """Where a recording's leading silence ends and its trailing one begins.

    The recording is seen in frames of 25 ms, one every 10 ms; the last may be
    shorter, by less than 10 ms. A frame is silent if its power, the variance of
    its samples, is more than 40 dB below that of the loudest frame. Leading and
    trailing silent frames are cut, to within 10 ms; pauses in between stay.
    Nothing is cut of digital silence, whatever its offset, or of less than a
    frame.

    In ASVspoof's corpora, bona fide and spoofed utterances differ in how much
    silence surrounds them, and a countermeasure may learn just that (Müller et
    al., "Speech is Silver, Silence is Golden: What do ASVspoof-trained Models
    Really Learn?", ASVspoof workshop, 2021).

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        The recording in pieces of [time], finite values; they need not fit into
        memory together.
    rate : int
        Samples per second.

    Returns
    -------
    start, stop : int
        The first sample to keep, and one more than the last.

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


def find_audio(paths):
    """List the audio files that paths, folders and patterns stand for.

    Arguments
    ---------
    paths : str, Path or list of str or Path
        Files, as they are; folders, of which all files with an audio file's
        ending are taken, sorted, those in folders within them too; and
        patterns with ``*``, ``?`` or ``**``. What leads nowhere is kept, for
        whoever opens it to report.

    Returns
    -------
    list of str

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.FLAC", "notes.txt"):
    ...     (folder / name).touch()
    >>> [os.path.basename(path) for path in find_audio(folder)]
    ['a.FLAC', 'b.wav']
    >>> [os.path.basename(path) for path in find_audio(folder / "*.txt")]
    ['notes.txt']
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
