"""A detector says the same after export as before, and of every file alike."""

import errno
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from tiny_detector import SAMPLES, export, label_encoder, tiny_network

from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.folder import FILES
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
    # Nothing of the training but the network is passed on.
    assert "lr: " not in (folder / "hyperparams.yaml").read_text()


def test_as_published_scores_are_the_softmax(network, tmp_path):
    folder = export(tmp_path / "published", network, as_published=True)
    wavs = torch.randn(5, SAMPLES)
    _, score, _, _ = SpoofDetector.from_hparams(folder).classify_batch(wavs)
    expected = network(wavs).double().softmax(dim=-1)[:, 1]
    assert torch.equal(score, expected)


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


def test_a_silent_beginning_gets_no_verdict(detector, tmp_path):
    wav = np.append(np.zeros(SAMPLES), speechlike(SAMPLES))
    soundfile.write(tmp_path / "a.wav", wav, 16000)
    with pytest.raises(InputError, match="its first 0.10 s are digital"):
        detector.classify_file(tmp_path / "a.wav")


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


@pytest.mark.parametrize("as_published, border", [(False, 0.0), (True, 0.5)])
def test_the_label_says_what_the_score_says(as_published, border):
    # The last two differ by less than their log posteriors can tell.
    logits = [[3.0, -2.0], [-40.0, 40.0], [0.0, 0.1], [1e-9, 2e-9]]
    logits = torch.tensor(logits + [[2e-9, 1e-9]])
    hparams = {"samples": SAMPLES, "as_published": as_published}
    hparams["label_encoder"] = label_encoder("spoof", "bonafide")
    detector = SpoofDetector({"network": Fixed(logits)}, hparams)
    _, score, index, label = detector.classify_batch(torch.ones(5, 10))
    assert index.tolist() == [0, 1, 1, 1, 0]
    assert (score > border).tolist() == [False, True, True, True, False]
    assert label == [["spoof", "bonafide"][i] for i in index]


def test_bfloat16_scores_almost_the_same(folder, detector):
    wavs = torch.randn(8, SAMPLES)
    half = SpoofDetector.from_hparams(folder, run_opts={"precision": "bf16"})
    score = detector.classify_batch(wavs)[1]
    error = (half.classify_batch(wavs)[1] - score).abs()
    assert 0 < error.max() < 0.05


def test_export_replaces_a_folder_whole(folder):
    stopped = folder.with_name("pretrained.unfinished")
    stopped.mkdir()
    (stopped / "of an export that was stopped").touch()
    other = tiny_network().requires_grad_(False)
    other.classifier[2].bias += 1
    export(folder, other)
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert not stopped.exists()
    wavs = torch.randn(2, SAMPLES)
    detector = SpoofDetector.from_hparams(folder)
    assert torch.equal(detector.mods.network(wavs), other(wavs))


def test_export_spares_what_is_no_detector(folder, network, tmp_path):
    (folder / "notes.txt").touch()
    file = tmp_path / "file"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to(folder)
    for target, message in (
        (folder, "has notes.txt in it"),
        (file, "no folder"),
        (link, "no folder"),
    ):
        with pytest.raises(InputError, match=f"^{target}: .*{message}"):
            export(target, network)
    assert len(os.listdir(folder)) == len(FILES) + 1


def test_a_failed_export_leaves_the_earlier_one(folder, network, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {name: (folder / name).read_bytes() for name in FILES}
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="pretrained: .*No space left"):
        export(folder, network)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert not folder.with_name("pretrained.unfinished").exists()


def save_weights(folder, weights):
    """Puts other weights into a pretrained folder."""
    torch.save(weights, folder / "network.ckpt")


BAD_FOLDERS = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no YAML": (
        lambda folder: (folder / "hyperparams.yaml").unlink(),
        r"no hyperparams\.yaml in it; expected a pretrained folder",
    ),
    "no weights": (
        lambda folder: (folder / "network.ckpt").unlink(),
        r"no network\.ckpt in it",
    ),
    "no labels": (
        lambda folder: (folder / "label_encoder.ckpt").unlink(),
        r"no label_encoder\.ckpt in it",
    ),
    "other shape": (
        lambda folder: save_weights(folder, tiny_network(gru=5).state_dict()),
        "network.ckpt does not fit .*size mismatch",
    ),
    "other names": (
        lambda folder: save_weights(folder, {"gamma": torch.ones(2)}),
        "network.ckpt does not fit .*Missing key",
    ),
    "cut weights": (
        lambda folder: os.truncate(folder / "network.ckpt", 5000),
        "network.ckpt: holds no weights that can be loaded",
    ),
    "no bytes": (
        lambda folder: (folder / "network.ckpt").write_bytes(b""),
        "network.ckpt: holds no weights",
    ),
    "code": (
        lambda folder: (folder / "network.ckpt").write_bytes(b"cos\nx\n."),
        "network.ckpt: holds no weights .*Nothing in it was run",
    ),
    "labels the other way round": (
        lambda folder: label_encoder("bonafide", "spoof").save(
            folder / "label_encoder.ckpt"
        ),
        "label_encoder: .*expected spoof as 0 and bonafide as 1",
    ),
    "not YAML": (
        lambda folder: (folder / "hyperparams.yaml").write_text("a: ["),
        "hyperparams.yaml: is no YAML .*line 1",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders_are_refused_by_name(folder, case):
    spoil, message = BAD_FOLDERS[case]
    spoil(folder)
    with pytest.raises(InputError, match=f"(?s){message}") as error:
        SpoofDetector.from_hparams(folder)
    assert str(error.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("source", ["gone", "./gone", "a/b/gone", "/gone"])
def test_what_can_be_no_repository_is_not_looked_for(source):
    with pytest.raises(InputError, match=f"^{source}: no such folder"):
        SpoofDetector.from_hparams(source)
