"""Readers of the lists of trials ("protocols") that anti-spoofing corpora ship.

Every reader returns the same row type, ``Trial``, so that whatever comes after
it (manifests, samplers, scores) does not know which corpus a trial is from.
"""

import dataclasses
import re
from pathlib import Path

from speechbrain_bilevel.errors import InputError

BONAFIDE = "bonafide"
SPOOF = "spoof"
NO_ATTACK = "-"
PARTITIONS = ("train", "dev", "eval")

#: Trials of ASVspoof2019 LA by partition and label (Wang et al., "ASVspoof
#: 2019: A large-scale public database of synthesized, converted and replayed
#: speech", Computer Speech & Language 64, 2020).
ASVSPOOF2019_LA_COUNTS = {
    "train": {BONAFIDE: 2580, SPOOF: 22800},
    "dev": {BONAFIDE: 2548, SPOOF: 22296},
    "eval": {BONAFIDE: 7355, SPOOF: 63882},
}

_ASVSPOOF2019_FILES = {
    "train": "ASVspoof2019.LA.cm.train.trn.txt",
    "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
    "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
}
_ASVSPOOF2019_COLUMNS = (
    "Expected on every line 5 columns, 'speaker utterance - attack label', "
    "where label is bonafide (then attack is -) or spoof (then attack is a "
    "name such as A01)"
)

# Names become parts of a path and fields of a CSV in which SpeechBrain
# replaces $words, so nothing else than these characters is let through.
_NAME = re.compile(r"[\w.-]+")
_SHOWN = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One utterance to be judged, as a corpus lists it.

    Arguments
    ---------
    utt : str
        Name of the utterance, unique in its partition.
    path : str
        Audio file, relative to the data folder, with forward slashes.
    speaker : str
        Name of the speaker (of the target speaker, for a spoof).
    attack : str
        Name of the spoofing attack, "-" for bona fide speech.
    label : str
        "bonafide" or "spoof".
    partition : str
        "train", "dev" or "eval".

    Example
    -------
    >>> trial = Trial("u1", "flac/u1.flac", "s1", "A01", "spoof", "train")
    >>> trial.attack
    'A01'
    """

    utt: str
    path: str
    speaker: str
    attack: str
    label: str
    partition: str


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
    if partition not in _ASVSPOOF2019_FILES:
        raise InputError(
            f"unknown partition {partition!r}: expected one of "
            f"{', '.join(PARTITIONS)}"
        )
    folder = Path(data_folder) / "ASVspoof2019_LA_cm_protocols"
    return folder / _ASVSPOOF2019_FILES[partition]


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
    list of Trial
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
    lines = _read_lines(protocol)
    trials, faults, line_of = [], [], {}
    for number, line in enumerate(lines, start=1):
        columns = line.split()
        fault = _asvspoof2019_fault(columns)
        if fault is None and columns[1] in line_of:
            fault = f"{columns[1]} is already on line {line_of[columns[1]]}"
        if fault is not None:
            faults.append(f"line {number}: {fault}")
            continue
        speaker, utt, _, attack, label = columns
        line_of[utt] = number
        path = f"ASVspoof2019_LA_{partition}/flac/{utt}.flac"
        trials.append(Trial(utt, path, speaker, attack, label, partition))
    if faults:
        raise InputError(_describe_faults(protocol, faults, len(lines)))
    _check_both_labels(protocol, trials)
    return trials


def _read_lines(protocol):
    """Lines of a text file without the blank ones at its end."""
    try:
        content = protocol.read_bytes()
    except OSError as error:
        raise InputError(
            f"{protocol}: cannot be read ({error.strerror}). Expected the "
            "protocol that the corpus ships; check the data folder or "
            "unpack the corpus again"
        ) from error
    try:
        # utf-8-sig, because some editors put a byte order mark in front.
        text = content.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{protocol}, line {number}: not UTF-8. Expected plain text; "
            "save the file as UTF-8 or unpack the corpus again"
        ) from error
    if not text:
        raise InputError(
            f"{protocol}: empty. Expected one trial a line; "
            "unpack the corpus again"
        )
    return text.split("\n")


def _asvspoof2019_fault(columns):
    """What is wrong with a line's columns, or None."""
    if len(columns) != 5:
        return f"{len(columns)} columns in {_shorten(' '.join(columns))}"
    speaker, utt, environment, attack, label = columns
    for name in (speaker, utt, attack):
        if not _NAME.fullmatch(name) or ".." in name:
            return (
                f"{_shorten(name)} is not a plain name (letters, digits, "
                "_, - and single dots)"
            )
    if environment != "-":
        return f"column 3 is {_shorten(environment)}, not - (is it PA?)"
    if label not in (BONAFIDE, SPOOF):
        return f"unknown label {_shorten(label)}"
    if label == BONAFIDE and attack != NO_ATTACK:
        return f"{utt} is bonafide but has the attack {_shorten(attack)}"
    if label == SPOOF and attack == NO_ATTACK:
        return f"{utt} is spoof but has no attack"
    return None


def _shorten(text, length=60):
    """Quotes a piece of a file, which may be very long, for a message."""
    return repr(text if len(text) <= length else text[:length] + "...")


def _describe_faults(protocol, faults, n_lines):
    """The message for a protocol with bad lines."""
    shown = faults[:_SHOWN]
    if len(faults) > _SHOWN:
        shown.append(f"and {len(faults) - _SHOWN} more")
    return (
        f"{protocol}: {len(faults)} of {n_lines} lines cannot be used:\n  "
        + "\n  ".join(shown)
        + f"\n{_ASVSPOOF2019_COLUMNS}; correct these lines or unpack the "
        "corpus again"
    )


def _check_both_labels(protocol, trials):
    """A partition with one label only can be neither learnt nor evaluated."""
    labels = {trial.label for trial in trials}
    for label in (BONAFIDE, SPOOF):
        if label not in labels:
            raise InputError(
                f"{protocol}: none of the {len(trials)} trials is {label}. "
                "Expected bona fide and spoof trials; unpack the corpus again"
            )
