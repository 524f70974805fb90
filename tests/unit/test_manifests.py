"""Manifests of corpora and lists, from tiny real audio."""

import csv
import os

import numpy
import pytest
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_bilevel.dataio.prepare import write_manifest
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.utils.errors import InputError

DF2021 = (
    "S1 DF_E_1 nocodec asvspoof A14 spoof notrim eval traditional_vocoder "
    "- - - -\n"
    "S2 DF_E_2 nocodec asvspoof A09 spoof notrim eval unknown - - - -\n"
    "S3 DF_E_3 nocodec asvspoof - bonafide notrim eval bonafide - - - -\n"
    "S3 DF_E_4 nocodec asvspoof - bonafide notrim hidden bonafide - - - -\n"
)


def write_audio(path, seconds=0.5, rate=16000, channels=1, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (round(seconds * rate), channels)
    noise = numpy.random.default_rng(0).normal(0, 0.1, shape)
    soundfile.write(path, noise, rate, **options)
    return path


@pytest.fixture
def df2021(tmp_path):
    """A folder of ASVspoof2021 DF, in two parts as they unpack."""
    folder = tmp_path / "DF"
    keys = folder / "keys" / "DF" / "CM" / "trial_metadata.txt"
    keys.parent.mkdir(parents=True)
    keys.write_text(DF2021)
    for part, utt in ((0, "DF_E_1"), (0, "DF_E_2"), (1, "DF_E_3")):
        part = folder / f"ASVspoof2021_DF_eval_part0{part}"
        write_audio(part / "ASVspoof2021_DF_eval" / "flac" / f"{utt}.flac")
    return folder


@pytest.fixture
def listed(tmp_path):
    """A list of files of all kinds."""
    folder = tmp_path / "mine"
    write_audio(folder / "calls" / "a b.wav", 1, rate=8000, channels=2)
    write_audio(folder / "c.ogg", 0.25, rate=44100)
    write_audio(folder / "d.flac")
    write_audio(folder / "e.mp3", 2)
    path = folder / "list.csv"
    path.write_text(
        "path,label,speaker,attack\ncalls/a b.wav,real,Ann,\nc.ogg,fake,,TTS\n"
        "d.flac,fake,,VC\ne.mp3,real,,\n"
    )
    return path


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "out" / "manifest.csv"


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refusal(manifest, *arguments, **options):
    """The message; nothing may have been written."""
    with pytest.raises(InputError) as caught:
        write_manifest(arguments[0], manifest, *arguments[1:], **options)
    assert not manifest.exists()
    return str(caught.value)


def test_corpus(df2021, manifest):
    summary = write_manifest(df2021, manifest)
    assert summary == (
        "ASVspoof2021 DF: 1 bona fide, 2 spoof, 2 attacks, 0.000417 hours"
    )
    rows = rows_of(manifest)
    assert len(rows) == 3
    flac = "ASVspoof2021_DF_eval_part00/ASVspoof2021_DF_eval/flac/DF_E_1.flac"
    assert rows[0] == {
        "ID": "DF_E_1",
        "duration": "0.5",
        "wav": str(df2021 / flac),
        "speaker": "S1",
        "attack": "traditional_vocoder",
        "label": "spoof",
    }


def test_list(listed, manifest, monkeypatch):
    monkeypatch.chdir(listed.parent)
    summary = write_manifest("list.csv", manifest)
    assert summary.startswith("list: 2 bona fide, 2 spoof, 2 attacks, ")
    rows = rows_of(manifest)
    assert [row["ID"] for row in rows] == [
        "calls/a_b.wav",
        "c.ogg",
        "d.flac",
        "e.mp3",
    ]
    seconds = [float(row["duration"]) for row in rows]
    assert seconds == pytest.approx([1, 0.25, 0.5, 2], abs=0.1)
    assert rows[0]["wav"] == str(listed.parent / "calls" / "a b.wav")


def test_given_protocol_is_of_the_data_folder(listed, manifest, tmp_path):
    moved = listed.rename(tmp_path / "moved.csv")
    write_manifest(listed.parent, manifest, protocol=moved)
    assert rows_of(manifest)[2]["wav"] == str(listed.parent / "d.flac")


def test_in_the_wild_is_wav(tmp_path, manifest):
    folder = tmp_path / "release_in_the_wild"
    write_audio(folder / "0.wav")
    (folder / "meta.csv").write_text(
        "file,speaker,label\n0.wav,Alec Guinness,bona-fide\n"
    )
    for data_folder in (folder, tmp_path):
        manifest.unlink(missing_ok=True)
        summary = write_manifest(data_folder, manifest)
        assert summary.startswith("In-the-Wild: 1 bona fide, 0 spoof, 0 att")
        assert rows_of(manifest)[0]["wav"] == str(folder / "0.wav")


def test_speechbrain_reads_the_manifest(listed, manifest):
    write_manifest(listed, manifest)
    dataset = DynamicItemDataset.from_csv(
        manifest, output_keys=["id", "duration", "wav", "label"]
    )
    for item in dataset:
        assert soundfile.info(item["wav"]).frames
    assert {item["label"] for item in dataset} == {"bonafide", "spoof"}


def test_a_manifest_is_a_protocol(listed, manifest):
    write_manifest(listed, manifest)
    both = read_protocol(listed), read_protocol(manifest)
    for given, trial in zip(*(table.itertuples() for table in both)):
        assert trial.path == str(listed.parent / given.path)
        assert (trial.utt, trial.label) == (given.utt, given.label)
        assert (trial.speaker, trial.attack) == (given.speaker, given.attack)
    # And can be prepared again, wherever it is.
    again = manifest.with_name("again.csv")
    write_manifest(manifest, again)
    assert again.read_text() == manifest.read_text()


def test_all_bad_files_of_a_corpus_at_once(df2021, manifest):
    flac = df2021 / "ASVspoof2021_DF_eval_part00/ASVspoof2021_DF_eval/flac"
    write_audio(flac / "DF_E_1.flac", rate=8000)
    content = (flac / "DF_E_2.flac").read_bytes()
    (flac / "DF_E_2.flac").write_bytes(content[: len(content) // 2])
    (third,) = df2021.glob("*/*/*/DF_E_3.flac")
    third.unlink()
    message = refusal(manifest, df2021)
    assert f"3 of 3 audio files in {df2021}" in message
    assert "wrong rate: 1" in message and "unusable: 1" in message
    assert "ASVspoof2021_DF_eval/flac/DF_E_3.flac (no such file)" in message


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: os.remove(folder / "c.ogg"), "missing"),
        (lambda folder: cut(folder / "c.ogg", 0), "empty"),
        (lambda folder: cut(folder / "c.ogg", 20), "unusable"),
        (lambda folder: write_audio(folder / "calls/a b.wav", 0), "unusable"),
        (lambda folder: cut(folder / "d.flac", 900), "unusable"),
        (lambda folder: (folder / "e.mp3").write_text("text"), "unusable"),
    ],
)
def test_bad_file_of_a_list(listed, manifest, damage, fault):
    damage(listed.parent)
    message = refusal(manifest, listed)
    assert f"1 of 4 audio files in {listed.parent}" in message
    assert f"\n  {fault}: 1\n" in message
    assert "audio of a usual format, intact and with a sound" in message


def test_raw_samples(tmp_path, manifest):
    (tmp_path / "a.raw").write_bytes(bytes(100))
    (tmp_path / "list.csv").write_text("path,label\na.raw,real\n")
    assert "a.raw (raw samples" in refusal(manifest, tmp_path / "list.csv")


def test_same_file_twice_is_checked_once(listed, manifest):
    listed.write_text("id,path,label\n1,d.flac,real\n2,d.flac,real\n")
    assert write_manifest(listed, manifest).endswith(" 0.000278 hours")
    assert [row["duration"] for row in rows_of(manifest)] == ["0.5", "0.5"]
    os.remove(listed.parent / "d.flac")
    manifest.unlink()
    assert "1 of 1 audio files" in refusal(manifest, listed)


def test_manifest_does_not_replace_its_list(listed):
    before = listed.read_text()
    with pytest.raises(InputError, match="exists, and this command did not"):
        write_manifest(listed, listed.parent / "calls" / ".." / "list.csv")
    assert listed.read_text() == before


def test_folder_in_place_of_a_manifest(listed, tmp_path):
    with pytest.raises(InputError, match="Is a directory"):
        write_manifest(listed, tmp_path)


def test_folder_that_speechbrain_would_rewrite(listed, manifest):
    folder = listed.parent.rename(listed.parent.with_name("my $folder"))
    assert "has a $" in refusal(manifest, folder / "list.csv")


def test_full_disk(listed, manifest, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert "No space left on device" in refusal(manifest, listed)
    assert list(manifest.parent.iterdir()) == []


def test_command(run, df2021, manifest):
    code, out, _ = run("prepare", df2021, manifest)
    assert code == 0 and len(rows_of(manifest)) == 3
    assert out.startswith("ASVspoof2021 DF: 1 bona fide, 2 spoof, 2 attacks,")
    assert out.count("\n") == 1


def test_command_with_protocol_and_partition(run, df2021, manifest):
    keys = df2021 / "keys" / "DF" / "CM" / "trial_metadata.txt"
    keys = keys.rename(df2021 / "mine.txt")
    write_audio(df2021 / "flac" / "DF_E_4.flac")
    options = "--protocol", keys, "--partition", "hidden"
    code, out, _ = run("prepare", df2021, manifest, *options)
    assert code == 0 and "1 bona fide, 0 spoof, 0 attacks" in out
    assert [row["ID"] for row in rows_of(manifest)] == ["DF_E_4"]


def test_command_refuses_with_2(run, tmp_path, manifest):
    code, out, err = run("prepare", tmp_path, manifest)
    assert code == 2 and out == "" and not manifest.exists()
    assert err.startswith(f"error: {tmp_path}: no protocol of a known corpus")


def test_mini_corpus(shared, manifest):
    summary = write_manifest(shared / "data" / "MiniLA" / "LA", manifest)
    assert summary.startswith("ASVspoof2019 LA: 333 bona fide, 692 spoof, ")


def test_a_rate_that_cannot_be_right(listed, manifest):
    write_audio(listed.parent / "d.flac", rate=500)
    message = refusal(manifest, listed)
    assert "unusable: 1\n    d.flac (a sample rate of 500 Hz; exp" in message


def test_another_folder_may_be_meant_where_nothing_is_found(listed, manifest):
    moved = listed.rename(listed.parent / "calls" / "list.csv")
    message = refusal(manifest, moved)
    assert "missing: 4" in message
    assert message.endswith("paths start at that folder; is it the right one?")
