"""Adapting a detector to a few labelled recordings."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from tiny_onnx import SMALL, small_network

from speechbrain_bilevel import SpoofDetector
from speechbrain_bilevel.cli import main
from speechbrain_bilevel.inference import adaptation
from speechbrain_bilevel.inference.adaptation import (
    METHODS,
    Learner,
    NoGainError,
    adapt,
    divide,
    losses,
)
from speechbrain_bilevel.inference.config import DetectorConfig
from speechbrain_bilevel.inference.pretrained import write_folder
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.utils.errors import InputError

RATE, SIZE = 16000, 6000
SIZES = {
    "num_samples": RATE // 4,
    "n_mels": 20,
    "channels": [8, 8],
    "embedding_size": 8,
}


def write_clips(folder, count, seed=0, pulsed="bonafide"):
    """Noise, whose loudness pulses in one class; returns their table."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        label = ("spoof", "bonafide")[number % 2]
        noise = rng.normal(size=SIZE)
        if label == pulsed:
            noise *= 1 + 0.9 * np.sin(np.arange(SIZE) * 2 * np.pi * 16 / RATE)
        path = folder / f"{seed}_{number}.wav"
        soundfile.write(path, 0.1 * noise / noise.std(), RATE)
        attack = "-" if label == "bonafide" else "A01"
        rows.append((f"{seed}_{number}", str(path), "-", attack, label, "eval"))
    names = "utt", "path", "speaker", "attack", "label", "partition"
    return pd.DataFrame(rows, columns=names)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """As many as these clips need."""
    monkeypatch.setattr(adaptation, "STEPS", (10, 60))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = build("MelCNN", SIZES)
    # Statistics for the norms.
    with torch.no_grad():
        for _ in range(20):
            made(0.1 * torch.randn(8, SIZES["num_samples"]))
    return made.eval()


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path, 24)


@pytest.fixture
def source(network, tmp_path):
    config = DetectorConfig.of(network, "logit_difference")
    write_folder(tmp_path / "source", config, network.state_dict(), "card")
    return tmp_path / "source"


def rate(network, trials, score="logit_difference"):
    return adaptation._error_rate(network, score, trials, False)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_other_recordings_of_the_kind(
    method, network, clips, tmp_path
):
    before = {name: t.clone() for name, t in network.state_dict().items()}
    found = adapt(
        network, clips, "logit_difference", methods=[method], progress=False
    )
    others = write_clips(tmp_path, 24, seed=1)
    assert rate(network, others) > 25
    assert rate(found.network, others) < 10
    assert found.method == method and found.steps in adaptation.STEPS
    assert not found.network.training
    assert list(found.network.state_dict()) == list(before)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    changed = {
        name
        for name, tensor in found.network.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    convs = {n for n in changed if n.startswith("mel_encoder.convs")}
    norms = {n for n in convs if n.split(".")[2] in ("1", "4")}
    assert bool(convs) == (method != "back_end")
    assert (convs == norms) == (method in ("back_end", "normalization"))
    # Statistics stay as they were.
    assert not any("running" in name for name in changed)


#: Parts of the names of what each method must not change.
FRONT_ENDS = {
    "AASIST": ("front_end.", "encoder."),
    "LCNN": ("encoder.",),
    "MelCNN": ("mel_encoder.",),
    "RawGATST": ("front_end.", "spectral_encoder.", "temporal_encoder."),
    "RawNet2": ("front_end.", "encoder."),
    "SSLAASIST": ("front_end.", "projection.", "encoder."),
    "V2": ("sinc_branch.", "mel_encoder.", "transformer."),
}


def test_a_network_without_what_the_methods_train(clips):
    network = small_network("CepstralGMM")
    with pytest.raises(InputError, match="nothing that they train"):
        adapt(network, clips, "softmax", methods=["normalization", "lora"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [n for n in SMALL if n != "CepstralGMM"])
def test_what_is_trained_of_every_network(name, method, clips):
    network = small_network(name)
    is_bonafide = (clips.label == "bonafide").to_numpy()
    learner = Learner(network, "logit_difference", is_bonafide, 0)
    learner.read(clips.path, progress=False)
    learner.extract()
    before, every = network.state_dict(), np.arange(len(clips))
    ((_, adapted),) = learner.train(method, every, [2])
    assert np.isfinite(learner.scores(adapted, every)).all()
    after = adapted.state_dict()
    assert list(after) == list(before)
    trained = [n for n, _ in network.named_parameters()]
    changed = {n for n in before if not torch.equal(after[n], before[n])}
    assert changed <= set(trained)
    fronts = {n for n in changed if n.startswith(FRONT_ENDS[name])}
    if method == "back_end":
        assert changed and not fronts
        assert any(n.startswith("classifier") for n in changed)
    elif method == "normalization":
        # The norms of LCNN have no parameters.
        assert fronts or name == "LCNN"
        assert changed and len(changed) < len(trained) / 2
    else:
        matrices = {n for n in fronts if before[n].dim() > 1}
        assert matrices
    if method == "all":
        # Of each max feature map of a small LCNN, a half may lose all along.
        assert len(changed) > (0.8 if name == "LCNN" else 0.9) * len(trained)


def test_the_same_seed_gives_the_same_network(network, clips):
    ours, again, other = (
        adapt(
            *(network, clips, "logit_difference"),
            methods=["all"],
            seed=seed,
            progress=False,
        )
        for seed in (3, 3, 4)
    )
    pairs = zip(ours.network.parameters(), again.network.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(ours.network.parameters(), other.network.parameters())
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_random_numbers_of_the_program_are_left_alone(network, clips):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adapt(
        *(network, clips, "logit_difference"),
        methods=["back_end"],
        progress=False,
    )
    assert torch.equal(torch.rand(3), expected)


def test_what_is_held_out_was_not_trained_on(network, clips):
    """Labels at random: cross-validation is no better than chance."""
    rng = np.random.default_rng(0)
    clips["label"] = rng.permutation(["bonafide", "spoof"] * 12)
    with pytest.raises(NoGainError, match="Nothing was changed"):
        adapt(network, clips, "logit_difference", progress=False)


def test_clips_of_one_recording_are_never_apart():
    rng = np.random.default_rng(0)
    recordings = rng.integers(12, size=60)
    is_bonafide = rng.random(60) < 0.4
    folds = divide(is_bonafide, recordings)
    assert sorted(np.concatenate(folds)) == list(range(60))
    for number, fold in enumerate(folds):
        rest = np.concatenate(folds[:number] + folds[number + 1 :])
        assert not set(recordings[fold]) & set(recordings[rest])
        assert 0 < is_bonafide[rest].sum() < len(rest)


def test_what_sounds_the_same_is_one_recording(network, clips):
    twice = pd.concat([clips[:12], clips[:12]], ignore_index=True)
    found = adapt(
        *(network, twice, "logit_difference"),
        methods=["back_end"],
        progress=False,
    )
    assert "24 trials (12 bona fide, 12 spoofed) of 12 recordings" in (
        adaptation.describe(found, twice)
    )


@pytest.mark.parametrize(
    "labels, recordings, message",
    [
        ([1, 1, 0, 0], "aabc", "1 bona fide and 2 spoofed recordings"),
        ([1, 1, 1, 1], "abcd", "4 bona fide and 0 spoofed recordings"),
    ],
)
def test_too_few_recordings_are_refused(labels, recordings, message):
    with pytest.raises(InputError, match=f"{message}; expected 2 of each"):
        divide(np.array(labels, bool), list(recordings))


def test_losses_are_shares_of_cllr():
    is_bonafide = np.array([True, True, True, False])
    # Scores that say nothing, and those that calibration would turn around.
    assert losses([1.0, 1.0, 1.0, 1.0], is_bonafide).sum() == pytest.approx(1)
    assert losses([0.0, -1.0, 0.0, 9.0], is_bonafide).sum() == pytest.approx(1)
    assert losses([5.0, 6.0, 7.0, -9.0], is_bonafide).sum() < 0.7
    assert losses([np.nan] * 4, is_bonafide).sum() == pytest.approx(1)


def test_what_takes_too_long_is_not_tried_and_said(network, clips, monkeypatch):
    costs = {"back_end": 0.01, "all": 10.0}
    clock = [0.0]
    monkeypatch.setattr(adaptation.time, "monotonic", lambda: clock[0])
    train = Learner.train

    def slow(self, method, kept, checkpoints):
        clock[0] += costs[method] * checkpoints[-1]
        return train(self, method, kept, checkpoints)

    monkeypatch.setattr(Learner, "train", slow)
    found = adapt(
        *(network, clips, "logit_difference"),
        methods=["back_end", "all"],
        minutes=0.5,
        progress=False,
    )
    assert found.not_tried == ["all"]
    text = adaptation.describe(found, clips)
    assert text.endswith("; there was no time to try all.")
    with pytest.raises(InputError, match="minutes: 0.5 are too few"):
        adapt(
            *(network, clips, "logit_difference"),
            methods=["all"],
            minutes=0.5,
            progress=False,
        )


def test_parts_of_a_batch_give_its_gradients(network, clips, monkeypatch):
    """Without dropout and crops, which are drawn for each part."""
    network = build("MelCNN", SIZES | {"dropout": 0.0}).eval()
    clips, every = clips[:12], np.arange(12)
    is_bonafide = (clips.label == "bonafide").to_numpy()
    learner = Learner(network, "logit_difference", is_bonafide, 0)
    learner.read(clips.path, progress=False)
    learner.clips = [clip[:4000] for clip in learner.clips]
    states = []
    for limit in (1 << 30, 1 << 17):
        monkeypatch.setattr(adaptation, "_MAX_KEPT", limit)
        ((_, adapted),) = learner.train("all", every, [5])
        states.append(adapted.state_dict())
    assert learner._part_size(network, "all") < 8
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-5)


def test_softmax_scores_are_adapted_too(network, clips):
    found = adapt(network, clips, "softmax", methods=["all"], progress=False)
    assert found.after.min() >= 0 and found.after.max() <= 1


# ------------------------------------------------------------ the interface
def test_a_detector_adapts(source, clips, tmp_path):
    detector = SpoofDetector.from_hparams(source)
    adapted = detector.adapt(clips, methods=["all"], progress=False)
    assert adapted.decision.calibration["weight"] > 0
    others = write_clips(tmp_path, 12, seed=2)
    verdicts = adapted.classify_files(others.path.tolist(), progress=False)
    hits = [v.label == label for v, label in zip(verdicts, others.label)]
    assert np.mean(hits) > 0.8
    assert detector.decision.calibration is None


def write_list(clips, path, **columns):
    clips.assign(**columns)[["path", "label", *columns]].to_csv(
        path, index=False
    )
    return str(path)


def test_the_command_writes_a_folder_that_tells(
    source, clips, tmp_path, capsys
):
    listed = write_list(clips, tmp_path / "mine.csv")
    old = write_list(
        write_clips(tmp_path, 12, seed=3, pulsed="spoof"),
        tmp_path / "old.csv",
    )
    out = tmp_path / "out"
    words = ["adapt", listed, str(out), "--source", str(source)]
    assert main([*words, "--methods", "all", "--old", old]) == 0
    said = capsys.readouterr().out
    card = (out / "README.md").read_text()
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["adaptation"] in said
    for words in (
        "Adapted to 24 trials (12 bona fide, 12 spoofed) of 24 recordings",
        "On 12 trials of what it was made for, the EER went from",
        "This holds for other recordings of the same sources only.",
    ):
        assert words in said
    assert "4-fold cross-validation" in card and "log-likelihood ratio" in card
    trials = write_clips(tmp_path, 12, seed=4)
    detector = SpoofDetector.from_hparams(out)
    verdicts = detector.classify_files(trials.path.tolist(), progress=False)
    assert [v.label for v in verdicts] == trials.label.tolist()
    for folder in (out, source):
        with pytest.raises(SystemExit):
            main(["adapt", listed, str(folder), "--source", str(source)])
        assert "exists; choose a new name" in capsys.readouterr().err


def test_without_a_gain_nothing_is_written(source, clips, tmp_path, capsys):
    rng = np.random.default_rng(0)
    clips["label"] = rng.permutation(["bonafide", "spoof"] * 12)
    listed, out = write_list(clips, tmp_path / "mine.csv"), tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        main(["adapt", listed, str(out), "--source", str(source)])
    assert caught.value.code == 2
    assert "no gain" in capsys.readouterr().err
    assert not out.exists()


def test_recordings_of_a_column(source, clips, tmp_path, capsys):
    names = np.arange(24) // 4
    listed = write_list(clips, tmp_path / "mine.csv", call=names)
    words = ["adapt", listed, str(tmp_path / "out"), "--source", str(source)]
    words += ["--methods", "all"]
    for column, message in (
        ("other", "other"),
        ("speaker", "speaker is unknown in 24 of 24 lines"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([*words, "--by", column])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert main([*words, "--by", "call"]) == 0
    assert "of 6 recordings" in capsys.readouterr().out


def test_bad_input_is_told_and_nothing_is_written(
    source, clips, tmp_path, capsys
):
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    clips.loc[3, "path"] = str(tmp_path / "broken.wav")
    clips.loc[4, "path"] = str(tmp_path / "missing.wav")
    listed, out = write_list(clips, tmp_path / "mine.csv"), tmp_path / "out"
    words = ["adapt", listed, str(out), "--source", str(source)]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "2 of 24 files cannot be used" in err
    assert "broken.wav" in err and "missing.wav" in err
    clips["label"] = "unknown"
    write_list(clips[["utt", "path"]].assign(label=""), tmp_path / "mine.csv")
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert not out.exists()
