"""Corpora in parquet files, as the datasets library writes them."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from parquet_sets import ARENA, AUDIO, CARD, row, sound, write
from protocol_texts import refusal
from speechbrain.dataio.dataset import DynamicItemDataset
from tiny_detector import export, tiny_network

from speechbrain_bilevel.dataio import parquet
from speechbrain_bilevel.dataio.audio import hear
from speechbrain_bilevel.dataio.prepare import check_audio, find_trials
from speechbrain_bilevel.dataio.protocols import read_protocol

COLUMNS = ["utt", "path", "speaker", "attack", "label", "partition"]


@pytest.fixture
def folder(tmp_path):
    """A data set of the Arena: 5 rows in 3 row groups, and its labels."""
    rows = [
        row(0, 1, utterance_id="u0", speaker_id="s1", attack_id="A07"),
        row(1, 0, utterance_id="u1", speaker_id="s2", attack_id="-"),
        row(2, 1, utterance_id="u2", codec="alaw"),
        row(3, 0, utterance_id="u3"),
        row(4, 1, utterance_id="u4"),
    ]
    data = tmp_path / "set" / "data"
    write(data / "test-00000-of-00001.parquet", rows)
    labels = {"utterance_id": ["u0"], "label": [1]}
    pq.write_table(pa.table(labels), data / "labels.parquet")
    return data.parent


def rows_of(trials):
    return [tuple(trial) for trial in trials[COLUMNS].itertuples(index=False)]


def test_trials(folder):
    file = "data/test-00000-of-00001.parquet"
    assert rows_of(read_protocol(folder)) == [
        ("u0", f"{file}#0", "s1", "A07", "spoof", "eval"),
        ("u1", f"{file}#1", "s2", "-", "bonafide", "eval"),
        ("u2", f"{file}#2", "-", "spoof", "spoof", "eval"),
        ("u3", f"{file}#3", "-", "-", "bonafide", "eval"),
        ("u4", f"{file}#4", "-", "spoof", "spoof", "eval"),
    ]
    assert find_trials(folder).equals(read_protocol(folder))
    (alone,) = set(read_protocol(folder / file).path.str.split("#").str[0])
    assert alone == "test-00000-of-00001.parquet"


@pytest.mark.parametrize(
    ("name", "partition"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("validation/0000.parquet", "dev"),
        ("LA_dev.parquet", "dev"),
        ("train_set/test.parquet", "eval"),
        ("latest.parquet", "eval"),
    ],
)
def test_names_say_the_partition(tmp_path, name, partition):
    write(tmp_path / "train" / name, [row(0, 0)])
    assert read_protocol(tmp_path / "train").partition[0] == partition


def test_a_name_may_be_in_each_split_once(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [row(0, 0), row(1, 1)])
    assert len(read_protocol(tmp_path)) == 4
    write(tmp_path / "test-2.parquet", [row(7, 0), row(1, 1)])
    message = refusal(read_protocol, tmp_path)
    assert "row 3: flac/1.flac is already in row 1" in message


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["spoof", "bona-fide"], [0, 1], ["spoof", "bonafide"]),
        (None, ["Real", "fake"], ["bonafide", "spoof"]),
    ],
)
def test_labels_by_their_names(tmp_path, names, labels, expected):
    rows = [row(n, label) for n, label in enumerate(labels)]
    path = write(tmp_path / "a.parquet", rows, names)
    assert read_protocol(path).label.tolist() == expected


@pytest.mark.parametrize("place", [".", ".."])
def test_labels_by_the_names_in_the_card(tmp_path, place):
    path = write(tmp_path / "data/a.parquet", [row(0, 0), row(1, 1)], None)
    card = path.parent / place / "README.md"
    card.write_text(CARD.format("a", "spoof", "bonafide"))
    assert read_protocol(path).label.tolist() == ["spoof", "bonafide"]
    other = CARD.format("b", "bonafide", "spoof").split("\n", 2)[2]
    card.write_text(card.read_text().removesuffix("---\n") + other)
    assert "its labels are numbers" in refusal(read_protocol, path)


def test_numbers_without_names_are_refused(tmp_path, run):
    path = write(tmp_path / "a.parquet", [row(0, 0), row(1, 1)], None)
    code, _, errors = run("prepare", path, tmp_path / "out.csv")
    assert code == 2 and f"{path}: its labels are numbers" in errors
    assert "README.md's dataset_info" in errors


def test_bad_rows_are_counted(tmp_path):
    rows = [row(0, 0), row(1, 2), row(2, -1), row(3, 1, attack_id="bonafide")]
    message = refusal(read_protocol, write(tmp_path / "a.parquet", rows))
    assert "3 of 4 rows cannot be used:\n  row 1: a.parquet#1: " in message
    assert "unknown label '2'" in message and "a.parquet#3: " in message


@pytest.mark.parametrize("label", [None, -1])
def test_labels_that_are_not_known(tmp_path, label):
    rows = [row(number, label) for number in range(2)]
    if label is None:
        rows = [{k: v for k, v in r.items() if k != "label"} for r in rows]
    path = write(tmp_path / "hidden.parquet", rows)
    assert "label" in refusal(read_protocol, path)
    trials = read_protocol(path, need_labels=False)
    assert trials.label.tolist() == ["-", "-"]


def test_other_columns_on_request(folder):
    codecs = {"keep": ["utterance_id", "codec"]}
    trials = read_protocol(folder, keep=["utterance_id"])
    assert trials.utterance_id.tolist() == trials.utt.tolist()
    assert "#0: no column codec" in refusal(read_protocol, folder, **codecs)


def test_columns_count_before_notes(tmp_path):
    plain = row(0, 0)
    plain["notes"] = json.dumps({"label": "spoof", "key": "spoof", "path": "x"})
    path = write(tmp_path / "a.parquet", [plain])
    assert read_protocol(path).label.tolist() == ["bonafide"]
    del plain["label"]
    plain["key"] = "real"
    path = write(tmp_path / "b.parquet", [plain], None)
    assert read_protocol(path).label.tolist() == ["bonafide"]


def test_hub_paths_are_of_data_sets(tmp_path, run):
    for path in ("hf://someone/set", "hf://datasets/someone"):
        code, _, errors = run("prepare", path, tmp_path / "out.csv")
        assert code == 2
        assert errors == f"error: {path}: expected hf://datasets/USER/NAME\n"


def test_names_without_notes(tmp_path):
    plain = [{"audio": row(n, n)["audio"], "label": n} for n in (0, 1)]
    plain[1]["audio"]["path"] = "my call.wav"
    trials = read_protocol(write(tmp_path / "a.parquet", plain))
    assert trials.utt.tolist() == ["a.parquet-0", "my_call.wav"]


@pytest.mark.parametrize("format", ["FLAC", "WAV", "MP3", "OGG"])
@pytest.mark.parametrize("damage", [None, "cut", "more"])
def test_a_row_is_heard_like_its_file(tmp_path, format, damage):
    contents = [sound(n, format, 3, 44100) for n in range(5)]
    if damage == "cut":
        contents = [content[: len(content) * 3 // 4] for content in contents]
    if damage == "more":
        contents = [content + content for content in contents]
    rows = [row(n, 0, content) for n, content in enumerate(contents)]
    write(tmp_path / "a.parquet", rows)
    # Row groups of two: there and back, and the same one again.
    for number in (0, 4, 1, 1, 3, 2, 0):
        file = tmp_path / f"a.{format.lower()}"
        file.write_bytes(contents[number])
        path = f"{tmp_path}/a.parquet#{number}"
        expected, heard = hear(file, 64600), hear(path, 64600)
        np.testing.assert_array_equal(expected.wav, heard.wav)
        assert expected.notes == heard.notes
        if (format, damage) == ("WAV", "more"):
            assert "more bytes after the end" in heard.notes[0]
        found, wanted = (check_audio(p, any_format=True) for p in (path, file))
        assert found == wanted


def test_a_manifest_for_training(folder, tmp_path, run):
    manifest = tmp_path / "eval.csv"
    code, out, _ = run("prepare", folder, manifest)
    assert code == 0
    assert out.startswith("parquet: 2 bona fide, 3 spoof, 2 attacks, 0.000833")
    dataset = DynamicItemDataset.from_csv(
        manifest, output_keys=["id", "wav", "label", "duration"]
    )
    for number, item in enumerate(dataset):
        assert item["id"] == f"u{number}" and item["duration"] == 0.6
        expected, _ = soundfile.read(io.BytesIO(sound(number)), dtype="float32")
        assert hear(item["wav"], 16000).wav.tolist() == expected.tolist()
    assert read_protocol(manifest).label.equals(read_protocol(folder).label)


def test_scores_are_those_of_the_files(folder, tmp_path, run):
    detector = export(tmp_path / "tiny", tiny_network())
    lines = ["id,path,label,speaker,attack"]
    for trial in read_protocol(folder).itertuples():
        (tmp_path / f"{trial.utt}.flac").write_bytes(sound(trial.Index))
        lines.append(
            f"{trial.utt},{trial.utt}.flac,{trial.label},{trial.speaker},"
            f"{trial.attack}"
        )
    (tmp_path / "list.csv").write_text("\n".join(lines))
    outputs = []
    for trials in (folder, tmp_path / "list.csv"):
        outputs.append(tmp_path / f"{trials.name}.txt")
        code, *_ = run("score", trials, outputs[-1], "--source", detector)
        assert code == 0
    assert outputs[0].read_text() == outputs[1].read_text()
    again = "score", folder, outputs[0], "--source", detector
    assert run(*again)[2].endswith("0 scores made, 5 kept\n")
    # As new: scores of audio that may have changed do not count.
    os.utime(folder / "data/test-00000-of-00001.parquet", ns=(0, 0))
    code, _, errors = run(*again)
    assert code == 2 and "audio that has changed since" in errors


def test_rows_without_audio(tmp_path, run):
    rows = [row(0, 0), row(1, 1)]
    rows[1]["audio"] = {"bytes": None, "path": "https://example.org/1.wav"}
    path = write(tmp_path / "a.parquet", rows)
    code, _, errors = run("prepare", path, tmp_path / "out.csv")
    assert code == 2 and "1 of 2 audio files" in errors
    assert "a.parquet#1 (without audio, at most with the name of" in errors
    assert "of 2; make the list" in refusal(hear, f"{path}#2", 16000)
    assert "does not exist" in refusal(hear, f"{path}#{'9' * 5000}", 16000)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header"])
def test_damaged_files(folder, damage):
    path = folder / "data" / "test-00000-of-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-100],
            "empty": b"",
            "text": b"PAR1 not at all",
            "header": content[:-30] + b"\xff" * 22 + content[-8:],
        }[damage]
    )
    for call, *arguments in ((read_protocol, folder), (hear, f"{path}#0", 9)):
        message = refusal(call, *arguments)
        assert message.startswith(f"{path}: cannot be read (")
        assert "expected intact parquet" in message


def test_damaged_audio_is_of_its_rows(folder, monkeypatch):
    path = folder / "data" / "test-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    audio = pq.ParquetFile(path).metadata.row_group(0).column(1)
    first = audio.dictionary_page_offset
    content[first : first + 200] = b"\xff" * 200
    path.write_bytes(content)
    assert len(read_protocol(folder)) == 5
    assert "cannot be read (" in refusal(hear, f"{path}#1", 16000)
    monkeypatch.setattr(parquet, "LARGEST", 1000)
    # Before any of it is read.
    assert "more than 0 MiB" in refusal(hear, f"{path}#1", 16000)
    monkeypatch.undo()
    assert len(hear(f"{path}#4", 16000).wav) == 9600


def test_what_is_not_there(tmp_path):
    path = tmp_path / "a.parquet"
    assert f"{path}: cannot be read (File" in refusal(read_protocol, path)
    assert check_audio(f"{path}#0") == (0.0, [("missing", "no such file")])
    pq.write_table(pa.table({"label": [0]}), path)
    for place in (tmp_path, path):
        assert "no parquet with audio" in refusal(read_protocol, place)
    assert "no such row with audio" in refusal(hear, f"{path}#0", 9)
    write(path, [{"audio": row(0, 0)["audio"], "class": 0}])
    assert "no column label" in refusal(read_protocol, path)
    twice = pa.array([row(0, 0)["audio"]], AUDIO)
    pq.write_table(pa.table({"a": twice, "b": twice, "label": ["spoof"]}), path)
    assert "several columns of audio, a, b" in refusal(read_protocol, path)


def test_memory_is_bounded(tmp_path, monkeypatch):
    # One value in the file, for thousands of rows.
    rows = [row(0, 0, sound(0, seconds=10))] * 3000
    path = write(tmp_path / "a.parquet", rows, row_group_size=3000)
    monkeypatch.setattr(parquet, "LARGEST", 1 << 24)
    assert path.stat().st_size < 1 << 20
    message = refusal(hear, f"{path}#0", 16000)
    assert "row group 0 has more than 16 MiB" in message
    rows = [row(n, 0, bytes(1 << 23)) for n in range(3)]
    path = write(tmp_path / "b.parquet", rows, row_group_size=3)
    assert "row group 0 has more than" in refusal(hear, f"{path}#0", 16000)


def test_as_the_library_writes_it(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    path = str(folder / "data" / "test-00000-of-00001.parquet")
    kept = datasets.Dataset(pq.read_table(path).replace_schema_metadata())
    features = datasets.Features(
        dict(kept.features)
        | {"audio": datasets.Audio(), "label": datasets.ClassLabel(names=ARENA)}
    )
    kept.cast(features).to_parquet(tmp_path / "test.parquet")
    again = read_protocol(tmp_path / "test.parquet")
    columns = ["utt", "speaker", "attack", "label", "partition"]
    assert again[columns].equals(read_protocol(folder)[columns])
    for number in range(5):
        wav = hear(f"{tmp_path}/test.parquet#{number}", 16000).wav
        expected = hear(f"{path}#{number}", 16000).wav
        np.testing.assert_array_equal(wav, expected)
