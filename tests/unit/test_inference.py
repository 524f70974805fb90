"""A detector says the same after export as before, and of every file alike."""

import os

import numpy as np
import pytest
import soundfile
import torch
from full_disk import disk_full_after
from tiny_detector import SAMPLES, export, tiny_network

from speechbrain_bilevel.inference.config import FILES
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.engines import open_detector
from speechbrain_bilevel.lobes.mel_cnn import MelCNN
from speechbrain_bilevel.lobes.v2 import V2
from speechbrain_bilevel.utils.errors import InputError


@pytest.fixture(scope="module")
def network():
    """A tiny V2."""
    return tiny_network().requires_grad_(False)


@pytest.fixture
def folder(tmp_path, network):
    """It as a pretrained folder."""
    return export(tmp_path / "pretrained", network)


@pytest.fixture
def detector(folder):
    """The detector of that folder."""
    return SpoofDetector.from_hparams(folder)


def speechlike(frames, seed=0):
    """Noise in -0.5..0.5, float32."""
    random = np.random.default_rng(seed)
    return random.uniform(-0.5, 0.5, frames).astype(np.float32)


def write(path, frames, seed=0):
    """Writes a WAV at 16 kHz."""
    soundfile.write(path, speechlike(frames, seed), 16000, subtype="FLOAT")
    return path


def test_an_exported_network_computes_the_same_bits(
    network, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = os.listdir()
    detector = SpoofDetector.from_hparams(folder)
    wavs = torch.randn(5, SAMPLES)
    logits = network(wavs)
    assert torch.equal(detector.mods.network(wavs), logits)
    log_posteriors, score, _, _ = detector.classify_batch(wavs)
    assert torch.equal(log_posteriors, logits.log_softmax(dim=-1))
    assert torch.equal(score, logits[:, 1].double() - logits[:, 0].double())
    assert torch.equal(detector.encode_batch(wavs), network.embed(wavs))
    # No links or copies are left where one happens to work.
    assert os.listdir() == before


def test_scores_of_each_kind(network, tmp_path):
    wavs = torch.randn(5, SAMPLES)
    logits = network(wavs).double()
    for kind, expected in (
        ("softmax", logits.softmax(dim=-1)[:, 1]),
        ("bonafide_logit", logits[:, 1]),
    ):
        folder = export(tmp_path / kind, network, kind)
        detector = SpoofDetector.from_hparams(folder)
        assert torch.equal(detector.classify_batch(wavs)[1], expected)
        assert detector.settings == {
            "num_samples": SAMPLES,
            "score": kind,
            "calibration": None,
            "precision": "fp32",
        }


def test_the_verdict_on_a_file(detector, tmp_path):
    path = write(tmp_path / "a.wav", 3 * SAMPLES)
    log_posteriors, score, index, label = detector.classify_file(path)
    assert log_posteriors.shape == (1, 2)
    assert log_posteriors.dtype == torch.float32
    assert log_posteriors.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert score.shape == (1,) and score.dtype == torch.float64
    assert index.shape == (1,) and index.dtype == torch.int64
    assert label == [["spoof", "bonafide"][index.item()]]
    wav = torch.from_numpy(speechlike(3 * SAMPLES))
    assert torch.equal(detector.classify_batch(wav)[1], score)


def test_a_silent_beginning_is_skipped(detector, tmp_path):
    wav = speechlike(2 * SAMPLES)
    late = np.append(np.zeros(SAMPLES), wav)
    scores = []
    for name, samples in (("now.wav", wav), ("late.wav", late)):
        soundfile.write(tmp_path / name, samples, 16000, subtype="FLOAT")
        scores.append(detector.classify_file(tmp_path / name)[1])
    assert torch.equal(*scores)


def test_only_the_beginning_counts_and_short_files_repeat(detector, tmp_path):
    def score(name, wav):
        soundfile.write(tmp_path / name, wav, 16000, subtype="FLOAT")
        return detector.classify_file(tmp_path / name)[1]

    wav = speechlike(SAMPLES)
    short = wav[:700]
    whole = score("a.wav", wav)
    assert torch.equal(score("b.wav", np.append(wav, wav[::-1])), whole)
    tiled = np.concatenate([short, short, short[:200]])
    assert torch.equal(score("c.wav", short), score("d.wav", tiled))
    assert not torch.equal(score("c.wav", short), whole)


def test_a_batch_equals_its_files_one_by_one(detector, tmp_path):
    frames = [4000, SAMPLES, 1000, 400]
    wavs = torch.zeros(len(frames), max(frames))
    one_by_one = []
    for n, length in enumerate(frames):
        path = write(tmp_path / f"{n}.wav", length, seed=n)
        wavs[n, :length] = torch.from_numpy(speechlike(length, seed=n))
        one_by_one.append(detector.classify_file(path))
    wav_lens = torch.tensor(frames) / max(frames)
    _, score, index, label = detector.classify_batch(wavs, wav_lens)
    expected = torch.cat([verdict[1] for verdict in one_by_one])
    torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)
    assert index.tolist() == [verdict[2].item() for verdict in one_by_one]
    assert label == [verdict[3][0] for verdict in one_by_one]


class Fixed(torch.nn.Module):
    """Gives logits chosen beforehand."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, wavs):
        """The first logits, one pair a waveform."""
        return self.logits[: len(wavs)]


@pytest.mark.parametrize(
    "kind, threshold", [("logit_difference", 0.0), ("softmax", 0.5)]
)
def test_the_label_says_what_the_score_says(kind, threshold):
    # The last two differ by less than their log posteriors can tell.
    logits = [[3.0, -2.0], [-40.0, 40.0], [0.0, 0.1], [1e-9, 2e-9]]
    logits = torch.tensor([*logits, [2e-9, 1e-9]])
    hparams = {"num_samples": SAMPLES, "score": kind}
    detector = SpoofDetector({"network": Fixed(logits)}, hparams)
    _, score, index, label = detector.classify_batch(torch.ones(5, 10))
    assert index.tolist() == [0, 1, 1, 1, 0]
    assert (score > threshold).tolist() == [False, True, True, True, False]
    assert label == [["spoof", "bonafide"][i] for i in index]


def test_bfloat16_scores_almost_the_same(folder, detector):
    wavs = torch.randn(8, SAMPLES)
    half = SpoofDetector.from_hparams(folder, run_opts={"precision": "bf16"})
    score = detector.classify_batch(wavs)[1]
    error = (half.classify_batch(wavs)[1] - score).abs()
    assert 0 < error.max() < 0.05


def test_a_gpu_would_score_without_tf32(folder, monkeypatch):
    """Which SpeechBrain switches on; outside, it stays as it was."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    places, seen = (cuda.matmul, cudnn.conv, cudnn.rnn), []

    def precisions():
        return [place.fp32_precision for place in places]

    features = V2.extract_features

    def noted(network, wavs):
        seen.append(precisions())
        return features(network, wavs)

    detector, light = SpoofDetector.from_hparams(folder), open_detector(folder)
    monkeypatch.setattr(V2, "extract_features", noted)
    path = write(folder / "a.wav", SAMPLES)
    for use in (
        lambda: detector.classify_file(path),
        lambda: detector.encode_batch(torch.randn(2, SAMPLES)),
        lambda: light.score_file(path),
    ):
        seen.clear()
        use()
        assert seen == [["ieee"] * 3]
        assert precisions() == ["tf32"] * 3


def test_export_replaces_a_folder_whole(folder):
    other = tiny_network().requires_grad_(False)
    other.classifier[2].bias += 1
    export(folder, other)
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert os.listdir(folder.parent) == [folder.name]
    wavs = torch.randn(2, SAMPLES)
    detector = SpoofDetector.from_hparams(folder)
    assert torch.equal(detector.mods.network(wavs), other(wavs))


def test_any_length_where_the_network_takes_it():
    network = MelCNN(num_samples=SAMPLES)
    hparams = {"num_samples": SAMPLES, "score": "logit_difference"}
    detector = SpoofDetector({"network": network}, hparams)
    wavs = torch.randn(2, 3 * SAMPLES)
    usual, whole = (
        detector.classify_batch(wavs, num_samples=length)[1]
        for length in (None, 3 * SAMPLES)
    )
    first = detector.classify_batch(wavs[:, :SAMPLES])[1]
    assert torch.equal(usual, first) and not torch.equal(usual, whole)


def test_export_spares_what_is_no_detector(folder, network, tmp_path):
    (folder / "notes.txt").touch()
    file = tmp_path / "file"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to(folder)
    part = export(tmp_path / "part", network)
    (part / "config.json").write_text("{}")
    for target, message in (
        (folder, "has notes.txt in it"),
        (file, "is no folder"),
        (link, "is no folder"),
        (part, "config.json: network is "),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=f"^{target}: .*{message}"):
            export(target, network)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_earlier_one(folder, network):
    before = {name: (folder / name).read_bytes() for name in FILES}
    with (
        disk_full_after(10_000),
        pytest.raises(InputError, match="disk"),
    ):
        export(folder, network)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert os.listdir(folder.parent) == [folder.name]


def test_a_detector_that_cannot_be_loaded_is_not_written(folder, tmp_path):
    before = {name: (folder / name).read_bytes() for name in FILES}
    broken = tiny_network().requires_grad_(False)
    broken.gru.bias_hh_l0[2] = float("nan")
    for target in (folder, tmp_path / "new"):
        with pytest.raises(InputError, match=f"^{target}: model.*bias_hh_l0"):
            export(target, broken)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert os.listdir(tmp_path) == [folder.name]


@pytest.mark.parametrize("source", ["gone", "./gone", "a/b/gone", "/gone"])
def test_what_can_be_no_repository_is_not_looked_for(source):
    with pytest.raises(InputError, match=f"^{source}: no such folder"):
        SpoofDetector.from_hparams(source)


def test_what_is_for_a_yaml_needs_trust(folder):
    overrides = {"num_samples": 800}
    for options in ({"overrides": overrides}, {"hparams_file": "other.yaml"}):
        with pytest.raises(InputError, match="with trust_code=True only"):
            SpoofDetector.from_hparams(folder, **options)
