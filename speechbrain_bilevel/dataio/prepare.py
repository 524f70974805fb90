"""Make a checked manifest for SpeechBrain from a corpus' data folder."""

import array
import collections
import functools
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from speechbrain_bilevel.dataio import BONAFIDE, NO_ATTACK, SAMPLE_RATE
from speechbrain_bilevel.dataio.audio import open_audio
from speechbrain_bilevel.dataio.corpora import CORPORA, PARQUET
from speechbrain_bilevel.dataio.decoding import empty
from speechbrain_bilevel.dataio.parquet import HUB, file_version, is_parquet
from speechbrain_bilevel.dataio.protocols import read_protocol, recognize
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.files import (
    check_target,
    refuse_overwriting,
    write_atomically,
)

#: The columns of a manifest.
COLUMNS = ("ID", "duration", "wav", "speaker", "attack", "label")

_SHOWN = 5
# Lines of a manifest to write at once.
_LINES = 1 << 14


# ------------------------------------------------------------- find the trials
def find_trials(data_folder, partition="eval", protocol=None):
    """Read a partition's trials from the data folder of any known corpus.

    The protocol in the folder identifies the corpus.

    Arguments
    ---------
    data_folder : str or Path
        A corpus' folder; a list of trials (see ``protocols.read_protocol``)
        whose paths are relative to its own folder; or a folder of parquet
        files, one of them, or ``hf://datasets/USER/NAME`` on the hub.
    partition : str
        "train", "dev", "eval" or another partition of the corpus.
    protocol : str or Path, optional
        A protocol or list instead of the one in the folder; its paths are
        relative to the data folder.

    Returns
    -------
    pandas.DataFrame
        A table of trials (see ``dataio.protocols``). Paths are relative to
        ``audio_root(data_folder)``; a file that is in none of the corpus'
        places gets the usual one.

    Raises
    ------
    InputError
        If there is no such folder, it has the protocols of no or of several
        corpora, the partition is unknown, or the protocol has bad lines.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> lines = "file,speaker,label", "0.wav,Alec Guinness,spoof"
    >>> _ = (folder / "meta.csv").write_text("\\n".join(lines))
    >>> find_trials(folder).speaker[0]
    'Alec_Guinness'
    """
    root = audio_root(data_folder)
    inside = protocol is None
    if inside:
        protocol = find_protocol(data_folder, partition)
    corpus, everything = recognize(protocol), read_protocol(protocol)
    trials = everything[everything.partition == partition]
    if trials.empty:
        counts = everything.partition.value_counts()
        has = ", ".join(f"{part} ({n})" for part, n in counts.items())
        raise InputError(
            f"{protocol}: none of the {len(everything)} trials is of partition "
            f"{partition!r}. Expected one of those that it has, {has}; choose "
            "with --partition"
        )
    trials = trials.reset_index(drop=True)
    if not corpus.is_list:
        return locate_audio(trials, root, corpus)
    if corpus is PARQUET:
        return trials
    # In-the-Wild's list may lie in a folder within the data folder.
    prefix = protocol.parent.relative_to(root) if inside else Path()
    return join_paths(trials, prefix)


def join_paths(trials, folder):
    """Return the trials with ``folder`` in front of every relative path."""
    paths = trials.path
    if str(folder) != ".":
        complete = paths.str.startswith(("/", HUB))
        paths = paths.where(complete, f"{folder}/" + paths)
    return trials.assign(path=paths)


def audio_root(data_folder):
    """Return the folder that the paths of ``find_trials`` are relative to.

    It is ``data_folder``, or the folder of that file if it is a list. (Paths on
    the hub are complete.) Raise an ``InputError`` if there is neither.
    """
    if str(data_folder).startswith(HUB):
        return Path()
    data_folder = Path(data_folder)
    if data_folder.is_dir():
        return data_folder
    if data_folder.is_file():
        return data_folder.parent
    raise InputError(
        f"{data_folder}: does not exist. Expected the folder of a corpus or a "
        "list of trials; check the path"
    )


def find_protocol(data_folder, partition="eval"):
    """Return the path of a partition's protocol in a corpus' folder.

    If ``data_folder`` is a file, it is a list and returned as it is; so is a
    folder of parquet files without a protocol, and one on the hub. Raise an
    ``InputError`` in the cases of ``find_trials``.
    """
    if str(data_folder).startswith(HUB):
        return data_folder
    folder = audio_root(data_folder)
    if folder != Path(data_folder):
        return Path(data_folder)
    found = _protocols_in(folder, partition)
    if not found and is_parquet(folder):
        return folder
    if not found:
        places = {
            corpus.name: dict.fromkeys(sum(corpus.protocols.values(), ()))
            for corpus in CORPORA
        }
        searched = "".join(
            f"\n  {n}: {', '.join(p)}" for n, p in places.items()
        )
        raise InputError(
            f"{folder}: no protocol of a known corpus. Looked for{searched}\n"
            "Give the folder that has one of these, or the protocol or a list "
            "of trials with --protocol FILE"
        )
    if len(found) > 1:
        several = "".join(
            f"\n  {corpus.name}: {next(iter(protocols.values()))}"
            for corpus, protocols in found.items()
        )
        raise InputError(
            f"{folder}: has the protocols of {len(found)} corpora:{several}\n"
            "Expected those of one; choose with --protocol FILE"
        )
    ((corpus, protocols),) = found.items()
    if partition not in protocols:
        raise InputError(
            f"{folder}: has no protocol of partition {partition!r}. Expected "
            f"one of {', '.join(protocols)}, which it has of {corpus.name}; "
            "choose with --partition, or a file with --protocol FILE"
        )
    return protocols[partition]


def _protocols_in(folder, partition):
    """Return the protocols in a folder, by corpus and then by partition."""
    found, errors = {}, {}
    places = dict.fromkeys(
        (part, place)
        for corpus in CORPORA
        for part, places in corpus.protocols.items()
        for place in places
    )
    for part, place in places:
        if not (folder / place).is_file():
            continue
        try:
            corpus = recognize(folder / place)
        except InputError as error:
            errors.setdefault(part, error)
            continue
        # A user's own list may have any name.
        if corpus in CORPORA:
            found.setdefault(corpus, {}).setdefault(part, folder / place)
    # An unreadable protocol only matters if nothing else was found.
    if errors and not any(partition in parts for parts in found.values()):
        raise errors.get(partition) or next(iter(errors.values()))
    return found


def locate_audio(trials, root, corpus):
    """Return the trials with the path of each audio file, relative to ``root``.

    Each file is looked for in all places that the ``corpus``, which must not be
    a list, may have it; a file that is in none of them gets the usual one.
    """
    paths = []
    for part, group in trials.groupby("partition", observed=True).utt:
        places, files = corpus.audio[part], group + ".flac"
        chosen = f"{places[0]}/" + files
        # In reverse, so that the usual place wins; each folder is listed once,
        # because there may be a million files.
        for place in reversed(places) if len(places) > 1 else ():
            names = _list_folder(Path(root) / place)
            here = [file in names for file in files]
            chosen = chosen.mask(here, f"{place}/" + files)
        paths.append(chosen)
    return trials.assign(path=pd.concat(paths))


def _list_folder(folder):
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


# ------------------------------------------------------------- check the audio
def measure_durations(data_folder, paths, any_format=False):
    """Check audio files, on all cores, and return their durations in seconds.

    ``paths`` are relative to ``data_folder``; the result is float64, [n_paths].
    Raise an ``InputError`` if ``check_audio`` finds a fault; all files are
    checked first, and the message counts them by kind of fault.
    """
    durations, n_bad = array.array("d"), 0
    counts, shown = collections.Counter(), {}
    with ProcessPoolExecutor() as pool:
        results = pool.map(
            functools.partial(check_audio, any_format=any_format),
            join_paths(pd.DataFrame({"path": paths}), data_folder).path,
            chunksize=64,
        )
        results = tqdm(
            results, desc="Checking audio", unit="file", total=len(paths)
        )
        # Results first, so that the progress bar reaches its end.
        for (seconds, faults), path in zip(results, paths):
            durations.append(seconds)
            n_bad += bool(faults)
            for kind, detail in faults:
                counts[kind] += 1
                if counts[kind] <= _SHOWN:
                    shown.setdefault(kind, []).append(f"{path} ({detail})")
    if n_bad:
        expected = f"mono FLAC at {SAMPLE_RATE} Hz"
        if any_format:
            expected = "audio of a usual format, intact and with a sound"
        advice = "unpack the corpus again or convert these files"
        if counts["missing"] == len(paths):
            advice = "paths start at that folder; is it the right one?"
        lines = []
        for kind, files in shown.items():
            lines += [f"  {kind}: {counts[kind]}", *(f"    {f}" for f in files)]
            if counts[kind] > _SHOWN:
                lines.append(f"    and {counts[kind] - _SHOWN} more")
        raise InputError(
            f"{n_bad} of {len(paths)} audio files in {data_folder} cannot be "
            "used:\n" + "\n".join(lines) + f"\nExpected {expected}; {advice}"
        )
    return np.frombuffer(durations)


def check_audio(path, any_format=False):
    """Look for faults of an audio file by decoding all of it.

    With ``any_format``, other formats, rates and numbers of channels than mono
    FLAC at 16 kHz are accepted. Return the duration in seconds, 0 if nothing
    can be decoded, and a list of faults, each a kind and a detail.

    Example
    -------
    >>> check_audio("nowhere.flac")
    (0.0, [('missing', 'no such file')])
    """
    if not file_version(path):
        return 0.0, [("missing", "no such file")]
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return 0.0, [("empty", "0 bytes")]
    try:
        with open_audio(path) as audio:
            source = audio.source
            faults = [] if any_format else _format_faults(source)
            sounds = audio.sounds()
            if not source.position:
                raise empty(path)
            if not sounds:
                detail = str(audio.silent()).removeprefix(f"{path}: ")
                faults.append(("silent", detail))
            for note in source.notes:
                kind = "truncated" if "truncated" in note else "damaged"
                faults.append((kind, note))
            return source.position / source.rate, faults
    except InputError as error:
        return 0.0, [("unusable", str(error).removeprefix(f"{path}: "))]


def _format_faults(source):
    if source.format.upper() != "FLAC":
        return [("not FLAC", source.format)]
    faults = []
    if source.rate != SAMPLE_RATE:
        faults.append(("wrong rate", f"{source.rate} Hz"))
    if source.channels != 1:
        faults.append(("not mono", f"{source.channels} channels"))
    return faults


# --------------------------------------------------------- write the manifest
def write_manifest(data_folder, out_csv, partition="eval", protocol=None):
    """Check the audio of a partition and write its manifest.

    Every file is decoded: it must hold a sound, and all that its header states.
    ASVspoof's corpora must be mono FLAC at 16 kHz; In-the-Wild and lists may
    have any format (see ``dataio.decoding``).

    Arguments
    ---------
    data_folder, partition, protocol
        See ``find_trials``.
    out_csv : str or Path
        The manifest, with the columns ``ID,duration,wav,speaker,attack,label``:
        ``duration`` is in seconds, ``wav`` an absolute path.

    Returns
    -------
    str
        A summary in words.

    Raises
    ------
    InputError
        If the folder, the protocol, the partition or any audio file cannot be
        used, or the manifest cannot be written. Nothing is then written.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> import soundfile
    >>> soundfile.write(folder / "call.wav", [0.1, -0.1] * 4000, 8000)
    >>> _ = (folder / "mine.csv").write_text("path,label\\ncall.wav,fake\\n")
    >>> write_manifest(folder / "mine.csv", folder / "manifest.csv")
    'list: 0 bona fide, 1 spoof, 1 attack, 0.000278 hours'
    """
    chosen = protocol or find_protocol(data_folder, partition)
    out_csv = Path(out_csv)
    check_target(out_csv)
    refuse_overwriting([out_csv], [chosen])
    corpus = recognize(chosen)
    trials = find_trials(data_folder, partition, protocol)
    root = os.path.realpath(audio_root(data_folder))
    if "$" in root or not root.isprintable():
        raise InputError(
            f"{root}: has a $ or a character that cannot be printed. Expected "
            "a folder whose path can stand in a CSV file in which SpeechBrain "
            "replaces $words; rename or link it"
        )
    # A file that several trials share is checked once.
    paths = trials.path.drop_duplicates()
    seconds = measure_durations(root, paths, any_format=corpus.is_list)
    durations = trials.path.map(dict(zip(paths, seconds)))
    lines = manifest_lines(join_paths(trials, root), durations)
    write_atomically(out_csv.parent, {out_csv.name: lines})
    n_bonafide = (trials.label == BONAFIDE).sum()
    n_attacks = len(set(trials.attack.unique()) - {NO_ATTACK})
    return (
        f"{corpus.name}: {n_bonafide} bona fide, {len(trials) - n_bonafide} "
        f"spoof, {n_attacks} attack{'s' if n_attacks != 1 else ''}, "
        f"{durations.sum() / 3600:.3g} hours"
    )


def manifest_lines(trials, durations):
    """Yield the text of a manifest, many lines at a time.

    ``trials`` is a table of trials, ``path`` as it is to be written, and
    ``durations`` are in seconds, [n_trials].
    """
    names = {"utt": "ID", "path": "wav"}
    table = trials.rename(columns=names).assign(duration=durations)
    for start in range(0, len(table), _LINES):
        part = table.iloc[start : start + _LINES]
        yield part.to_csv(
            columns=COLUMNS, header=start == 0, index=False, lineterminator="\n"
        )
