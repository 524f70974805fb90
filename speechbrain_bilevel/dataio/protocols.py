"""Readers of the lists of trials ("protocols") that anti-spoofing corpora ship.

Every reader returns a ``TrialTable``, so that whatever comes after it
(manifests, samplers, scores) does not know which corpus a trial is from.
"""

import os
from pathlib import Path

from speechbrain_bilevel.dataio.columns import read_columns
from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA,
    CORPORA,
    IN_THE_WILD,
    LIST,
    PARTITIONS,
)
from speechbrain_bilevel.dataio.lists import (
    LIST_HEADER,
    is_list_header,
    read_list,
)
from speechbrain_bilevel.dataio.trials import (
    BONAFIDE,
    NO_ATTACK,
    SPOOF,
    Trial,
    protocol_lines,
)
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import shorten, split

__all__ = [
    "ASVSPOOF2019_LA_COUNTS",
    "BONAFIDE",
    "NO_ATTACK",
    "PARTITIONS",
    "SPOOF",
    "Trial",
    "asvspoof2019_protocol_path",
    "read_asvspoof2019_protocol",
    "read_protocol",
    "recognise",
]

#: Trials of ASVspoof2019 LA by partition and label (Wang et al., "ASVspoof
#: 2019: A large-scale public database of synthesized, converted and replayed
#: speech", Computer Speech & Language 64, 2020).
ASVSPOOF2019_LA_COUNTS = {
    "train": {BONAFIDE: 2580, SPOOF: 22800},
    "dev": {BONAFIDE: 2548, SPOOF: 22296},
    "eval": {BONAFIDE: 7355, SPOOF: 63882},
}


def read_protocol(path):
    """Reads the trials of any corpus that we know, or of a list of one's own.

    The first line tells which it is: a header (see ``lists.read_list``, which
    also reads our manifests), or the number of columns (see ``corpora`` for
    all of them). Of ASVspoof2021 DF, ``attack`` is the category of the vocoder,
    which the official evaluation breaks results down by.

    Arguments
    ---------
    path : str or Path
        The protocol. Of ASVspoof2019 LA, its name tells the partition
        (".train.", ".dev." or ".eval."), else its first utterance's (LA_T_,
        LA_D_ or LA_E_).

    Returns
    -------
    TrialTable
        In the file's order, all partitions that it has. Paths are relative to
        the data folder, those of a list as they are written there.

    Raises
    ------
    InputError
        The file is missing, empty, not UTF-8, no protocol or has bad lines;
        all bad lines are counted and the first ones shown.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trial_metadata.txt"
    >>> line = "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval"
    >>> _ = path.write_text(line)
    >>> read_protocol(path)[0].path
    'ASVspoof2021_LA_eval/flac/LA_E_9332881.flac'
    """
    corpus = recognise(path)
    if corpus.is_list:
        return read_list(path)
    return read_columns(corpus, path, _partition_of(path))


def recognise(path):
    """Tells by its first line which corpus a protocol is of.

    Arguments
    ---------
    path : str or Path
        The protocol.

    Returns
    -------
    Corpus
        One of ``corpora.CORPORA``, or ``corpora.LIST``.

    Raises
    ------
    InputError
        The file is missing, empty or no protocol that we know.

    Example
    -------
    >>> path = getfixture("tmp_path") / "meta.csv"
    >>> _ = path.write_text("file,speaker,label\\n0.wav,Alec Guinness,spoof\\n")
    >>> recognise(path).name
    'In-the-Wild'
    """
    if os.path.exists(path) and not (
        os.path.isfile(path) or os.path.isdir(path)
    ):
        raise InputError(
            f"{path}: a pipe or a device; expected a file, since it is read "
            "more than once"
        )
    first = _first_line(path)
    if is_list_header(first):
        is_wild = ",".join(split(first, ",")) == IN_THE_WILD.layout
        return IN_THE_WILD if is_wild else LIST
    by_columns = {c.n_columns: c for c in CORPORA if not c.is_list}
    n_columns = len(first.split())
    if n_columns in by_columns:
        return by_columns[n_columns]
    known = "".join(
        f"\n  {number} columns: {corpus.layout} ({corpus.name})"
        for number, corpus in sorted(by_columns.items())
    )
    raise InputError(
        f"{path}: the first line, {shorten(first)}, is of no protocol that we "
        f"know. Expected {LIST_HEADER}, or without header, separated by "
        f"blanks:{known}\nGive such a file; lists of names without labels are "
        "not enough"
    )


def _first_line(path):
    for _, line in protocol_lines(path):
        if line:
            return line
    raise InputError(
        f"{path}: empty. Expected one trial a line; "
        "unpack the corpus again or write one"
    )


def _partition_of(path):
    """The partition that a file's name tells, or its first utterance's."""
    utterance = _first_line(path).split()[1]
    for partition in PARTITIONS:
        if f".{partition}." in Path(path).name:
            return partition
    for partition in PARTITIONS:
        if utterance.startswith(f"LA_{partition[0].upper()}_"):
            return partition
    return "eval"


def asvspoof2019_protocol_path(data_folder, partition):
    """Where ASVspoof2019 LA keeps a partition's countermeasure protocol.

    Arguments
    ---------
    data_folder : str or Path
        The corpus' ``LA`` folder.
    partition : str
        "train", "dev" or "eval".

    Returns
    -------
    Path
        The protocol; the file need not exist.

    Raises
    ------
    InputError
        The partition is none of the three.

    Example
    -------
    >>> asvspoof2019_protocol_path("/data/LA", "dev").name
    'ASVspoof2019.LA.cm.dev.trl.txt'
    """
    if partition not in PARTITIONS:
        raise InputError(
            f"unknown partition {partition!r}: expected one of "
            f"{', '.join(PARTITIONS)}"
        )
    return Path(data_folder) / ASVSPOOF2019_LA.protocols[partition][0]


def read_asvspoof2019_protocol(data_folder, partition):
    """Reads a partition's trials from an ASVspoof2019 LA folder.

    The protocol has five columns a line, ``speaker utterance - attack label``
    (README of the corpus, https://doi.org/10.7488/ds/2555).

    Arguments
    ---------
    data_folder : str or Path
        The corpus' ``LA`` folder, with ``ASVspoof2019_LA_cm_protocols`` in it.
    partition : str
        "train", "dev" or "eval".

    Returns
    -------
    TrialTable
        In the order of the protocol; at least one is bona fide and one spoof.

    Raises
    ------
    InputError
        The protocol is missing, empty, not UTF-8, lacks one of the two labels
        or has bad lines; all bad lines are counted and the first ones shown.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> protocol = asvspoof2019_protocol_path(folder, "train")
    >>> protocol.parent.mkdir()
    >>> lines = "S1 T1 - - bonafide", "S1 T2 - A01 spoof"
    >>> _ = protocol.write_text("\\n".join(lines), encoding="utf-8")
    >>> for trial in read_asvspoof2019_protocol(folder, "train"):
    ...     print(trial.attack, trial.path)
    - ASVspoof2019_LA_train/flac/T1.flac
    A01 ASVspoof2019_LA_train/flac/T2.flac
    """
    protocol = asvspoof2019_protocol_path(data_folder, partition)
    trials = read_columns(ASVSPOOF2019_LA, protocol, partition)
    _check_both_labels(protocol, trials)
    return trials


def _check_both_labels(protocol, trials):
    """A partition with one label only can be neither learnt nor evaluated."""
    labels = trials.counts("label")
    for label in (BONAFIDE, SPOOF):
        if label not in labels:
            raise InputError(
                f"{protocol}: none of the {len(trials)} trials is {label}. "
                "Expected bona fide and spoof trials; unpack the corpus again"
            )
