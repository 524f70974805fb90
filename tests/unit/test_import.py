"""Published weights become folders that score as the published networks do."""

import numpy as np
import pytest
import torch
from published_v2 import SIZES

from speechbrain_bilevel.inference import importers as published
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.lobes.aasist import AASIST


@pytest.mark.parametrize("name", ["AASIST", "AASIST-L"])
def test_aasist_scores_as_published(run, shared, tmp_path, name):
    weights, out = shared / "weights" / f"{name}.pth", tmp_path / "out"
    code, text, err = run("import", name.lower(), weights, out)
    assert code == 0, err
    assert text == f"{out}: not calibrated; see its README.md\n"
    reference = np.load(shared / "reference" / "aasist_outputs.npz")
    detector = SpoofDetector.from_hparams(out)
    folder = shared / "data/MiniLA/LA/ASVspoof2019_LA_eval/flac"
    logits = reference[f"{name}/logits"]
    for utt, expected in list(zip(reference["utt"], logits))[:3]:
        _, score, _, _ = detector.classify_file(folder / f"{utt}.flac")
        assert score.item() == pytest.approx(expected[1], abs=1e-4)
    assert "copyright NAVER Corp." in (out / "README.md").read_text()


def test_v2_scores_as_published(run, shared, tmp_path, monkeypatch):
    # The reference is of a reduced size.
    small = published.PUBLISHED["v2"]._replace(sizes=SIZES)
    monkeypatch.setitem(published.PUBLISHED, "v2", small)
    reference = np.load(shared / "reference" / "v2_parity.npz")
    prefix = "final_lower/"
    weights = {
        name.removeprefix(prefix): torch.from_numpy(reference[name])
        for name in reference.files
        if name.startswith(prefix)
    }
    torch.save(weights, tmp_path / "v2.pth")
    out = tmp_path / "out"
    code, _, err = run("import", "v2", tmp_path / "v2.pth", out)
    assert code == 0, err
    detector = SpoofDetector.from_hparams(out)
    assert detector.decision.border == 0.5
    _, score, _, _ = detector.classify_batch(torch.randn(2, 8000))
    assert ((0 < score) & (score < 1)).all()


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
    for path in (tmp_path / "text.pth", tmp_path / "gone.pth"):
        code, _, err = run("import", name, path, tmp_path / "out")
        assert code == 2 and err.startswith(f"error: {path}: ")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_size_are_refused(run, shared, tmp_path):
    weights = shared / "weights" / "AASIST.pth"
    code, _, err = run("import", "aasist-l", weights, tmp_path / "out")
    assert code == 2
    assert f"error: {weights}: is not of the published aasist-l (" in err


def test_nothing_is_replaced(run, foreign, tmp_path):
    code, _, err = run("import", "aasist", foreign, tmp_path)
    assert code == 2 and f"{tmp_path}: is there already" in err


def test_sizes_reach_the_network():
    sizes = published.PUBLISHED["aasist-l"].sizes
    ours = sum(p.numel() for p in AASIST(**sizes).parameters())
    assert ours < sum(p.numel() for p in AASIST().parameters()) / 3
