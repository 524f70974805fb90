"""Published weights become folders that score as the published networks do."""

from pathlib import Path

import numpy as np
import published_aasist
import published_v2
import pytest
import torch

from speechbrain_bilevel.inference import importers
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.v2 import V2

DATA = Path(__file__).parents[1] / "data"


def imported(run, name, weights, folder):
    """The detector that the command makes of a published state dict."""
    torch.save(weights, folder / "published.pth")
    out = folder / "out"
    code, text, err = run("import", name, folder / "published.pth", out)
    assert code == 0, err
    assert text == f"{out}: not calibrated; see its README.md\n"
    return SpoofDetector.from_hparams(out)


@pytest.mark.parametrize("name", ["AASIST", "AASIST-L"])
def test_aasist_with_made_up_weights(run, tmp_path, name):
    """In any clone; see ``published_aasist``."""
    reference = np.load(DATA / "aasist.npz")
    shapes = str(reference[f"{name}/shapes"])
    weights = published_aasist.made_up_state(shapes)
    weights = {key: value.float() for key, value in weights.items()}
    for key, value in weights.items():
        if key.endswith("num_batches_tracked"):
            weights[key] = value.long()
    detector = imported(run, name.lower(), weights, tmp_path)
    wavs = published_aasist.made_up_waveforms(2)
    score = detector.classify_batch(wavs)[1]
    expected = torch.from_numpy(reference[f"{name}/logits"])[:, 1]
    assert (score - expected).abs().max() < 1e-4
    assert detector.settings["score"] == "bonafide_logit"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "copyright NAVER Corp." in card


@pytest.mark.parametrize("name", ["AASIST", "AASIST-L"])
def test_aasist_scores_as_published(run, shared, tmp_path, name):
    weights, out = shared / "weights" / f"{name}.pth", tmp_path / "out"
    code, _, err = run("import", name.lower(), weights, out)
    assert code == 0, err
    reference = np.load(shared / "reference" / "aasist_outputs.npz")
    detector = SpoofDetector.from_hparams(out)
    folder = shared / "data/MiniLA/LA/ASVspoof2019_LA_eval/flac"
    logits = reference[f"{name}/logits"]
    for utt, expected in list(zip(reference["utt"], logits))[:3]:
        _, score, _, _ = detector.classify_file(folder / f"{utt}.flac")
        assert score.item() == pytest.approx(expected[1], abs=1e-4)


def test_v2_scores_as_published(run, tmp_path, monkeypatch):
    """The published output, of the weights that the published training started
    from, in single precision."""
    # The reference is of a reduced size.
    small = importers.PUBLISHED["v2"]._replace(sizes=published_v2.SIZES)
    monkeypatch.setitem(importers.PUBLISHED, "v2", small)
    torch.set_default_dtype(torch.float64)
    state = published_v2.initial_state(V2(**published_v2.SIZES))
    torch.set_default_dtype(torch.float32)
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in published_v2.published_names(state).items()
    }
    detector = imported(run, "v2", weights, tmp_path)
    assert detector.decision.threshold == 0.5
    reference = np.load(DATA / "v2_parity.npz")
    wavs = torch.from_numpy(reference["eval/input"])
    _, score, index, _ = detector.classify_batch(wavs)
    expected = torch.from_numpy(reference["eval/output"])[:, 1]
    assert (score - expected).abs().max() < 1e-5
    assert index.tolist() == (expected > 0.5).long().tolist()


@pytest.fixture
def foreign(tmp_path):
    """Weights that are no published network's."""
    torch.save({"layer.weight": torch.ones(1)}, tmp_path / "foreign.pth")
    return tmp_path / "foreign.pth"


@pytest.mark.parametrize("name", ["aasist", "aasist-l", "v2"])
def test_other_weights_are_refused_by_name(run, foreign, tmp_path, name):
    code, _, err = run("import", name, foreign, tmp_path / "out")
    assert code == 2
    assert err.startswith(f"error: {foreign}: 'layer.weight' is no tensor of")
    (tmp_path / "text.pth").write_text("hello")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    torch.save({"a": print}, tmp_path / "code.pth")
    for file in ("text.pth", "tensor.pth", "code.pth", "gone.pth"):
        path = tmp_path / file
        code, _, err = run("import", name, path, tmp_path / "out")
        assert code == 2 and err.startswith(f"error: {path}: ")
        assert "weights_only" not in err
    assert not (tmp_path / "out").exists()


def test_weights_of_another_size_are_refused(run, tmp_path):
    shapes = str(np.load(DATA / "aasist.npz")["AASIST/shapes"])
    path = tmp_path / "AASIST.pth"
    torch.save(published_aasist.made_up_state(shapes), path)
    code, _, err = run("import", "aasist-l", path, tmp_path / "out")
    assert code == 2 and err.startswith(f"error: {path}: ")
    assert "size mismatch" in err and "state dict of aasist-l" in err


def test_nothing_is_replaced(run, foreign, tmp_path):
    code, _, err = run("import", "aasist", foreign, tmp_path)
    assert code == 2 and f"{tmp_path}: exists; choose a new name" in err


@pytest.mark.parametrize(
    "name, published, unused",
    [("aasist", 297_866, 512), ("aasist-l", 85_306, 272)],
)
def test_sizes_reach_the_network(name, published, unused):
    """All of the published parameters, but those without effect."""
    network = AASIST(**importers.PUBLISHED[name].sizes)
    ours = sum(parameter.numel() for parameter in network.parameters())
    assert ours == published - unused
