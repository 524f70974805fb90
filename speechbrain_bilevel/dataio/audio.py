"""Any audio file as a mono 16 kHz waveform, at once or as a stream."""

import contextlib
import glob
import logging
import math
import os
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from speechbrain_bilevel.dataio import ENDINGS, SAMPLE_RATE
from speechbrain_bilevel.dataio.decoding import empty, open_source
from speechbrain_bilevel.utils.errors import InputError, listed, printable

logger = logging.getLogger(__name__)

#: The power (relative to full scale, an offset removed) from which a frame of
#: 25 ms holds a sound: -80 dB. Dither, the smallest noise of 16-bit audio, has
#: -96 to -93 dB (Lipshitz et al., "Quantization and dither", JAES 40, 1992);
#: ITU-R BS.1770 takes all below some -70 dB for silence.
AUDIBLE = 1e-8
#: The largest sample; decoders overshoot full scale, 1, by a few dB.
LOUDEST = 10.0
#: Silence of more seconds at an end of what is heard is cut off.
PAUSE = 1.0
# Frames are sounds if so many of their nearest ones are: 0.1 of 0.225 s.
_SUSTAINED, _NEAREST = 4, 9
# So many samples, five frames, tell most often whether there is a sound.
_GLANCE = 2000
# Channels differ if their mix has lost this share of their power, and cancel
# each other if it has kept less than this one, divided by their number.
_DIFFERENT, _CANCELLED = 0.01, 0.01
# Channels are averaged in blocks of this many values.
_BLOCK = 1 << 18
# The longest reach of the resampling filter to either side, in seconds.
_MARGIN = 0.05
# At least this many frames are resampled at once.
_STEP = 1 << 17
# Channels that are heard one by one.
_MANY = 64
# Length and distance of the frames in which speech is looked for, in seconds.
_FRAME, _HOP = 0.025, 0.010
# 40 dB below the loudest frame, as a ratio of powers.
_SILENT = 1e-4


class Heard(NamedTuple):
    """What is heard of an audio file.

    ``wav`` is mono at 16 kHz, [time], ``start`` where it begins in the file, in
    seconds, and ``notes`` sentences on what a listener should know.
    """

    wav: np.ndarray
    start: float
    notes: list


def hear(path, num_samples, trim_silence=False, channel=None):
    """Read the beginning of an audio file as mono at 16 kHz.

    Only the part that is needed is decoded. Where more than ``PAUSE`` is silent
    before the first sound, the waveform starts at that sound; so much silence
    behind the last sound is cut. ``trim_silence`` decodes the complete file.

    Arguments
    ---------
    path : str or Path
        Any usual format: see ``dataio.decoding``.
    num_samples : int
        Maximum length of the result, in samples at 16 kHz.
    trim_silence : bool
        Cut the silence before and after the speech; see ``speech_bounds``.
    channel : int, optional
        Hear this one, from 1 on; by default the mean of all.

    Returns
    -------
    Heard
        The waveform is shorter than ``num_samples`` if the file is.

    Raises
    ------
    InputError
        If the file is missing, not audio, empty, without any sound, or too
        loud, or the part that was read holds NaN or infinite values.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmpdir") / "stereo.wav"
    >>> soundfile.write(path, np.random.rand(8000, 2), 8000)
    >>> heard = hear(path, num_samples=64600)
    >>> heard.wav.shape, heard.notes[0][:19]
    ((16000,), 'its channels differ')
    """
    start, stop, notes = 0, math.inf, []
    if trim_silence:
        with open_audio(path, channel) as audio:
            start, stop = speech_bounds(audio.blocks(), SAMPLE_RATE)
            notes = audio.notes
    with open_audio(path, channel) as audio:
        blocks = _part(audio.blocks(num_samples), start, stop)
        wav, skipped = from_first_sound(blocks, num_samples, audio)
    start = (start + skipped) / SAMPLE_RATE
    notes = notes or audio.notes
    if skipped:
        notes.append(f"is heard from {start:.1f} s on, silent before")
    return Heard(wav, start, notes)


def read_audio(path, num_samples, trim_silence=False):
    """Return the waveform of ``hear`` as a tensor, [time], float32."""
    import torch

    return torch.from_numpy(hear(path, num_samples, trim_silence).wav)


def _part(blocks, start, stop):
    """Cut blocks to what is from ``start`` to ``stop``."""
    position = 0
    for block in blocks:
        begin = position
        position += len(block)
        if position > start:
            yield block[
                max(0, start - begin) : max(0, min(stop, position) - begin)
            ]
        if position >= stop:
            return


def from_first_sound(blocks, num_samples, audio):
    """Return what ``hear`` hears of an ``Audio``'s blocks, [time], and how many
    samples before it were skipped."""
    wav, skipped = _more(None, blocks, num_samples), 0
    if not len(wav):
        raise empty(audio.path)
    pause = max(1, min(round(PAUSE * SAMPLE_RATE), num_samples // 2))
    begin = wav[:pause]
    if not _has_sound(begin[-_GLANCE:]) and sound_span(begin) is None:
        while (span := sound_span(wav)) is None:
            # A sound may begin at the end.
            kept = wav[-_NEAREST * round(_FRAME * SAMPLE_RATE) :]
            skipped += len(wav) - len(kept)
            wav = _more(kept, blocks, len(kept) + 1)
            if len(wav) == len(kept):
                raise audio.silent()
        skipped += span[0]
        wav = _more(wav[span[0] :], blocks, num_samples)
    wav = wav[:num_samples]
    end = wav[-pause:]
    if not _has_sound(end[:_GLANCE]) and sound_span(end) is None:
        span = sound_span(wav)
        wav = wav[: span[1]] if span else wav
    if audio.cancelled:
        raise audio.silent()
    return wav, skipped


def _more(wav, blocks, count):
    """Append blocks until there are ``count`` samples, or no more."""
    while wav is None or len(wav) < count:
        block = next(blocks, None)
        if block is None:
            break
        wav = block if wav is None else np.concatenate([wav, block])
    return np.empty(0, np.float32) if wav is None else wav


def fit_length(wav, num_samples):
    """Cut or repeat a waveform, [time], to exactly ``num_samples`` samples.

    It is an array or a tensor.

    Example
    -------
    >>> fit_length(np.array([1, 2]), 5)
    array([1, 2, 1, 2, 1])
    """
    if len(wav) < num_samples:
        times = -(-num_samples // len(wav))
        is_array = isinstance(wav, np.ndarray)
        wav = np.tile(wav, times) if is_array else wav.repeat(times)
    return wav[:num_samples]


# ------------------------------------------------------------------ as a stream
def channel_numbers(path, channels):
    """Return the numbers of the channels of a file to hear one by one, a list.

    ``channels`` is "mix", for which the list is [None], "each" or a number.
    """
    if channels == "mix":
        return [None]
    if channels == "each":
        with open_source(path) as source:
            if source.channels > _MANY:
                raise InputError(
                    f"{path}: has {source.channels} channels; expected at most "
                    f"{_MANY} to be heard one by one"
                )
            return list(range(1, source.channels + 1))
    if not isinstance(channels, int):
        raise InputError(
            f'channels "{channels}": expected mix, each or a number'
        )
    return [channels]


@contextlib.contextmanager
def open_audio(path, channel=None):
    """Open a file as ``Audio``; see ``hear`` for arguments and errors."""
    with open_source(path) as source:
        if channel is not None and not 1 <= channel <= source.channels:
            raise InputError(
                f"{path}: has no channel {channel}; expected one of 1 to "
                f"{source.channels}"
            )
        yield Audio(path, source, channel)


class Audio:
    """An open audio file, as a mono stream.

    Memory does not depend on the length of the file. See ``hear`` for arguments
    and errors, some of which only come during the reading.
    """

    def __init__(self, path, source, channel=None):
        self.path, self.source, self.channel = path, source, channel
        # Their variances, summed: of the mean of all channels, and the mean of
        # those of each.
        self._mixed = self._separate = 0.0

    @property
    def notes(self):
        """Sentences on what a listener should know of what was read."""
        notes = list(self.source.notes)
        if self._mix_keeps_less_than(1 - _DIFFERENT):
            notes.append(
                f"its channels differ ({self.source.channels}), and their mix "
                "was heard; --channels each hears them one by one"
            )
        return notes

    def blocks(self, first=0):
        """Yield float32 blocks at 16 kHz, each [time].

        The first one has, if the file does, ``first`` samples, or a few more.
        """
        rate = self.source.rate
        up, down = resampling_factors(rate)
        if up == down:
            return self.unresampled(first)
        # In multiples of down frames, a frame coincides with a sample again.
        margin = down * math.ceil(_MARGIN * rate / down)
        step = down * math.ceil(
            max(4 * margin, first * rate / SAMPLE_RATE) / down
        )
        blocks = self.unresampled(step + margin)
        return _resample(blocks, up, down, step, margin)

    def unresampled(self, first=0):
        """Yield blocks as ``blocks``, but at the file's own rate."""
        largest = max(1, _BLOCK // self.source.channels)
        left = first or largest
        while True:
            size = min(left or largest, largest)
            left = max(0, left - size)
            block = self.source.read(size)
            if len(block):
                yield self._mono(block)
            if len(block) < size:
                return

    def _mono(self, block):
        channels = block.shape[1]
        if channels == 1 or self.channel:
            mono = block[:, (self.channel or 1) - 1]
        else:
            # Ten times as fast as block.mean(axis=1).
            mono = block @ np.full(channels, 1 / channels, np.float32)
        peak = max(mono.max(), -mono.min())
        if not math.isfinite(peak):
            raise InputError(f"{self.path}: holds NaN or infinite samples")
        if peak > LOUDEST:
            raise InputError(
                f"{self.path}: its samples reach {peak:.6g}; expected -1 to 1, "
                "as for all floating-point audio: divide them by the largest "
                "possible one, e.g. 32768"
            )
        if channels > 1 and not self.channel:
            count = len(block)
            sums = np.ones(count, np.float32) @ block
            self._mixed += np.vdot(mono, mono) - sums.mean() ** 2 / count
            squares = np.vdot(block, block) - np.vdot(sums, sums) / count
            self._separate += squares / channels
        return mono

    @property
    def cancelled(self):
        """Whether the channels cancel each other in what was read."""
        return self._mix_keeps_less_than(_CANCELLED / self.source.channels)

    def silent(self):
        """Return the error for a file without any sound in what was read."""
        if self.cancelled:
            return InputError(
                f"{self.path}: its channels cancel each other, and nothing is "
                "left of their mix; hear one of them, with --channels 1"
            )
        return InputError(
            f"{self.path}: nothing to hear: no sound above "
            f"{10 * math.log10(AUDIBLE):.0f} dB for 0.1 s"
        )

    def sounds(self):
        """Decode all of it, and return whether it holds a sound."""
        rate, heard, end = self.source.rate, False, np.empty(0, np.float32)
        for block in self.unresampled():
            if not heard:
                end = np.concatenate([end, block])
                heard = sound_span(end, rate) is not None
                end = end[-_NEAREST * round(_FRAME * rate) :]
        return heard and not self.cancelled

    def _mix_keeps_less_than(self, share):
        heard = self._separate > AUDIBLE * self.source.position
        return heard and self._mixed < share * self._separate


def resampling_factors(rate):
    """Return (up, down), with which ``rate * up / down`` is 16 kHz.

    Example
    -------
    >>> resampling_factors(44100)
    (160, 441)
    """
    divisor = math.gcd(rate, SAMPLE_RATE)
    return SAMPLE_RATE // divisor, rate // divisor


def _resample(blocks, up, down, step, margin):
    """Yield blocks at 16 kHz, each resampled together with its neighbors.

    The first one is of ``step`` frames; ``margin`` are resampled with each on
    either side. Both are multiples of ``down``.
    """
    # It takes as long to import as torch.
    from scipy.signal import resample_poly

    pending, before = np.empty(0, dtype=np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= before + step + margin:
            part = pending[: before + step + margin]
            wav = resample_poly(part, up, down)
            first, last = before * up // down, (before + step) * up // down
            yield wav[first:last]
            pending, before = pending[before + step - margin :], margin
            step = max(down * math.ceil(_STEP / down), 4 * margin)
    if len(pending) > before:
        wav = resample_poly(pending, up, down)
        yield wav[before * up // down :]


def read_windows(audio, num_samples, hop):
    """Yield (start, window) for overlapping windows of an open ``Audio``.

    ``start`` is in samples at 16 kHz; ``window`` is float32, [num_samples].
    Windows start ``hop`` <= ``num_samples`` samples apart, but the last one
    ends with the file. A shorter file is one window.
    """
    held, start, window = np.empty(0, dtype=np.float32), 0, None
    for block in audio.blocks(num_samples):
        held = np.concatenate([held, block])
        while len(held) >= num_samples:
            window = held[:num_samples]
            yield start, window
            held, start = held[hop:], start + hop
    if window is None:
        if not len(held):
            raise empty(audio.path)
        yield 0, held
        return
    # The samples after the last window.
    rest = held[num_samples - hop :]
    if len(rest):
        last = np.concatenate([window, rest])[-num_samples:]
        yield start - hop + len(rest), last


# --------------------------------------------------------------------- silence
def sound_span(wav, rate=SAMPLE_RATE):
    """Return where the first sound begins and the last one ends, in samples.

    None, if there is none: a frame of 25 ms is a sound if its power is at least
    ``AUDIBLE`` and that of enough of its neighbors, so that no click is one.

    Example
    -------
    >>> speech = np.tile([0.1, -0.1], 8000)
    >>> sound_span(np.concatenate([np.zeros(16000), speech]))
    (16000, 32000)
    >>> sound_span(speech / 10_000) is None
    True
    """
    size = round(_FRAME * rate)
    if len(wav) < size:
        # Too short to tell an offset from a sound.
        sounds = np.flatnonzero(wav)
        return (int(sounds[0]), int(sounds[-1]) + 1) if len(sounds) else None
    count = len(wav) // size
    powers = wav[: count * size].reshape(count, size).var(axis=1)
    audible = powers >= AUDIBLE
    near = np.convolve(audible, np.ones(_NEAREST))[_NEAREST // 2 :][:count]
    sounds = np.flatnonzero(
        audible & (near >= min(_SUSTAINED, (count + 1) // 2))
    )
    if not len(sounds):
        return None
    start, stop = int(sounds[0]) * size, int(sounds[-1] + 1) * size
    return start, len(wav) if stop == count * size else stop


def _has_sound(wav):
    """Whether ``sound_span`` finds a sound in a few frames, but faster."""
    if len(wav) < _GLANCE:
        return sound_span(wav) is not None
    frames = wav[:_GLANCE].reshape(_NEAREST // 2 + 1, -1)
    frames = frames - frames.mean()
    size = frames.shape[1]
    powers = np.einsum("ij,ij->i", frames, frames) / size
    powers -= (frames.sum(axis=1) / size) ** 2
    return np.count_nonzero(powers >= AUDIBLE) >= _SUSTAINED


def audible_part(wav):
    """Return (start, stop) of a waveform without long silence at its ends.

    What is silent for more than ``PAUSE`` is cut. None, if all of it is silent.
    """
    span = sound_span(wav)
    if span is None:
        return None
    pause = PAUSE * SAMPLE_RATE
    start, stop = span
    return (
        start if start > pause else 0,
        stop if len(wav) - stop > pause else len(wav),
    )


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
    if powers.max() < AUDIBLE:
        return 0, samples
    first, last = np.flatnonzero(powers >= _SILENT * powers.max())[[0, -1]]
    start = 0 if first == 0 else (first - 1) * hop + frame
    stop = samples if last == len(powers) - 1 else (last + 1) * hop
    return int(start), int(stop)


def find_audio(paths):
    """List the audio files that paths, folders and patterns stand for.

    A folder stands for all audio in it and below, linked folders included,
    sorted. A file without one of ``ENDINGS`` is audio if it can be opened as
    such; what is passed over is logged. Hidden files are left out. Patterns
    have ``*``, ``?`` or ``**``. A path that does not exist is kept, so that
    whoever opens it reports it.
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
    found, others, seen = [], [], set()
    # What may not be read is reported by whoever opens it.
    walk = os.walk(
        folder,
        onerror=lambda error: found.append(error.filename),
        followlinks=True,
    )
    for parent, folders, names in walk:
        # A link may lead back to where it is.
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(folders)
        names = [] if real in seen else names
        seen.add(real)
        for name in names:
            path = os.path.join(parent, name)
            if name.startswith("."):
                continue
            known = os.path.splitext(name)[1].lower() in ENDINGS
            (found if known or _is_audio(path) else others).append(path)
    if others:
        logger.warning(
            f"{printable(folder)}: not audio, and not heard: "
            f"{listed(sorted(others))}"
        )
    return sorted(found)


def _is_audio(path):
    try:
        with open_source(path):
            return True
    except InputError:
        return os.path.isfile(path) and not os.access(path, os.R_OK)
