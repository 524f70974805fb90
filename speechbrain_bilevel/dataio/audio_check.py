"""Finding audio files that cannot be used, without decoding them."""

import array
import collections
import functools
import itertools
import os

import numpy as np
import soundfile
from speechbrain.utils.parallel import parallel_map

from speechbrain_bilevel.dataio.audio import (
    HIGHEST_RATE,
    LOWEST_RATE,
    NO_LENGTH,
    SAMPLE_RATE,
)
from speechbrain_bilevel.errors import InputError

_SHOWN = 5


def measure_durations(data_folder, paths, n_paths, any_format=False):
    """Checks audio files, on all cores, and tells how long they are.

    Arguments
    ---------
    data_folder : str or Path
        What the paths are relative to.
    paths : iterable of str
        Mono FLAC files at 16 kHz, taken while others are checked.
    n_paths : int
        How many they are, for the progress bar.
    any_format : bool
        If True, any format, rate and number of channels will do.

    Returns
    -------
    numpy.ndarray
        Seconds of each file in their order, float64, shape [n_paths].

    Raises
    ------
    InputError
        If any file has a fault (see ``check_audio``); every file is checked
        before any is refused, and the message counts them by fault.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.flac", [0.0] * 8000, SAMPLE_RATE)
    >>> measure_durations(folder, ["a.flac"], n_paths=1)
    array([0.5])
    """
    paths, named = itertools.tee(paths)
    results = parallel_map(
        functools.partial(check_audio, any_format=any_format),
        (os.path.join(data_folder, path) for path in paths),
        chunk_size=64,
        progress_bar_kwargs={
            "desc": "Checking audio",
            "unit": "file",
            "total": n_paths,
        },
    )
    durations, n_bad = array.array("d"), 0
    counts, shown = collections.Counter(), {}
    # In this order, so that the progress bar comes to its end.
    for (seconds, found), path in zip(results, named):
        durations.append(seconds)
        n_bad += bool(found)
        for kind, detail in found:
            counts[kind] += 1
            if counts[kind] <= _SHOWN:
                shown.setdefault(kind, []).append(f"{path} ({detail})")
    if n_bad:
        expected = f"mono FLAC at {SAMPLE_RATE} Hz"
        if any_format:
            expected = "a format that soundfile reads, such as FLAC or WAV"
        advice = "unpack the corpus again or convert these files"
        if counts["missing"] == n_paths:
            advice = "paths start at that folder; is it the right one?"
        raise InputError(
            f"{n_bad} of {n_paths} audio files in {data_folder} cannot be "
            f"used:\n{_list_faults(counts, shown)}\nExpected {expected}; "
            f"{advice}"
        )
    return np.frombuffer(durations)


def _list_faults(counts, shown):
    lines = []
    for kind, files in shown.items():
        lines.append(f"  {kind}: {counts[kind]}")
        lines += [f"    {file}" for file in files]
        if counts[kind] > _SHOWN:
            lines.append(f"    and {counts[kind] - _SHOWN} more")
    return "\n".join(lines)


def check_audio(path, any_format=False):
    """Looks for faults of an audio file that show without decoding it.

    Arguments
    ---------
    path : str
        The file.
    any_format : bool
        If True, other than mono FLAC at 16 kHz is no fault.

    Returns
    -------
    seconds : float
        Duration as the header states it, 0 if it is unreadable.
    faults : list of (str, str)
        Kind and detail of each fault; empty for a file that can be used.

    Example
    -------
    >>> check_audio("nowhere.flac")
    (0.0, [('missing', 'no such file')])
    """
    try:
        if os.path.getsize(path) == 0:
            return 0.0, [("empty", "0 bytes")]
        if os.path.splitext(path)[1].lower() == ".raw":
            return 0.0, [("unreadable", "raw samples, without rate and length")]
        with soundfile.SoundFile(path) as audio:
            faults = (
                _find_rate_faults(audio)
                if any_format
                else _find_format_faults(audio)
            )
            # Of other formats libsndfile reports what is left of a truncated
            # file as its length, so that its end tells nothing.
            if audio.format == "FLAC":
                faults += _find_length_faults(audio)
            elif any_format and not _can_read(audio, 0):
                faults.append(("empty", "no sample can be read"))
            return audio.frames / audio.samplerate, faults
    except FileNotFoundError:
        return 0.0, [("missing", "no such file")]
    except OSError as error:
        return 0.0, [("unreadable", error.strerror)]
    except soundfile.LibsndfileError as error:
        return 0.0, [("unreadable", error.error_string)]


def _find_format_faults(audio):
    if audio.format != "FLAC":
        return [("not FLAC", audio.format)]
    faults = []
    if audio.samplerate != SAMPLE_RATE:
        faults.append(("wrong rate", f"{audio.samplerate} Hz"))
    if audio.channels != 1:
        faults.append(("not mono", f"{audio.channels} channels"))
    return faults


def _find_rate_faults(audio):
    if LOWEST_RATE <= audio.samplerate <= HIGHEST_RATE:
        return []
    detail = f"{audio.samplerate} Hz, not {LOWEST_RATE} to {HIGHEST_RATE}"
    return [("wrong rate", detail)]


def _find_length_faults(audio):
    if not 0 < audio.frames < NO_LENGTH:
        if _can_read(audio, 0):
            return [("truncated", "no length in the header")]
        return [("empty", "0 samples")]
    if not _can_read(audio, audio.frames - 1):
        return [("truncated", "the last sample cannot be read")]
    return []


def _can_read(audio, frame):
    """Whether one sample can be read; of FLAC, that checks its block's CRC."""
    try:
        audio.seek(frame)
        return len(audio.read(1, dtype="int16")) == 1
    except soundfile.LibsndfileError:
        return False
