"""Tables of trials of what has no protocol: folders of audio, and Kaldi's."""

import os
import re
from pathlib import Path

import pandas as pd

from speechbrain_bilevel.dataio import BONAFIDE, SPOOF
from speechbrain_bilevel.dataio.audio import find_audio
from speechbrain_bilevel.dataio.corpora import (
    FOLDERS,
    KALDI,
    PARTITION_WORDS,
)
from speechbrain_bilevel.dataio.protocols import (
    DTYPES,
    label_of,
    list_parser,
    partition_of,
)
from speechbrain_bilevel.utils.errors import InputError, listed, shorten
from speechbrain_bilevel.utils.tables import (
    BadLines,
    Layout,
    build_table,
    read_table,
    refuse_repeated,
)


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
        # "fake/real_voices" is a spoof.
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
        attack = others[-1] if others and label == SPOOF else ""
        partition = next(filter(None, map(_part_of, parts)), "eval")
        cells = {"path": path, "label": label, "attack": attack}
        found.append({**cells, "partition": partition})
    if unknown:
        raise InputError(
            f"{root}: no protocol of a known corpus, and audio in no folder "
            "that says bonafide (real, genuine) or spoof (fake, deepfake): "
            f"{listed(unknown)}. Name the folders so, or give a list; if all "
            "are spoofs, give the bona fide ones by --bonafide-folder"
        )
    return _table(root, FOLDERS, found)


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
    same = {"label": BONAFIDE, "partition": partition}
    rows = [
        {"utt": f"{name}/{path}", "path": f"{parent}/{path}", **same}
        for path in found
    ]
    return _table(folder, FOLDERS, rows)


def read_kaldi(folder, bonafide="", need_labels=True):
    """Read a data folder of Kaldi: wav.scp, utt2label and, if there, utt2spk.

    See https://kaldi-asr.org/doc/data_prep.html; ``utt2label`` has lines ``utt
    label``. ``bonafide`` is the digit that is bona fide as a label. Raise an
    ``InputError`` if a file cannot be read, wav.scp has commands, which are not
    run, the utterances are parts of recordings, or one lacks a label.
    """
    folder = Path(folder)
    if (folder / "segments").exists():
        raise InputError(
            f"{folder / 'segments'}: utterances that are parts of recordings "
            "cannot be read; write each to a file, as extract-segments does"
        )
    columns = {
        name: _read_pairs(folder / name)
        for name in ("wav.scp", "utt2label", "utt2spk")
        if name == "wav.scp" or (folder / name).exists()
    }
    audio, labels = columns["wav.scp"], columns.get("utt2label", {})
    missing = [utt for utt in audio if utt not in labels]
    if missing and (need_labels or labels):
        raise InputError(
            f"{folder / 'utt2label'}: utterances of wav.scp without a label: "
            f"{listed(missing)}. Expected a line `utt label` for each"
        )
    if commands := [utt for utt, path in audio.items() if path.endswith("|")]:
        raise InputError(
            f"{folder / 'wav.scp'}: commands instead of files, which are not "
            f"run: {listed(commands)}. Write the audio to files first"
        )
    speakers = columns.get("utt2spk", {})
    rows = [
        {"utt": utt, "path": path, "speaker": speakers.get(utt, "")}
        | ({"label": labels[utt]} if labels else {})
        for utt, path in audio.items()
    ]
    return _table(
        folder / "wav.scp",
        *(KALDI, rows, partition_of(folder / "x"), bonafide, need_labels),
    )


def _read_pairs(path):
    """Return the lines ``key value`` of a file of Kaldi as a dict."""

    def parse(cells):
        pair = cells["line"].split(None, 1)
        if len(pair) < 2:
            raise InputError(f"{shorten(cells['line'])} is no pair `utt value`")
        return tuple(pair)

    expected = "Expected a line `utt value` for each utterance, as in Kaldi"
    # A value may have spaces, so that the whole line is one cell.
    table, numbers = read_table(
        path,
        lambda line: Layout(("line",), separator="\n"),
        parse,
        {"utt": "str", "value": "str"},
        expected,
    )
    refuse_repeated(table.utt, numbers, BadLines(path, expected))
    return dict(zip(table.utt, table.value))


def _table(path, corpus, rows, partition="eval", *options):
    """Return a table of trials from the cells of rows, each a dict."""
    bad = BadLines(path, "Expected plain names; rename these files", "file")
    parse = list_parser(corpus, partition, *options)
    trials, _ = build_table(enumerate(rows, 1), parse, DTYPES, bad)
    return pd.DataFrame(columns=list(DTYPES)) if trials is None else trials


def _audio_below(folder):
    """Return the audio files below a folder, relative to it, sorted."""
    paths = [p for p in find_audio([folder]) if p != os.fspath(folder)]
    return sorted(Path(os.path.relpath(p, folder)).as_posix() for p in paths)


def _says_label(name):
    """Return the label that a word in a name states, or None.

    "real" and "fake" are too common in other names, as in "real-time".
    """
    words = re.split(r"[\W_]+", name.lower())
    found = {label_of(w) for w in words if w not in ("real", "fake")} - {None}
    is_clear = len(found) == 1 and not {"no", "non", "not"} & {*words}
    return found.pop() if is_clear else None


def _part_of(name):
    return PARTITION_WORDS.get(name.lower())
