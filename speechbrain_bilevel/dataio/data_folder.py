"""Finding the protocol and the audio of a corpus in its data folder."""

import os
from pathlib import Path

from speechbrain_bilevel.dataio.corpora import CORPORA
from speechbrain_bilevel.dataio.protocols import read_protocol, recognise
from speechbrain_bilevel.errors import InputError


def find_trials(data_folder, partition="eval", protocol=None):
    """Reads a partition's trials from the data folder of any known corpus.

    Which corpus it is shows by the protocol that is in the folder. Audio is
    looked for where the corpus may have it; a file that is nowhere gets the
    usual place as its path.

    Arguments
    ---------
    data_folder : str or Path
        A corpus' folder; or a list of trials (see ``lists.read_list``), whose
        paths are relative to its own folder.
    partition : str
        "train", "dev", "eval" or whatever partitions the corpus has.
    protocol : str or Path
        If given, this protocol or list instead of the one in the folder; all
        its paths are relative to the data folder.

    Returns
    -------
    TrialTable
        In the order of the protocol, paths relative to the data folder (to the
        list's folder if a list was given for it).

    Raises
    ------
    InputError
        There is no such folder, no protocol of a known corpus in it or those of
        several, no such partition, or the protocol has bad lines.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> lines = "file,speaker,label", "0.wav,Alec Guinness,spoof"
    >>> _ = (folder / "meta.csv").write_text("\\n".join(lines))
    >>> find_trials(folder)[0].speaker
    'Alec_Guinness'
    """
    root = audio_root(data_folder)
    inside = protocol is None
    if inside:
        protocol = find_protocol(data_folder, partition)
    corpus = recognise(protocol)
    everything = read_protocol(protocol)
    codes, partitions = everything.column("partition")
    if partition not in partitions:
        raise InputError(_describe_partitions(protocol, partition, everything))
    trials = everything.take(codes == partitions.index(partition))
    if not corpus.is_list:
        return locate_audio(trials, root, corpus)
    # In-the-Wild's list may lie in a folder within the data folder.
    prefix = protocol.parent.relative_to(root) if inside else Path()
    return trials.with_paths(str(prefix / p) for p in trials.texts("path"))


def audio_root(data_folder):
    """What the paths that ``find_trials`` returns are relative to.

    Arguments
    ---------
    data_folder : str or Path
        A corpus' folder or a list.

    Returns
    -------
    Path
        The folder; of a list, the one it is in.

    Raises
    ------
    InputError
        There is neither.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "list.csv").touch()
    >>> audio_root(folder / "list.csv") == audio_root(folder) == folder
    True
    """
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
    """Finds the protocol that a corpus' folder has of a partition.

    Arguments
    ---------
    data_folder : str or Path
        A corpus' folder; a file is taken for a list and returned as it is.
    partition : str
        Which partition.

    Returns
    -------
    Path
        The protocol.

    Raises
    ------
    InputError
        There is no such folder, no protocol of a known corpus in it or those of
        several, or no such partition.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "meta.csv").write_text("file,speaker,label\\n")
    >>> find_protocol(folder).name
    'meta.csv'
    """
    folder = audio_root(data_folder)
    if folder != Path(data_folder):
        return Path(data_folder)
    found = _find_protocols(folder, partition)
    if not found:
        raise InputError(_describe_search(folder))
    if len(found) > 1:
        listed = "".join(
            f"\n  {corpus.name}: {next(iter(protocols.values()))}"
            for corpus, protocols in found.items()
        )
        raise InputError(
            f"{folder}: has the protocols of {len(found)} corpora:{listed}\n"
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


def _find_protocols(folder, partition):
    """The protocols in a folder, by corpus and then by partition."""
    found, refusals = {}, {}
    for part, place in _protocol_places():
        if (folder / place).is_file():
            try:
                corpus = recognise(folder / place)
            except InputError as refusal:
                refusals.setdefault(part, refusal)
                continue
            # A list of somebody's own may have any name.
            if corpus in CORPORA:
                found.setdefault(corpus, {}).setdefault(part, folder / place)
    # What cannot be read does not matter beside what was looked for.
    if refusals and not any(partition in parts for parts in found.values()):
        raise refusals.get(partition) or next(iter(refusals.values()))
    return found


def _protocol_places():
    """Every partition and place of the protocols of all corpora."""
    return dict.fromkeys(
        (part, place)
        for corpus in CORPORA
        for part, places in corpus.protocols.items()
        for place in places
    )


def _describe_search(folder):
    looked_for = {}
    for corpus in CORPORA:
        places = dict.fromkeys(sum(corpus.protocols.values(), ()))
        looked_for[corpus.name] = ", ".join(places)
    listed = "".join(f"\n  {name}: {x}" for name, x in looked_for.items())
    return (
        f"{folder}: no protocol of a known corpus. Looked for{listed}\nGive "
        "the folder that has one of these, or the protocol or a list of "
        "trials with --protocol FILE"
    )


def _describe_partitions(protocol, partition, trials):
    counts = trials.counts("partition")
    has = ", ".join(f"{part} ({n})" for part, n in counts.items())
    return (
        f"{protocol}: none of the {len(trials)} trials is of partition "
        f"{partition!r}. Expected one of those that it has, {has}; choose with "
        "--partition"
    )


def locate_audio(trials, root, corpus):
    """Finds which of the places where a corpus may have audio has each file.

    Arguments
    ---------
    trials : TrialTable
        Of a corpus whose protocol is no list.
    root : str or Path
        The data folder.
    corpus : Corpus
        Which corpus.

    Returns
    -------
    TrialTable
        With the path of the file, relative to the data folder; of a file that
        is nowhere, the usual place.

    Example
    -------
    >>> from speechbrain_bilevel.dataio.corpora import ASVSPOOF5
    >>> from speechbrain_bilevel.dataio.trial_table import TrialTable
    >>> from speechbrain_bilevel.dataio.trials import Trial
    >>> root = getfixture("tmp_path")
    >>> (root / "flac_E").mkdir()
    >>> (root / "flac_E" / "E_1.flac").touch()
    >>> trial = Trial("E_1", "flac_E_eval/E_1.flac", *"xyz", "eval")
    >>> locate_audio(TrialTable([trial]), root, ASVSPOOF5)[0].path
    'flac_E/E_1.flac'
    """
    root, places = Path(root), corpus.audio
    # One listing of each folder, because there may be a million files.
    names = {
        place: _list_files(root / place)
        for part in trials.counts("partition")
        for place in places[part]
        if len(places[part]) > 1
    }

    def place(trial):
        name = f"{trial.utt}.flac"
        having = (
            p for p in places[trial.partition] if name in names.get(p, ())
        )
        return f"{next(having, places[trial.partition][0])}/{name}"

    return trials.with_paths(map(place, trials))


def _list_files(folder):
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
