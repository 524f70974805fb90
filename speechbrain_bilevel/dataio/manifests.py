"""Manifests: what there is to score, as a CSV file that SpeechBrain reads."""

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np

from speechbrain_bilevel.dataio.audio_check import measure_durations
from speechbrain_bilevel.dataio.data_folder import (
    audio_root,
    find_protocol,
    find_trials,
)
from speechbrain_bilevel.dataio.protocols import (
    BONAFIDE,
    NO_ATTACK,
    recognise,
)
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import (
    check_target,
    refuse_overwriting,
    write_atomically,
)

COLUMNS = ("ID", "duration", "wav", "speaker", "attack", "label")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a manifest holds.

    Arguments
    ---------
    corpus : str
        Name of the corpus, "list" for a list of one's own.
    n_bonafide : int
        Bona fide trials.
    n_spoof : int
        Spoofed trials.
    n_attacks : int
        Attacks that these are by.
    hours : float
        Duration of all audio.

    Example
    -------
    >>> print(Summary("In-the-Wild", 19963, 11816, 1, 37.9))
    In-the-Wild: 19963 bona fide, 11816 spoof, 1 attack, 37.9 hours
    """

    corpus: str
    n_bonafide: int
    n_spoof: int
    n_attacks: int
    hours: float

    def __str__(self):
        attacks = (
            "1 attack" if self.n_attacks == 1 else f"{self.n_attacks} attacks"
        )
        return (
            f"{self.corpus}: {self.n_bonafide} bona fide, {self.n_spoof} "
            f"spoof, {attacks}, {self.hours:.3g} hours"
        )


def write_manifest(data_folder, out_csv, partition="eval", protocol=None):
    """Checks the audio of a partition and writes its manifest.

    Every file has to exist, to have a readable header and to hold audio. Of
    ASVspoof's corpora it has to be mono FLAC at 16 kHz; of In-the-Wild and of
    lists it may be anything that soundfile reads. Truncated FLAC is found by
    its last sample; of WAV it cannot be told.

    Arguments
    ---------
    data_folder : str or Path
        A corpus' folder, or a list of trials with paths relative to its own
        folder.
    out_csv : str or Path
        The manifest, with the columns ``ID,duration,wav,speaker,attack,label``:
        ``duration`` is in seconds, ``wav`` an absolute path.
    partition : str
        Which trials, "train", "dev", "eval" or what the corpus has.
    protocol : str or Path
        If given, this protocol or list instead of the one in the folder; all
        its paths are relative to the data folder.

    Returns
    -------
    Summary
        What was written.

    Raises
    ------
    InputError
        The folder, the protocol, the partition or any audio file is not as it
        should be, or the manifest cannot be written. Nothing is then written.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "call.wav", [0.1] * 8000, 8000)
    >>> _ = (folder / "mine.csv").write_text("path,label\\ncall.wav,fake\\n")
    >>> print(write_manifest(folder / "mine.csv", folder / "manifest.csv"))
    list: 0 bona fide, 1 spoof, 1 attack, 0.000278 hours
    """
    chosen = protocol or find_protocol(data_folder, partition)
    out_csv = Path(out_csv)
    check_target(out_csv)
    refuse_overwriting([out_csv], [chosen])
    corpus = recognise(chosen)
    trials = find_trials(data_folder, partition, protocol)
    root = os.path.realpath(audio_root(data_folder))
    _check_root(root)
    durations = _measure_once(root, trials, corpus.is_list)
    _save(out_csv, manifest_lines(trials.with_root(root), durations))
    n_bonafide = trials.counts("label").get(BONAFIDE, 0)
    return Summary(
        corpus.name,
        n_bonafide,
        len(trials) - n_bonafide,
        len(trials.counts("attack").keys() - {NO_ATTACK}),
        float(durations.sum()) / 3600,
    )


def manifest_lines(trials, durations):
    """Yields the lines of a manifest, so that it need not be in memory.

    Arguments
    ---------
    trials : TrialTable
        With the paths that the manifest is to have.
    durations : numpy.ndarray
        Seconds of each trial, shape [n_trials].

    Yields
    ------
    line : str
        With its end; the first one names the columns.

    Example
    -------
    >>> from speechbrain_bilevel.dataio.trial_table import TrialTable
    >>> from speechbrain_bilevel.dataio.trials import Trial
    >>> trial = Trial("u1", "a, b.wav", "s", "A07", "spoof", "eval")
    >>> print(*manifest_lines(TrialTable([trial]), np.array([0.5])), sep="")
    ID,duration,wav,speaker,attack,label
    u1,0.5,"a, b.wav",s,A07,spoof
    <BLANKLINE>
    """
    # What writes a row returns what the file's method returns.
    write = csv.writer(_Echo, lineterminator="\n").writerow
    yield write(COLUMNS)
    for trial, seconds in zip(trials, map(float, durations)):
        cells = trial.utt, seconds, trial.path, trial.speaker
        yield write((*cells, trial.attack, trial.label))


class _Echo:
    """Instead of a file."""

    @staticmethod
    def write(line):
        return line


def _measure_once(root, trials, any_format):
    """Seconds of each trial; a file that several have is checked once."""
    repeats = trials.repeats("path")
    firsts = np.ones(len(trials), dtype=bool)
    firsts[list(repeats)] = False
    paths = trials.take(firsts).texts("path")
    durations = np.empty(len(trials))
    durations[firsts] = measure_durations(
        root, paths, n_paths=firsts.sum(), any_format=any_format
    )
    durations[list(repeats)] = durations[list(repeats.values())]
    return durations


def _check_root(root):
    if "$" in root or not root.isprintable():
        raise InputError(
            f"{root}: has a $ or a character that cannot be printed. Expected "
            "a folder whose path can stand in a CSV file in which SpeechBrain "
            "replaces $words; rename or link it"
        )


def _save(out_csv, lines):
    try:
        write_atomically(out_csv.parent, {out_csv.name: lines})
    except OSError as error:
        raise InputError(
            f"{out_csv}: cannot be written ({error.strerror}). Expected a "
            "folder with room for the CSV file; free some or choose another"
        ) from error
