"""The row type of every corpus, and what all readers of trials share."""

import dataclasses
import re

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import read_lines, shorten

BONAFIDE = "bonafide"
SPOOF = "spoof"
NO_ATTACK = "-"

#: What corpora and people call the two, in small letters.
LABELS = {
    "bonafide": BONAFIDE,
    "bona-fide": BONAFIDE,
    "bona fide": BONAFIDE,
    "genuine": BONAFIDE,
    "real": BONAFIDE,
    "spoof": SPOOF,
    "fake": SPOOF,
}

# Names become parts of a path and fields of a CSV in which SpeechBrain
# replaces $words, so nothing else than these characters is let through.
_NAME = re.compile(r"[\w.-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One utterance to be judged, as a corpus lists it.

    Arguments
    ---------
    utt : str
        Name of the utterance, without blanks, unique in its partition.
    path : str
        Audio file, relative to the data folder, with forward slashes; of a
        list or a manifest it may be absolute.
    speaker : str
        Name of the speaker (of the target speaker, for a spoof).
    attack : str
        Name of the spoofing attack, "-" for bona fide speech.
    label : str
        "bonafide" or "spoof".
    partition : str
        "train", "dev" or "eval"; ASVspoof2021 has "progress", "eval" and
        "hidden", a list whatever it says.

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


def protocol_lines(path):
    """Yields the lines of a protocol or another list of trials.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    iterator of (int, str)
        See ``text.read_lines``.
    """
    return read_lines(
        path,
        "Expected the protocol that the corpus ships, or another list of "
        "trials, in plain text; check the data folder or unpack the corpus "
        "again",
    )


def check_name(name):
    """Refuses what is no plain name of an utterance, a speaker or an attack.

    Arguments
    ---------
    name : str
        A column of a protocol.

    Raises
    ------
    InputError
        It has characters that could lead out of the data folder.

    Example
    -------
    >>> check_name("LA_T_1138215")
    >>> check_name("../LA_T_1138215")
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.errors.InputError: '../LA_T_1138215' is not a plain \
name (letters, digits, _, - and single dots)
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"{shorten(name)} is not a plain name (letters, digits, "
            "_, - and single dots)"
        )
