"""Preparation of ASVspoof2019 LA, on small corpora laid out like it."""

import csv
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time

import asvspoof2019_prepare as prepare
import numpy as np
import pandas as pd
import pytest
import soundfile
from asvspoof2019_prepare import prepare_asvspoof2019
from full_disk import disk_full_after
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA_COUNTS,
    PARTITIONS,
)
from speechbrain_bilevel.dataio.protocols import (
    asvspoof2019_protocol_path,
    read_protocol,
)
from speechbrain_bilevel.utils.errors import InputError

N_FRAMES = 8001
WRITTEN = ["dev.csv", "eval.csv", "prepare.json", "train.csv"]


def write_noise(path, rate=16000, channels=1, **options):
    shape = (N_FRAMES, channels)
    noise = np.random.default_rng(0).normal(0, 0.1, shape)
    soundfile.write(path, noise, rate, **options)


def trials_of(partition):
    """Names as in the corpus: LA_T_1 and LA_T_2 for train, and so on."""
    letter = partition[0].upper()
    return [(f"LA_{letter}_1", "-", "bonafide")] + [
        (f"LA_{letter}_{i}", "A01", "spoof") for i in range(2, 9)
    ]


@pytest.fixture
def corpus(tmp_path):
    """An LA folder with 8 clips a partition."""
    folder = tmp_path / "LA"
    for partition in PARTITIONS:
        flac = folder / f"ASVspoof2019_LA_{partition}" / "flac"
        flac.mkdir(parents=True)
        lines = []
        for utt, attack, label in trials_of(partition):
            write_noise(flac / f"{utt}.flac")
            lines.append(f"LA_0001 {utt} - {attack} {label}\n")
        protocol = asvspoof2019_protocol_path(folder, partition)
        protocol.parent.mkdir(exist_ok=True)
        protocol.write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def saved(tmp_path):
    return tmp_path / "results" / "prepared"


def clip(corpus, utt="LA_T_2"):
    return corpus / "ASVspoof2019_LA_train" / "flac" / f"{utt}.flac"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def states(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def refusal(corpus, saved):
    """The message about a corpus; nothing may have been written."""
    with pytest.raises(InputError) as caught:
        prepare_asvspoof2019(corpus, saved)
    assert not saved.exists()
    return str(caught.value)


def test_manifest(corpus, saved):
    prepare_asvspoof2019(str(corpus), str(saved))
    assert names(saved) == WRITTEN
    with open(saved / "dev.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[0] == {
        "ID": "LA_D_1",
        "duration": "0.5000625",
        "wav": "$data_root/ASVspoof2019_LA_dev/flac/LA_D_1.flac",
        "speaker": "LA_0001",
        "attack": "-",
        "label": "bonafide",
    }


def test_speechbrain_reads_the_manifest(corpus, saved):
    prepare_asvspoof2019(corpus, saved)
    dataset = DynamicItemDataset.from_csv(
        saved / "train.csv",
        replacements={"data_root": corpus},
        output_keys=["id", "duration", "wav", "attack", "label"],
    )
    assert [item["id"] for item in dataset] == [
        utt for utt, _, _ in trials_of("train")
    ]
    for item in dataset:
        assert soundfile.info(item["wav"]).frames == N_FRAMES
        assert item["duration"] == N_FRAMES / 16000


def test_files_out_of_the_protocol_are_ignored(corpus, saved):
    clip(corpus, "enrolment").write_bytes(b"not audio")
    prepare_asvspoof2019(corpus, saved)
    assert "enrolment" not in (saved / "train.csv").read_text()


def test_skip_prep_touches_nothing(saved):
    prepare_asvspoof2019("/nowhere", saved, skip_prep=True)
    assert not saved.exists()


def test_prepared_folder_is_skipped(corpus, saved):
    prepare_asvspoof2019(corpus, saved)
    before = states(saved)
    start = time.monotonic()
    prepare_asvspoof2019(corpus, saved)
    assert time.monotonic() - start < 1
    assert states(saved) == before


def test_prepares_again_when_a_protocol_changes(corpus, saved):
    prepare_asvspoof2019(corpus, saved)
    protocol = asvspoof2019_protocol_path(corpus, "dev")
    lines = protocol.read_text().splitlines(keepends=True)
    protocol.write_text("".join(lines[:-1]))
    prepare_asvspoof2019(corpus, saved)
    assert len((saved / "dev.csv").read_text().splitlines()) == len(lines)


@pytest.mark.parametrize("stamp", [True, False])
def test_an_edited_manifest_is_not_replaced(corpus, saved, stamp):
    prepare_asvspoof2019(corpus, saved)
    edited = (saved / "eval.csv").read_text().replace("bonafide", "spoof")
    (saved / "eval.csv").write_text(edited)
    if not stamp:
        (saved / "prepare.json").unlink()
    with pytest.raises(InputError, match=r"eval.csv: was .* edited .*delete"):
        prepare_asvspoof2019(corpus, saved)
    assert (saved / "eval.csv").read_text() == edited


@pytest.mark.parametrize("damage", ["delete", "stamp", "half stamp"])
def test_prepares_again_what_is_not_whole(corpus, saved, damage):
    prepare_asvspoof2019(corpus, saved)
    contents = {name: (saved / name).read_text() for name in WRITTEN}
    if damage == "delete":
        (saved / "eval.csv").unlink()
    elif damage == "stamp":
        (saved / "prepare.json").unlink()
    else:
        (saved / "prepare.json").write_text(contents["prepare.json"][:50])
    before = (saved / "train.csv").stat().st_ino
    prepare_asvspoof2019(corpus, saved)
    assert (saved / "train.csv").stat().st_ino != before
    assert {name: (saved / name).read_text() for name in WRITTEN} == contents


def test_prepares_again_from_another_data_folder(corpus, saved):
    prepare_asvspoof2019(corpus, saved)
    moved = corpus.rename(corpus.with_name("moved"))
    prepare_asvspoof2019(moved, saved)
    stamp = json.loads((saved / "prepare.json").read_text())
    assert stamp["data_folder"] == str(moved)


def test_parent_of_the_corpus_is_refused(corpus, saved):
    message = refusal(corpus.parent, saved)
    assert "lacks ASVspoof2019_LA_cm_protocols" in message
    assert f"give {corpus}" in message


def test_missing_partition_is_named(corpus, saved):
    (corpus / "ASVspoof2019_LA_dev").rename(corpus / "dev")
    message = refusal(corpus, saved)
    assert "lacks ASVspoof2019_LA_dev/flac. Expected" in message


def test_bad_protocol_writes_nothing(corpus, saved):
    protocol = asvspoof2019_protocol_path(corpus, "eval")
    protocol.write_text(protocol.read_text() + "LA_0001 ../x - A01 spoof\n")
    message = refusal(corpus, saved)
    assert f"{protocol}: 1 of 9 lines" in message and "line 9" in message


def test_missing_protocol_writes_nothing(corpus, saved):
    protocol = asvspoof2019_protocol_path(corpus, "eval")
    protocol.unlink()
    assert f"{protocol}: cannot be read" in refusal(corpus, saved)


def cut(part):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: part(len(content))])

    return damage


def forget_length(path):
    """Sets STREAMINFO's number of samples (36 bits) to 0, "unknown"."""
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)


def keep_header_only(path):
    forget_length(path)
    content = bytearray(path.read_bytes()[:42])
    content[4] |= 0x80
    path.write_bytes(content)


def zero_the_tail(path):
    content = path.read_bytes()
    path.write_bytes(content[:-500] + bytes(500))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (os.remove, "missing"),
        (cut(lambda n: 0), "empty"),
        (keep_header_only, "unusable"),
        (cut(lambda n: 20), "unusable"),
        (lambda path: path.write_text("not audio"), "unusable"),
        (cut(lambda n: 42), "unusable"),
        (cut(lambda n: n * 3 // 4), "truncated"),
        (cut(lambda n: n * 99 // 100), "truncated"),
        (cut(lambda n: n - 1), "truncated"),
        (zero_the_tail, "truncated"),
        (lambda path: soundfile.write(path, np.zeros(8001), 16000), "silent"),
        (
            lambda path: soundfile.write(
                path, np.full(8001, np.nan), 16000, "FLOAT", format="WAV"
            ),
            "unusable",
        ),
        (lambda path: write_noise(path, rate=8000), "wrong rate"),
        (lambda path: write_noise(path, channels=2), "not mono"),
        (lambda path: write_noise(path, format="WAV"), "not FLAC"),
    ],
)
def test_bad_audio(corpus, saved, monkeypatch, damage, fault):
    monkeypatch.setattr(prepare, "check_counts", lambda tables: True)
    damage(clip(corpus))
    message = refusal(corpus, saved)
    assert f"1 of 24 audio files in {corpus}" in message
    assert f"\n  {fault}: 1\n" in message
    assert "ASVspoof2019_LA_train/flac/LA_T_2.flac (" in message
    assert "Expected mono FLAC at 16000 Hz" in message


@pytest.mark.parametrize("ending", ["wav", "mp3", "ogg"])
def test_another_corpus_in_this_layout_may_have_any_audio(
    corpus, saved, ending
):
    for path in corpus.glob("ASVspoof2019_LA_*/flac/*.flac"):
        noise, rate = soundfile.read(path)
        path.unlink()
        soundfile.write(path.with_suffix(f".{ending}"), noise, 2 * rate)
    prepare_asvspoof2019(corpus, saved)
    for partition in PARTITIONS:
        for trial in read_protocol(saved / f"{partition}.csv").itertuples():
            assert trial.path.endswith(f"/flac/{trial.utt}.{ending}")


def test_all_faults_of_all_partitions_in_one_message(
    corpus, saved, monkeypatch
):
    monkeypatch.setattr(prepare, "check_counts", lambda tables: True)
    for partition in PARTITIONS:
        utt = trials_of(partition)[0][0]
        (corpus / f"ASVspoof2019_LA_{partition}/flac/{utt}.flac").unlink()
    for i in range(2, 9):
        cut(lambda n: n * 3 // 4)(clip(corpus, f"LA_T_{i}"))
    eight = corpus / "ASVspoof2019_LA_eval/flac/LA_E_2.flac"
    write_noise(eight, rate=8000, channels=2)
    message = refusal(corpus, saved)
    assert "11 of 24" in message
    for line in ("missing: 3", "truncated: 7", "wrong rate: 1", "not mono: 1"):
        assert f"  {line}\n" in message
    assert message.count("is truncated: holds 0.") == 5
    assert "and 2 more" in message
    assert "(8000 Hz)" in message and "(2 channels)" in message


def test_failure_leaves_an_earlier_preparation_whole(corpus, saved):
    prepare_asvspoof2019(corpus, saved)
    before = states(saved)
    protocol = asvspoof2019_protocol_path(corpus, "train")
    protocol.write_text(protocol.read_text() + "LA_0001 x - A01 spoof\n")
    with pytest.raises(InputError, match="missing: 1"):
        prepare_asvspoof2019(corpus, saved)
    assert states(saved) == before


def test_full_disk_leaves_nothing_half_written(corpus, saved):
    with disk_full_after(200), pytest.raises(InputError, match="too large"):
        prepare_asvspoof2019(corpus, saved)
    assert names(saved) == []


def test_save_folder_that_is_a_file(corpus, saved):
    saved.parent.mkdir()
    saved.write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        prepare_asvspoof2019(corpus, saved)
    assert saved.read_text() == "mine"


def official_trials(**changed):
    """As many rows as the official corpus, apart from what is changed."""
    counts = {**ASVSPOOF2019_LA_COUNTS, **changed}
    return {
        part: pd.DataFrame({"label": np.repeat(list(n), list(n.values()))})
        for part, n in counts.items()
    }


def test_official_counts_pass():
    prepare.check_counts(official_trials())


@pytest.mark.parametrize("n_spoof", [22799, 22801, 10])
def test_truncated_official_protocol(n_spoof):
    trials = official_trials(train={"bonafide": 2580, "spoof": n_spoof})
    with pytest.raises(InputError) as caught:
        prepare.check_counts(trials)
    message = str(caught.value)
    expected = "train: expected 2580 bona fide + 22800 spoof, found 2580 bona"
    assert f"{expected} fide + {n_spoof} spoof" in message
    assert "dev:" not in message and "download the corpus again" in message


def test_swapped_official_labels():
    trials = official_trials(dev={"bonafide": 2549, "spoof": 22295})
    with pytest.raises(InputError, match="dev: expected 2548 bona fide"):
        prepare.check_counts(trials)


def test_script(corpus, saved, monkeypatch, capsys):
    # Through the link in the recipe's folder, as a user would.
    recipe = pathlib.Path(prepare.__file__).resolve().parent
    script = recipe / "LA" / "asvspoof2019_prepare.py"
    root = recipe.parents[1]
    done = subprocess.run(
        [sys.executable, script, corpus, saved],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0 and names(saved) == WRITTEN
    assert "This is not the official corpus: train 1 bona" in done.stderr

    words = [str(word) for word in (script, corpus.parent, saved)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.count("error: data_folder") == 1
    assert "Traceback" not in errors


def test_mini_corpus(shared, saved):
    data_folder = shared / "data" / "MiniLA" / "LA"
    prepare_asvspoof2019(data_folder, saved)
    lengths = {
        part: len((saved / f"{part}.csv").read_text().splitlines()) - 1
        for part in PARTITIONS
    }
    assert lengths == {"train": 928, "dev": 403, "eval": 1025}
