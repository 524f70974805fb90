"""Make a checked manifest for SpeechBrain from a corpus' data folder."""

import array
import collections
import functools
import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader
from tqdm import tqdm

from speechbrain_bilevel.dataio import (
    BONAFIDE,
    ENDINGS,
    NO_ATTACK,
    SAMPLE_RATE,
    SPOOF,
)
from speechbrain_bilevel.dataio.audio import open_audio
from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA,
    AUDIOFOLDER,
    CORPORA,
    FOLDERS,
    KALDI,
    LIST,
    PARQUET,
    is_nearly_official,
)
from speechbrain_bilevel.dataio.decoding import empty, split_row
from speechbrain_bilevel.dataio.folders import (
    read_bonafide_folder,
    read_folders,
    read_kaldi,
)
from speechbrain_bilevel.dataio.parquet import (
    HUB,
    file_version,
    is_parquet,
)
from speechbrain_bilevel.dataio.protocols import (
    DTYPES,
    read_protocol,
    recognize,
)
from speechbrain_bilevel.utils.errors import InputError, listed
from speechbrain_bilevel.utils.files import (
    check_target,
    write_atomically,
)

#: The columns of a manifest.
COLUMNS = ("ID", "duration", "wav", "speaker", "attack", "label")

_SHOWN = 5
# Files that a process checks at a time.
_FILES = 16
# Lines of a manifest to write at once.
_LINES = 1 << 14


# ------------------------------------------------------------- find the trials
def find_trials(data_folder, partition=None, protocol=None, **options):
    """Read a partition's trials from the data folder of any known corpus.

    The protocol in the folder identifies the corpus; without one, the names of
    folders may say what is in them, see ``folders.read_folders``.

    Arguments
    ---------
    data_folder : str or Path
        A corpus' folder; a list of trials (see ``protocols.read_protocol``)
        whose paths are relative to its own folder; or a folder of parquet
        files, one of them, or ``hf://datasets/USER/NAME`` on the hub.
    partition : str, optional
        "train", "dev", "eval" or another partition of the corpus, or "all" of
        a protocol; by default "eval", or the only one that there is.
    protocol : str or Path, optional
        A protocol or list instead of the one in the folder; its paths are
        relative to its own folder or to the data folder.
    columns, bonafide, need_labels, keep
        See ``protocols.read_protocol``.
    bonafide_folder : str or Path, optional
        Audio of bona fide speech, to add to the trials of a corpus that has
        spoofs only.

    Returns
    -------
    pandas.DataFrame
        A table of trials (see ``dataio.protocols``). Paths are relative to
        ``audio_root(data_folder)``, or absolute; a file that is in none of the
        corpus' places gets the usual one.

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
    return find(data_folder, partition, protocol, **options)[0]


def find(
    data_folder,
    partition=None,
    protocol=None,
    columns=None,
    bonafide="",
    bonafide_folder=None,
    need_labels=True,
    keep=(),
):
    """Find trials like ``find_trials``; return them and their ``Corpus``."""
    root, inside = audio_root(data_folder), protocol is None
    reading = dict(columns=columns, bonafide=bonafide, need_labels=need_labels)
    reading["keep"] = keep
    on_hub = str(data_folder).startswith(HUB)
    if inside and (on_hub or Path(data_folder).is_file()):
        protocol = data_folder
    if protocol is not None:
        protocols = {None: [protocol if on_hub else Path(protocol)]}
        is_kaldi = os.path.isfile(Path(protocol, "wav.scp"))
        corpus = KALDI if is_kaldi else LIST if columns else None
        corpus = corpus or recognize(protocol, need_labels)
    else:
        corpus, protocols = _protocols_of(root, partition)
    if corpus is KALDI:
        (folder,) = protocols[None] if protocols else [root]
        trials = read_kaldi(folder, bonafide, need_labels)
        own = Path(os.path.relpath(folder, root)).as_posix()
        trials = _locate(trials, root, corpus, (own, "."))
        protocols = {None: [folder / "wav.scp"]}
    elif corpus is FOLDERS:
        only_spoofs = bonafide_folder is not None
        trials, protocols = read_folders(root, only_spoofs), {None: [root]}
        if trials.empty:
            raise _no_protocol(root)
    else:
        parts = [
            _read(path, part, root, corpus, inside, reading)
            for part, paths in protocols.items()
            for path in paths
        ]
        trials = pd.concat(parts, ignore_index=True).astype(DTYPES)
    source = next(iter(protocols.values()))[0]
    _refuse_contradictions(trials, source)
    trials = _of_partition(trials, partition, source)
    if bonafide_folder is not None:
        if (trials.label == BONAFIDE).any():
            raise InputError(
                f"{source}: has bona fide trials of its own, so that "
                "--bonafide-folder is not needed; leave it out"
            )
        more = read_bonafide_folder(bonafide_folder, trials.partition[0])
        trials = pd.concat([trials, more], ignore_index=True).astype(DTYPES)
    return trials, corpus


def _read(path, partition, root, corpus, inside, reading):
    """Read a protocol, and find the audio of its trials."""
    trials = read_protocol(path, partition=partition, **reading)
    if corpus is PARQUET:
        return trials
    own = Path(os.path.relpath(path.parent, root)).as_posix()
    return _locate(trials, root, corpus, (own, ".") if inside else (".", own))


def _refuse_contradictions(trials, source):
    """Raise an ``InputError`` if a file is there with two labels."""
    again = trials[trials.path.duplicated(keep=False)]
    labels = again.groupby("path").label.nunique()
    if twice := labels.index[labels > 1].tolist():
        raise InputError(
            f"{source}: files that are both bona fide and spoof: "
            f"{listed(twice)}. Expected one label; find out which is right"
        )


def _of_partition(trials, partition, source):
    """Return the trials of a partition, by default of eval or the only one."""
    counts = trials.partition.value_counts()
    counts = counts[counts > 0]
    is_only = partition is None and "eval" not in counts and len(counts) == 1
    if is_only or partition == "all":
        return trials
    partition = partition or "eval"
    trials = trials[trials.partition == partition]
    if trials.empty:
        has = ", ".join(f"{part} ({n})" for part, n in counts.items())
        raise InputError(
            f"{source}: none of the {counts.sum()} trials is of partition "
            f"{partition!r}. Expected one of those that it has, {has}; choose "
            "with --partition"
        )
    return trials.reset_index(drop=True)


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


def _protocols_of(folder, partition):
    """Return the corpus of a folder, and its protocols by partition."""
    found = _protocols_in(folder, partition)
    if not found and is_parquet(folder):
        return PARQUET, {None: [folder]}
    if not found:
        is_kaldi = (folder / "wav.scp").is_file()
        return (KALDI if is_kaldi else FOLDERS), {}
    if len(found) > 1:
        several = "".join(
            f"\n  {corpus.name}: {next(iter(protocols.values()))[0]}"
            for corpus, protocols in found.items()
        )
        raise InputError(
            f"{folder}: has the protocols of {len(found)} corpora:{several}\n"
            "Expected those of one; choose with --protocol FILE"
        )
    ((corpus, protocols),) = found.items()
    wanted = partition or ("eval" if "eval" in protocols else None)
    if wanted is None and len(protocols) == 1:
        return corpus, protocols
    if wanted in protocols:
        return corpus, {wanted: protocols[wanted]}
    if corpus is AUDIOFOLDER:
        # Its list may have a column of partitions.
        return corpus, protocols
    raise InputError(
        f"{folder}: has no protocol of partition {wanted or 'eval'!r}. "
        f"Expected one of {', '.join(protocols)}, which it has of "
        f"{corpus.name}; choose with --partition, or a file with --protocol "
        "FILE"
    )


def _no_protocol(folder):
    places = {
        corpus.name: next(iter(corpus.protocols.values()))[0]
        for corpus in CORPORA
    }
    searched = "".join(f"\n  {name}: {place}" for name, place in places.items())
    return InputError(
        f"{folder}: no protocol of a known corpus, and no audio. Looked for "
        f"such as{searched}\nGive the folder that has one of these, or the "
        "protocol or a list of trials with --protocol FILE"
    )


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
        paths = [folder / place]
        if "*" in place:
            paths = sorted(folder.glob(place))
        if not paths or not paths[0].is_file():
            continue
        try:
            corpus = recognize(paths[0])
        except InputError as error:
            errors.setdefault(part, error)
            continue
        # A user's own list may have any name.
        if corpus in CORPORA and place in corpus.protocols.get(part, ()):
            found.setdefault(corpus, {}).setdefault(part, paths)
    # An unreadable protocol only matters if nothing else was found.
    if errors and not any(
        (partition or "eval") in parts for parts in found.values()
    ):
        raise errors.get(partition) or next(iter(errors.values()))
    return found


def _locate(trials, root, corpus, folders):
    """Find the audio of trials where the corpus has it, or in ``folders``."""
    if corpus.official:
        return locate_audio(trials, root, corpus.audio, by_name=True)
    places = {}
    for part in trials.partition.unique():
        usual = corpus.audio.get(part, ())
        first, *rest = folders
        # A list says where a file is, names alone do not.
        ordered = (first, *usual) if corpus.is_list else (*usual, first)
        places[part] = (*ordered, *rest)
    return locate_audio(trials, root, places)


def locate_audio(trials, root, places, by_name=False):
    """Return the trials with the path of each audio file, relative to ``root``.

    Arguments
    ---------
    trials : pandas.DataFrame
        A table of trials; absolute paths stay as they are.
    root : str or Path
        The data folder.
    places : dict of str to tuple of str
        Folders in it where the audio of each partition may be. The first that
        has a file of that name, or of that name with the ending of an audio
        file, counts; a file that is in none of them gets the first place.
    by_name : bool
        Whether to look for the name of the trial instead of its path.
    """
    listings = {}

    def find_file(folder, name):
        if folder not in listings:
            listings[folder] = _audio_by_name(os.path.join(root, folder))
        return listings[folder].get(name)

    def locate(path, part):
        if path.startswith(("/", HUB)):
            return path
        file, row = split_row(path)
        head, name = os.path.split(file)
        for place in places[part]:
            folder = os.path.normpath(os.path.join(place, head))
            if found := find_file(folder, name):
                found = found if folder == "." else f"{folder}/{found}"
                return found if row is None else f"{found}#{row}"
        usual = os.path.normpath(os.path.join(places[part][0], path))
        has_ending = row is not None or usual.lower().endswith(ENDINGS)
        return usual if has_ending else f"{usual}.flac"

    names = trials.utt if by_name else trials.path
    found = [locate(*row) for row in zip(names, trials.partition)]
    return trials.assign(path=pd.Series(found, trials.index, dtype="str"))


def _audio_by_name(folder):
    """Return the files of a folder by their names with and without ending."""
    try:
        files = sorted(os.listdir(folder), reverse=True)
    except OSError:
        return {}
    # FLAC and WAV first, if a name is there twice.
    files.sort(key=lambda file: file.endswith((".flac", ".wav")))
    audio = [file for file in files if file.lower().endswith(ENDINGS)]
    by_stem = {os.path.splitext(file)[0]: file for file in audio}
    # A folder, or a text, may have the name of a trial without ending.
    return {f: f for f in files} | by_stem | {f: f for f in audio}


# ------------------------------------------------------------- check the audio
def measure_durations(data_folder, paths, any_format=False):
    """Check audio files, on all cores, and return their durations in seconds.

    ``paths`` are relative to ``data_folder``; the result is float64, [n_paths].
    Raise an ``InputError`` if ``check_audio`` finds a fault; all files are
    checked first, and the message counts them by kind of fault.
    """
    durations, n_bad = array.array("d"), 0
    counts, shown = collections.Counter(), {}
    files = join_paths(pd.DataFrame({"path": paths}), data_folder).path.array
    # Its workers end when this process is killed; those of an executor do not.
    results = DataLoader(
        [files[n : n + _FILES] for n in range(0, len(files), _FILES)],
        batch_size=None,
        num_workers=os.cpu_count(),
        collate_fn=functools.partial(_check_all, any_format=any_format),
    )
    results = tqdm(
        itertools.chain.from_iterable(results),
        desc="Checking audio",
        unit="file",
        total=len(paths),
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


def _check_all(files, any_format):
    return [check_audio(file, any_format) for file in files]


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
def write_manifest(
    data_folder, out_csv, partition=None, protocol=None, **options
):
    """Check the audio of a partition and write its manifest.

    Every file is decoded: it must hold a sound, and all that its header states.
    ASVspoof's corpora must be mono FLAC at 16 kHz; others, and those that are
    only laid out like ASVspoof2019, may have any format (see
    ``dataio.decoding``).

    Arguments
    ---------
    data_folder, partition, protocol, options
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
    out_csv = Path(out_csv)
    check_target(out_csv)
    trials, corpus = find(data_folder, partition, protocol, **options)
    root = os.path.realpath(audio_root(data_folder))
    if "$" in root or not root.isprintable():
        raise InputError(
            f"{root}: has a $ or a character that cannot be printed. Expected "
            "a folder whose path can stand in a CSV file in which SpeechBrain "
            "replaces $words; rename or link it"
        )
    # A file that several trials share is checked once.
    paths = trials.path.drop_duplicates()
    seconds = measure_durations(root, paths, not _is_strict(corpus, trials))
    durations = trials.path.map(dict(zip(paths, seconds)))
    lines = manifest_lines(join_paths(trials, root), durations)
    # Another run may have been faster.
    check_target(out_csv)
    write_atomically(out_csv.parent, {out_csv.name: lines})
    counts = trials.label.value_counts()
    n_attacks = len(set(trials.attack.unique()) - {NO_ATTACK})
    return (
        f"{corpus.name}: {counts.get(BONAFIDE, 0)} bona fide, "
        f"{counts.get(SPOOF, 0)} spoof, {n_attacks} "
        f"attack{'s' if n_attacks != 1 else ''}, "
        f"{durations.sum() / 3600:.3g} hours"
    )


def _is_strict(corpus, trials):
    """Whether audio has to be what ASVspoof ships."""
    if corpus is not ASVSPOOF2019_LA:
        return corpus.official
    return is_nearly_official(trials.partition[0], len(trials))


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
