"""Tables of trials of what has no protocol: folders of audio, and Kaldi's."""

import os
import re
from pathlib import Path

import pandas as pd

from speechbrain_bilevel.dataio import BONAFIDE, NO_ATTACK, SPOOF
from speechbrain_bilevel.dataio.audio import find_audio
from speechbrain_bilevel.dataio.corpora import PARTITION_WORDS
from speechbrain_bilevel.dataio.protocols import (
    DTYPES,
    label_of,
    partition_of,
    read_label,
)
from speechbrain_bilevel.utils.errors import InputError, listed, shorten
from speechbrain_bilevel.utils.tables import Layout, read_table


def read_folders(root, only_spoofs=False):
    """Read the labels of audio from the names of its folders.

    So come FakeOrReal (``for-norm/testing/fake/...``; Reimao and Tzerpos, SpeD
    2019), DFADD (``DATASET_VCTK_BONAFIDE/...``; Du et al., SLT 2024), WaveFake
    (``generated_audio/ljspeech_melgan/...``, spoofs only; Frank and Schönherr,
    NeurIPS 2021) and the Hugging Face hub's "AudioFolder". A folder's name is a
    word of ``protocols.LABEL_WORDS`` or has one in it; the deepest folder that
    is neither this nor a partition is the attack.

    Arguments
    ---------
    root : str or Path
        The folder.
    only_spoofs : bool
        Whether audio in no such folder is a spoof; else it is refused.

    Returns
    -------
    pandas.DataFrame
        A table of trials (see ``dataio.protocols``), empty without audio.

    Raises
    ------
    InputError
        If a file is in no folder that says what it is, or in two that disagree.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in "test/real/1.wav", "test/fake/tts/2.wav":
    ...     (folder / name).parent.mkdir(parents=True)
    ...     (folder / name).touch()
    >>> read_folders(folder)[["path", "attack", "label"]]
                      path attack     label
    0  test/fake/tts/2.wav    tts     spoof
    1      test/real/1.wav      -  bonafide
    """
    found, unknown = [], []
    for path in _audio_below(root):
        parts = path.split("/")[:-1]
        # "fake/real_time_cloning" is a spoof, and so is "my_fake_clips".
        says = label_of if any(map(label_of, parts)) else _says_label
        labels = {*map(says, parts)} - {None}
        if not labels and only_spoofs:
            labels = {SPOOF}
        if len(labels) > 1:
            raise InputError(
                f"{path}: in folders that say bona fide and spoof. Expected "
                "one of both; rename one, or give a list"
            )
        if not labels:
            unknown.append(path)
            continue
        (label,) = labels
        others = [p for p in parts if not says(p) and not _part_of(p)]
        attack = "_".join(others[-1].split()) if others else SPOOF
        if label == BONAFIDE:
            attack = NO_ATTACK
        partition = next(filter(None, map(_part_of, parts)), "eval")
        found.append((path, path, "-", attack, label, partition))
    if unknown:
        raise InputError(
            f"{root}: no protocol of a known corpus, and audio in no folder "
            "that says bonafide (real, genuine) or spoof (fake, deepfake): "
            f"{listed(unknown)}. Name the folders so, or give a list; if all "
            "are spoofs, give the bona fide ones by --bonafide-folder"
        )
    return _table(found)


def read_bonafide_folder(folder, partition):
    """Return all audio in a folder as bona fide trials, with absolute paths.

    Raise an ``InputError`` if there is none.
    """
    found, name = _audio_below(folder), Path(folder).resolve().name
    if not found:
        raise InputError(
            f"{folder}: no audio in it. Expected the folder of bona fide "
            "speech for --bonafide-folder"
        )
    parent = os.path.abspath(folder)
    same = "-", NO_ATTACK, BONAFIDE, partition
    return _table(
        (f"{name}/{path}", f"{parent}/{path}", *same) for path in found
    )


def read_kaldi(folder, bonafide=""):
    """Read a data folder of Kaldi: wav.scp, utt2label and, if there, utt2spk.

    See https://kaldi-asr.org/doc/data_prep.html; ``utt2label`` has lines ``utt
    label``. ``bonafide`` is the digit that is bona fide as a label. Raise an
    ``InputError`` if a file cannot be read, wav.scp has commands, which are not
    run, or an utterance lacks a label.
    """
    folder = Path(folder)
    columns = {
        name: _read_pairs(folder / name)
        for name in ("wav.scp", "utt2label", "utt2spk")
        if name != "utt2spk" or (folder / name).exists()
    }
    audio, labels = columns["wav.scp"], columns["utt2label"]
    if missing := [utt for utt in audio if utt not in labels]:
        raise InputError(
            f"{folder / 'utt2label'}: utterances of wav.scp without a label: "
            f"{listed(missing)}. Expected a line `utt label` for each"
        )
    if commands := [utt for utt, path in audio.items() if path.endswith("|")]:
        raise InputError(
            f"{folder / 'wav.scp'}: commands instead of files, which are not "
            f"run: {listed(commands)}. Write the audio to files first"
        )
    speakers, partition = columns.get("utt2spk", {}), partition_of(folder / "x")
    rows = []
    for utt, path in audio.items():
        label = read_label(labels[utt], bonafide)
        attack = NO_ATTACK if label == BONAFIDE else SPOOF
        speaker = speakers.get(utt, "-")
        rows.append((utt, path, speaker, attack, label, partition))
    return _table(rows)


def _read_pairs(path):
    """Return the lines ``key value`` of a file of Kaldi as a dict."""

    def parse(cells):
        pair = cells["line"].split(None, 1)
        if len(pair) < 2:
            raise InputError(f"{shorten(cells['line'])} is no pair `utt value`")
        return tuple(pair)

    # A value may have spaces, so that the whole line is one cell.
    table, _ = read_table(
        path,
        lambda line: Layout(("line",), separator="\n"),
        parse,
        {"utt": "str", "value": "str"},
        "Expected a file of Kaldi with a line `utt value` for each utterance",
    )
    return dict(zip(table.utt, table.value))


def _audio_below(folder):
    """Return the audio files below a folder, relative to it, sorted."""
    paths = [p for p in find_audio([folder]) if p != os.fspath(folder)]
    return sorted(Path(os.path.relpath(p, folder)).as_posix() for p in paths)


def _says_label(name):
    words = [name, *re.split(r"[\W_]+", name)]
    return next(filter(None, map(label_of, words)), None)


def _part_of(name):
    return PARTITION_WORDS.get(name.lower())


def _table(rows):
    rows = pd.DataFrame(list(rows), columns=list(DTYPES))
    return rows.astype(DTYPES)
