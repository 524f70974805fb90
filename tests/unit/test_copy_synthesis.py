"""Copies of bona fide clips by vocoders."""

import importlib.util
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from toy_corpus import write_toy_corpus

from speechbrain_bilevel.augment import copy_synthesis as module
from speechbrain_bilevel.augment.copy_synthesis import (
    copy_synthesis,
    vocoder_names,
)
from speechbrain_bilevel.augment.vocoders import VOCODERS, vocode
from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.utils.errors import InputError

FEW = ["griffin_lim_8", "world_dio_10ms"]
CLIPS = 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Bona fide toy speech, and its manifest train.csv with a spoof."""
    corpus = tmp_path_factory.mktemp("copies") / "LA"
    write_toy_corpus(corpus, clips_per_attack=1, bonafide=6)
    protocol = corpus / "ASVspoof2019_LA_cm_protocols"
    trials = read_protocol(protocol / "ASVspoof2019.LA.cm.train.trn.txt")
    bonafide = trials.label == "bonafide"
    trials = pd.concat([trials[bonafide][:CLIPS], trials[~bonafide][:1]])
    lines = ["ID,duration,wav,speaker,attack,label"]
    for trial in trials.itertuples():
        seconds = soundfile.info(corpus / trial.path).duration
        lines.append(
            f"{trial.utt},{seconds},$data_root/{trial.path},{trial.speaker},"
            f"{trial.attack},{trial.label}"
        )
    (corpus / "train.csv").write_text("\n".join(lines) + "\n")
    return corpus


def make(clips, folder, vocoders=FEW, count=None, **options):
    """Make copies; return the training set with them, and their content."""
    paths = clips / "train.csv", clips, folder
    copy_synthesis(*paths, vocoders, count, folder / "out.csv", **options)
    table = pd.read_csv(folder / "out.csv")
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.flac"))
    }
    return table, files


def log_spectrum(waveform):
    """In dB, [bands, frames], of bands of 250 Hz."""
    spectrum = torch.stft(
        *(torch.as_tensor(waveform).float(), 512, 256),
        window=torch.hann_window(512),
        return_complex=True,
    )
    power = spectrum.abs()[:-1].pow(2).unflatten(0, (-1, 8)).mean(1)
    return 10 * torch.log10(power + 1e-5)


def distance(one, other):
    """Root mean square difference of the logarithmic spectra, in dB."""
    return (one - other).pow(2).mean().sqrt().item()


@pytest.mark.parametrize("vocoder", VOCODERS)
def test_a_copy_is_near_its_source_but_not_equal(clips, vocoder):
    wavs = [
        soundfile.read(path)[0][: SAMPLE_RATE // 2]
        for path in sorted(clips.rglob("LA_T*.flac"))[:2]
    ]
    copy = vocode(wavs[0], vocoder)
    assert copy.shape == wavs[0].shape
    assert np.mean(copy**2) == pytest.approx(np.mean(wavs[0] ** 2))
    source, other, copied = map(log_spectrum, (*wavs, copy))
    assert distance(copied, source) < min(8, 0.7 * distance(copied, other))
    # The phases are lost.
    assert abs(np.corrcoef(copy, wavs[0])[0, 1]) < 0.7
    np.testing.assert_array_equal(copy, vocode(wavs[0], vocoder))


def test_the_manifest_gets_the_copies(clips, tmp_path):
    before = (clips / "train.csv").read_bytes()
    table, files = make(clips, tmp_path)
    assert (clips / "train.csv").read_bytes() == before
    trials = read_protocol(tmp_path / "out.csv")
    counts = trials.attack.value_counts().to_dict()
    spoof = table.attack[CLIPS]
    assert counts == {"-": CLIPS, spoof: 1, **dict.fromkeys(FEW, CLIPS)}
    assert (trials.label == "spoof").sum() == 1 + 2 * CLIPS
    assert len(files) == 2 * CLIPS
    speakers = dict(zip(table.ID, table.speaker))
    for row in table[CLIPS + 1 :].itertuples():
        info = soundfile.info(row.wav)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
        assert info.duration == pytest.approx(row.duration, abs=1e-4)
        clip = row.ID.removeprefix(f"{row.attack}_")
        assert speakers[clip] == row.speaker


def test_again_in_parallel_and_one_copy_per_clip(clips, tmp_path):
    serial, files = make(clips, tmp_path / "1", num_workers=1)
    parallel, same = make(clips, tmp_path / "2", num_workers=2)
    assert files == same and list(serial.ID) == list(parallel.ID)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.flac")}
    again, _ = make(clips, tmp_path / "2")
    assert again.equals(parallel)
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.flac")}
    one, _ = make(clips, tmp_path / "2", count=1)
    assert len(one) == CLIPS + 1 + CLIPS and set(one.ID) <= set(again.ID)


def test_a_killed_run_goes_on(clips, tmp_path, monkeypatch):
    rename, run = os.replace, multiprocessing.get_context("fork")

    def killed(new, path):
        if len(list(tmp_path.rglob("*.flac"))) == 2:
            for process in os.getppid(), os.getpid():
                os.kill(process, signal.SIGKILL)
        rename(new, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        process = run.Process(target=make, args=(clips, tmp_path / "killed"))
        process.start()
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    left = [path.suffix for path in tmp_path.rglob("*") if path.is_file()]
    assert left.count(".flac") == 2 and ".tmp" in left
    for path in tmp_path.rglob("*.flac"):
        assert len(soundfile.read(path)[0])
    _, files = make(clips, tmp_path / "killed")
    assert files == make(clips, tmp_path / "unbroken")[1]
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_cannot_be_copied_is_counted(clips, tmp_path, monkeypatch):
    said, text = [], (clips / "train.csv").read_text()
    monkeypatch.setattr(module.logger, "warning", said.append)
    short, silent = tmp_path / "short.wav", tmp_path / "silent.wav"
    soundfile.write(short, np.full(400, 0.1), SAMPLE_RATE)
    soundfile.write(silent, np.zeros(8000), SAMPLE_RATE)
    bad = f"s,0.025,{short},x,-,bonafide\nt,0.5,{silent},x,-,bonafide\n"
    (tmp_path / "train.csv").write_text(text + bad)
    arguments = tmp_path / "train.csv", clips, tmp_path, FEW[:1], None
    copy_synthesis(*arguments, tmp_path / "out.csv")
    assert len(said) == 1
    assert f"griffin_lim_8 made no copy of 2 of {CLIPS + 2} clips" in said[0]
    assert f"{short}: 400 samples, shorter than a frame" in said[0]
    table = pd.read_csv(tmp_path / "out.csv")
    assert (table.attack == "griffin_lim_8").sum() == CLIPS
    (tmp_path / "train.csv").write_text(text.splitlines()[0] + "\n" + bad)
    with pytest.raises(InputError, match="no copy of 2 of 2 clips"):
        copy_synthesis(*arguments, tmp_path / "out.csv")


def test_copies_of_other_clips_are_refused(clips, tmp_path):
    make(clips, tmp_path, FEW[:1])
    path = next(tmp_path.rglob("*.flac"))
    soundfile.write(path, np.full(100, 0.1), SAMPLE_RATE)
    with pytest.raises(InputError, match="Expected copies of these clips"):
        make(clips, tmp_path, FEW[:1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["world", "melgan"], "no vocoder melgan; expected .*griffin_lim_mel"),
        ("world", r"expected \[world\]"),
        ([], "0 vocoders for 3 bona fide clips"),
    ],
)
def test_what_is_no_vocoder(clips, tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        make(clips, tmp_path, names)
    assert not list(Path(tmp_path).iterdir())


def test_missing_pyworld_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert len(vocoder_names(["griffin_lim", "griffin_lim_mel"])) == 10
    with pytest.raises(InputError, match=r"pyworld.*bilevel\[world\]"):
        vocoder_names(["griffin_lim", "world_dio"])
