"""Finding audio files that cannot be used, without decoding them."""

import os

import soundfile
from speechbrain.utils.parallel import parallel_map

from speechbrain_bilevel.dataio.audio import SAMPLE_RATE
from speechbrain_bilevel.errors import InputError

# FLAC counts samples in 36 bits; libsndfile reports more than that where the
# header states no length.
_FLAC_MAX_FRAMES = 2**36
_SHOWN = 5


def measure_durations(data_folder, paths):
    """Checks audio files, on all cores, and tells how long they are.

    Arguments
    ---------
    data_folder : str or Path
        What the paths are relative to.
    paths : list of str
        Mono FLAC files at 16 kHz.

    Returns
    -------
    dict of str to float
        Seconds of each path.

    Raises
    ------
    InputError
        If any file has a fault (see ``check_audio``); every file is checked
        before any is refused, and the message counts them by fault.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.flac", [0.0] * 8000, SAMPLE_RATE)
    >>> measure_durations(folder, ["a.flac"])
    {'a.flac': 0.5}
    """
    results = parallel_map(
        check_audio,
        [os.path.join(data_folder, path) for path in paths],
        chunk_size=64,
        progress_bar_kwargs={"desc": "Checking audio", "unit": "file"},
    )
    durations, faults, n_bad = {}, {}, 0
    for path, (n_frames, found) in zip(paths, results):
        durations[path] = n_frames / SAMPLE_RATE
        n_bad += bool(found)
        for kind, detail in found:
            faults.setdefault(kind, []).append(f"{path} ({detail})")
    if faults:
        raise InputError(
            f"{n_bad} of {len(paths)} audio files in {data_folder} cannot be "
            f"used:\n{_list_faults(faults)}\nExpected mono FLAC at "
            f"{SAMPLE_RATE} Hz; unpack the corpus again or convert these files"
        )
    return durations


def _list_faults(faults):
    lines = []
    for kind, files in faults.items():
        lines.append(f"  {kind}: {len(files)}")
        lines += [f"    {file}" for file in files[:_SHOWN]]
        if len(files) > _SHOWN:
            lines.append(f"    and {len(files) - _SHOWN} more")
    return "\n".join(lines)


def check_audio(path):
    """Looks for faults of an audio file that show without decoding it.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    n_frames : int
        Samples per channel as the header states them, 0 if it is unreadable.
    faults : list of (str, str)
        Kind and detail of each fault; empty for a file that can be used.

    Example
    -------
    >>> check_audio("nowhere.flac")
    (0, [('missing', 'no such file')])
    """
    try:
        if os.path.getsize(path) == 0:
            return 0, [("empty", "0 bytes")]
        with soundfile.SoundFile(path) as audio:
            return audio.frames, _find_faults(audio)
    except FileNotFoundError:
        return 0, [("missing", "no such file")]
    except OSError as error:
        return 0, [("unreadable", error.strerror)]
    except soundfile.LibsndfileError as error:
        return 0, [("unreadable", error.error_string)]


def _find_faults(audio):
    # Of another format, such as WAV, libsndfile reports what is left of a
    # truncated file as its length, so that nothing would show.
    if audio.format != "FLAC":
        return [("not FLAC", audio.format)]
    faults = []
    if audio.samplerate != SAMPLE_RATE:
        faults.append(("wrong rate", f"{audio.samplerate} Hz"))
    if audio.channels != 1:
        faults.append(("not mono", f"{audio.channels} channels"))
    if not 0 < audio.frames < _FLAC_MAX_FRAMES:
        if _can_read(audio, 0):
            faults.append(("truncated", "no length in the header"))
        else:
            faults.append(("empty", "0 samples"))
    elif not _can_read(audio, audio.frames - 1):
        faults.append(("truncated", "the last sample cannot be read"))
    return faults


def _can_read(audio, frame):
    """Whether one sample can be read; of FLAC, that checks its block's CRC."""
    try:
        audio.seek(frame)
        return len(audio.read(1, dtype="int16")) == 1
    except soundfile.LibsndfileError:
        return False
