"""Decode audio files: FLAC and WAV by soundfile, all others by PyAV (FFmpeg).

What can be decoded is read, and its length is what was decoded: headers only
say what to expect.
"""

import contextlib
import functools
import io
import itertools
import os
import re

import av
import numpy as np
import soundfile

from speechbrain_bilevel.dataio import HIGHEST_RATE, LOWEST_RATE, NO_LENGTH
from speechbrain_bilevel.utils.errors import InputError

#: The demuxers that PyAV may use: those of recordings. FFmpeg's playlists and
#: lists of files, which open other files and addresses, are not among them.
DEMUXERS = (
    *("aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dts"),
    *("eac3", "f4v", "flac", "flv", "ircam", "loas", "matroska", "webm"),
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mp3", "mpeg", "mpegts"),
    *("nistsphere", "nut", "ogg", "rm", "sox", "tak", "tta", "voc", "w64"),
    *("wav", "wv", "xwma"),
)
# The name of a row of a parquet file; see ``dataio.parquet``.
_ROW = re.compile(r"(.+\.parquet)#(\d{1,15})", re.DOTALL)
# Those whose headers state how long the audio is. Others' durations are
# FFmpeg's estimate, or only that of their first part.
_STATING = {
    *("aiff", "asf", "au", "flac", "matroska", "mov", "nistsphere"),
    *("w64", "wav"),
}
# How soundfile's files begin.
_SOUNDFILE = (b"fLaC", b"RIFF", b"RIFX", b"RF64", b"riff")
# Coded in one of these, under whatever name, PyAV reads them.
_CODED = (
    *("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"),
    *("GSM610", "VORBIS", "OPUS"),
)
# Sizes in WAVs from here on mean that their end was not known yet.
_UNKNOWN = 0x7F00_0000
# In libsndfile's log: the file has fewer bytes than its header states.
_SIZES = re.compile(r"^(?:data|riff) *: (\d+) \(should be (\d+)\)", re.M)
# The same: what follows after the last part of it.
_REST = re.compile(r"^\*\*\* Unknown chunk marker .* at position (\d+)", re.M)
# An MP3's first frame, if it states their number: sync and version, side
# information, flags, number.
_XING = re.compile(
    rb"\xff[\xe2-\xff].{11,34}?(?:Xing|Info)...[\x01\x03\x05\x07-\x0f](.{4})",
    re.S,
)
# So many bytes are searched for it: there may be a picture before it.
_HEAD = 2**20
# Frames to skip at once.
_STEP = 1 << 16
# What codecs may add at the end: seconds, or samples, if these take longer.
_PADDING, _PADDED = 0.1, 2048


def split_row(path):
    """Return the file and the row that a path names; the row may be None.

    Example
    -------
    >>> split_row("data/test.parquet#7")
    ('data/test.parquet', 7)
    >>> split_row("call.wav")
    ('call.wav', None)
    """
    path = os.fspath(path)
    found = isinstance(path, str) and _ROW.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, None)


def open_binary(path):
    """Open a file, or the audio of a row, for reading bytes.

    Raise an ``InputError`` if the row, or audio in it, cannot be read.
    """
    file, row = split_row(path)
    if row is None:
        return open(path, "rb")
    # It takes a second to import what reads parquet.
    from speechbrain_bilevel.dataio.parquet import row_audio

    return io.BytesIO(row_audio(file, row))


class Source:
    """An audio file that is read forward.

    ``format`` is its name, ``rate`` in Hz; ``stated`` is the length that the
    header states, in seconds, or None. ``notes`` are sentences on what was not
    as expected so far.
    """

    def __init__(self, path, format, rate, channels, stated):
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise InputError(
                f"{path}: a sample rate of {rate} Hz; expected {LOWEST_RATE} "
                f"to {HIGHEST_RATE} Hz"
            )
        self.format, self.rate, self.channels = format, rate, channels
        self.stated, self.position = stated, 0

    def read(self, count):
        """Return the next frames, float32, [at most count, channels].

        Fewer are the last ones.
        """
        block = self._read(count)
        self.position += len(block)
        if len(block) < count and self.stated is not None:
            self._compare(self.position / self.rate)
        return block

    def _compare(self, seconds):
        more = seconds - self.stated
        if more > self.tolerance:
            self.tell(
                f"holds {seconds:.2f} s, more than its header states, "
                f"{self.stated:.2f} s"
            )
        elif more < -self.tolerance:
            self.tell(
                f"is truncated: holds {seconds:.2f} s, its header states "
                f"{self.stated:.2f} s"
            )

    def _tell_rest(self, size):
        if size > 1000:
            self.tell(
                f"has {size} more bytes after the end that its header states, "
                "which were not heard"
            )

    def tell(self, note):
        """Add a note, once."""
        if note not in self.notes:
            self.notes.append(note)


class SoundFileSource(Source):
    """FLAC or WAV. ``open_other`` opens it with FFmpeg, if it is damaged."""

    tolerance = 0.01

    def __init__(self, path, file, open_other=None):
        self.notes, self.file, self.rest = [], file, None
        self.open_other, frames, rate = open_other, file.frames, file.samplerate
        stated = frames / rate if frames < NO_LENGTH else None
        super().__init__(path, file.format, rate, file.channels, stated)
        if file.format == "FLAC":
            return
        log = file.extra_info
        sizes, rest = _SIZES.search(log), _REST.search(log)
        if sizes and int(sizes[1]) < _UNKNOWN:
            self.stated *= int(sizes[1]) / max(1, int(sizes[2]))
            self._compare(frames / rate)
        if rest:
            self._tell_rest(_size(path) - int(rest[1]))

    def _read(self, count):
        if self.rest is None:
            try:
                return self.file.read(count, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                if self.open_other is None:
                    raise
            # FFmpeg leaves out what is damaged, and goes on.
            self.rest = self.open_other()
            self.rest.notes = self.notes
            for start in range(0, self.position, _STEP):
                self.rest.read(min(_STEP, self.position - start))
        return self.rest._read(count)


class ArraySource(Source):
    """A mono waveform, [time], instead of a file; ``path`` names it."""

    tolerance = 0.0

    def __init__(self, path, wav, rate):
        self.notes, self.frames = [], np.asarray(wav, np.float32)[:, None]
        super().__init__(path, "array", rate, 1, None)

    def _read(self, count):
        return self.frames[self.position : self.position + count]


class FfmpegSource(Source):
    """The first audio stream of any other file."""

    def __init__(self, path, container, head):
        self.container, self.notes = container, []
        names = container.format.name.split(",")
        streams = container.streams.audio
        if not streams or streams[0].codec_context is None:
            what = "no audio" if not streams else "audio of an unknown codec"
            raise InputError(f"{path}: holds {what}")
        self.stream, frames = streams[0], self._frames()
        first = next(frames, None)
        if first is None:
            raise empty(path)
        self.like, rate = first, first.sample_rate
        self.tolerance = max(_PADDING, _PADDED / max(1, rate))
        stated, end = None, self._duration("asf" not in names)
        if _STATING.intersection(names):
            stated = end
        elif "mp3" in names:
            stated, self.tolerance = _stated_by_xing(head, rate), 0.5
        channels = first.layout.nb_channels
        super().__init__(path, names[0], rate, channels, stated)
        blocks = self._blocks(itertools.chain([first], frames))
        # Ogg's last page has the end of that part of a file.
        if end and (stated == end or "ogg" in names):
            blocks = self._without_padding(blocks, round(end * rate))
        self.blocks = blocks
        # WAV and AIFF state the length of all, if they were finished.
        order = {b"RIFF": "little", b"FORM": "big"}.get(head[:4])
        size = int.from_bytes(head[4:8], order) + 8 if order else 0
        if 1000 < size < _UNKNOWN:
            self._tell_rest(_size(path) - size)
        self.pending = np.empty((0, channels), np.float32)

    def _duration(self, of_stream):
        container, stream = self.container, self.stream
        if of_stream and stream.duration is not None:
            return float(stream.duration * stream.time_base)
        # The container's is that of its longest stream, and counts from 0.
        late = abs(container.start_time or 0) > _PADDING * av.time_base
        if late or len(container.streams) > 1 or not container.duration:
            return None
        return container.duration / av.time_base

    def _frames(self):
        damaged = 0
        try:
            for packet in self.container.demux(self.stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    damaged += 1
                    continue
                # The last one may be filled up.
                if frames and damaged:
                    self.tell("parts of it could not be decoded")
                yield from frames
        except av.FFmpegError as error:
            self.tell(f"damaged ({error.strerror})")

    def _blocks(self, frames):
        """Yield arrays, [frames, channels], like the first frame's.

        Parts that were joined may have other rates and numbers of channels.
        """
        resampler = kind = None
        own = "fltp", self.like.layout.name, self.rate
        for frame in itertools.chain(frames, [None]):
            last, kind = kind, frame and _kind(frame)
            if kind != last:
                if resampler:
                    yield from map(self._array, resampler.resample(None))
                resampler = None
                if kind and kind != own:
                    resampler = av.AudioResampler(
                        "flt", self.like.layout, self.rate
                    )
            if resampler:
                yield from map(self._array, resampler.resample(frame))
            elif frame:
                yield frame.to_ndarray().T

    def _array(self, frame):
        return frame.to_ndarray().reshape(-1, self.channels)

    def _without_padding(self, blocks, left):
        """Leave out what a codec's last block has after ``left`` frames."""
        padding = []
        for block in blocks:
            yield block[: max(0, left)]
            if len(block) > left:
                padding.append(block[max(0, left) :])
            left -= len(block)
            if -left > self.tolerance * self.rate:
                yield from padding
                yield from blocks

    def _read(self, count):
        found, length = [self.pending], len(self.pending)
        while length < count:
            block = next(self.blocks, None)
            if block is None:
                break
            found.append(block)
            length += len(block)
        whole = np.concatenate(found)
        self.pending = whole[count:]
        return whole[:count]


def _kind(frame):
    return frame.format.name, frame.layout.name, frame.sample_rate


def _stated_by_xing(head, rate):
    """Return the seconds that an MP3's first frame states, or None."""
    found = _XING.search(head)
    if found is None:
        return None
    # MPEG 1 has rates from 32 kHz on, and frames twice as long.
    return int.from_bytes(found[1]) * (1152 if rate >= 32000 else 576) / rate


@contextlib.contextmanager
def open_source(path):
    """Open an audio file, or a row of a parquet file, as a ``Source``.

    Raise an ``InputError`` if the file is missing, not audio or has an
    impossible sample rate.
    """
    # Unlike Path's methods, these never raise, e.g. on a name too long.
    if split_row(path)[1] is None and not os.path.isfile(path):
        kind = "is no file, but a device or a pipe"
        if os.path.isdir(path):
            kind = "is a folder"
            if not os.access(path, os.R_OK | os.X_OK):
                kind += " that may not be read"
        elif not os.path.exists(path):
            kind = "does not exist"
        raise InputError(f"{path}: {kind}; expected an audio file")
    if os.path.splitext(path)[1].lower() == ".raw":
        raise InputError(
            f"{path}: raw samples state neither rate nor channels; expected a "
            "format with a header, such as FLAC, WAV, M4A or MP3"
        )
    with contextlib.ExitStack() as stack, _naming(path):
        yield _open(path, stack)


@contextlib.contextmanager
def _naming(path):
    """Raise an ``InputError`` for those of the libraries."""
    try:
        yield
    except (
        soundfile.LibsndfileError,
        av.FFmpegError,
        PermissionError,
    ) as error:
        reason = getattr(error, "error_string", None) or error.strerror
        raise InputError(
            f"{path}: cannot be read as audio ({reason}); expected an intact "
            "file of a usual format, such as FLAC, WAV, M4A, OGG or MP3"
        ) from error


def _open(path, stack):
    open_other = functools.partial(_open_with_ffmpeg, path, stack)
    if _is_flac_or_wav(path):
        with contextlib.suppress(soundfile.LibsndfileError):
            opened = stack.enter_context(_SoundFile(path))
            # A WAV whose header was never finished has no frames.
            if opened.subtype not in _CODED and opened.frames:
                return SoundFileSource(path, opened, open_other)
    try:
        return open_other()
    except av.FFmpegError as error:
        # There are formats that only libsndfile knows.
        with contextlib.suppress(soundfile.LibsndfileError):
            opened = stack.enter_context(_SoundFile(path))
            # That is a guess by the name.
            if opened.format != "RAW":
                return SoundFileSource(path, opened)
        raise error


def _is_flac_or_wav(path):
    # Opening a file twice takes a while.
    if os.path.splitext(path)[1].lower() in (".flac", ".wav"):
        return True
    with open_binary(path) as file:
        return file.read(4) in _SOUNDFILE


def _size(path):
    with open_binary(path) as file:
        return file.seek(0, os.SEEK_END)


def _open_with_ffmpeg(path, stack):
    file = stack.enter_context(open_binary(path))
    head = file.read(_HEAD)
    if not head:
        raise empty(path)
    file.seek(0)
    options = {"format_whitelist": ",".join(DEMUXERS)}
    container = av.open(
        file, metadata_errors="ignore", container_options=options
    )
    return FfmpegSource(path, stack.enter_context(container), head)


class _SoundFile(soundfile.SoundFile):
    """An audio file that is only read forward."""

    def __init__(self, path):
        # Names need not be UTF-8.
        is_file = split_row(path)[1] is None
        super().__init__(os.fsencode(path) if is_file else open_binary(path))

    def seekable(self):
        """Return False: soundfile would seek to where it is after each part,
        which formats such as G.721 cannot."""
        return False


def empty(path):
    """Return the error for a file without samples."""
    return InputError(
        f"{path}: no audio can be decoded; is it empty, truncated or something "
        "else?"
    )
