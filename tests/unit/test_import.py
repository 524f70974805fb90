"""Published weights become folders that score as the published networks do."""

from pathlib import Path

import numpy as np
import published_aasist
import published_ssl_aasist
import published_v2
import pytest
import torch
from safetensors.torch import save_file

from speechbrain_bilevel.inference import importers
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.ssl import SSLAASIST
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


def test_all_published_weights_are_offered(run):
    _, text, _ = run("import", "--help")
    offered = text[text.index("{") + 1 : text.index("}")].split(",")
    assert sorted(map(str.strip, offered)) == sorted(importers.PUBLISHED)


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


def test_ssl_aasist_scores_as_published(run, tmp_path, monkeypatch):
    """With tensors of all the published names, at a reduced size."""
    published = importers.PUBLISHED["ssl-aasist"]
    sizes = published.sizes | published_ssl_aasist.SIZES
    sizes["front_end"] = published.sizes["front_end"] | sizes["front_end"]
    small = published._replace(sizes=sizes)
    monkeypatch.setitem(importers.PUBLISHED, "ssl-aasist", small)
    weights = published_ssl_aasist.made_up_state()
    detector = imported(run, "ssl-aasist", weights, tmp_path)
    wavs = 0.1 + torch.randn(3, 1600)
    expected = published_ssl_aasist.Published(weights)(wavs)
    assert expected.std(dim=0).min() > 1e-3
    assert (detector.mods.network(wavs) - expected).abs().max() < 1e-5
    score = detector.classify_batch(wavs)[1]
    assert (score - expected[:, 1]).abs().max() < 1e-5


def test_sizes_of_ssl_aasist():
    """Those of its 317,837,834 parameters on which the output depends: less
    the quantizer and its projections, weight norm, and unused input norms."""
    _, sizes, *_ = importers.PUBLISHED["ssl-aasist"]
    with torch.device("meta"):
        network = SSLAASIST(**sizes)
    ours = sum(parameter.numel() for parameter in network.parameters())
    assert ours == 317_837_834 - 1_951_872 - 128 - 512


@pytest.fixture
def aasist():
    """State dict with the names of the published AASIST."""
    shapes = str(np.load(DATA / "aasist.npz")["AASIST/shapes"])
    return published_aasist.made_up_state(shapes)


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def test_what_training_writes_is_taken(run, aasist, tmp_path):
    """State dicts within checkpoints, with prefixes, as safetensors."""
    rest = {"epoch": 3, "loss": np.float64(0.1), "optimizer": {"state": {}}}
    parallel = prefixed("module.", aasist)
    files = (
        ("plain.pth", torch.save, aasist, None),
        ("parallel.pth", torch.save, parallel, "'module.'"),
        (
            "lightning.ckpt",
            torch.save,
            {"state_dict": prefixed("net.", aasist)} | rest,
            "['state_dict'], 'net.'",
        ),
        (
            "both.pt",
            torch.save,
            {"model": prefixed("model.", parallel)} | rest,
            "['model'], 'model.', 'module.'",
        ),
        (
            "checkpoint.pt",
            torch.save,
            {"model_state_dict": aasist} | rest,
            "['model_state_dict']",
        ),
        ("it.safetensors", save_file, aasist, None),
        ("it.bin", save_file, parallel, "'module.'"),
    )
    folders = set()
    for file, save, content, taken_off in files:
        path, out = tmp_path / file, tmp_path / f"{file}.out"
        save(content, path)
        code, text, err = run("import", "aasist", path, out)
        assert code == 0, err
        said = f"{path}: taken off: {taken_off}\n" if taken_off else ""
        assert text == f"{said}{out}: not calibrated; see its README.md\n"
        folders.add((out / "model.safetensors").read_bytes())
    assert len(folders) == 1


def test_one_message_for_what_is_no_state_dict(run, aasist, tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    # Not all names have the prefix, so it is not taken off.
    mixed = prefixed("module.", aasist) | {"extra": torch.ones(1)}
    torch.save(mixed, tmp_path / "mixed.pth")
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "empty.pth")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pth")
    torch.save({"model": AASIST()}, tmp_path / "object.pth")
    for file, message in (
        ("torn.safetensors", "unusable (SafetensorError"),
        ("mixed.pth", "'module.pos_S' is no tensor of the published AASIST"),
        ("empty.pth", "is no state dict: no tensors under 0"),
        ("numbers.pth", "is no state dict: no tensors under 1 (a)"),
        ("object.pth", "holds code or objects, of which nothing was run"),
    ):
        path = tmp_path / file
        code, _, err = run("import", "aasist", path, tmp_path / "out")
        assert code == 2 and err.startswith(f"error: {path}: ")
        assert message in err and len(err) < 1000, err
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("other", ["aasist", "v2", "ssl-aasist"])
def test_weights_of_another_network_are_named(run, tmp_path, other):
    shapes = str(np.load(DATA / "aasist.npz")["AASIST-L/shapes"])
    path, state = tmp_path / "it.pth", published_aasist.made_up_state(shapes)
    torch.save(state, path)
    code, _, err = run("import", other, path, tmp_path / "out")
    assert code == 2 and err == (
        f"error: {path}: these are the weights of aasist-l: give that name\n"
    )
    state["out_layer.bias"] = torch.zeros(3)
    torch.save(state, path)
    code, _, err = run("import", "aasist-l", path, tmp_path / "out")
    assert code == 2 and err == (
        f"error: {path}: classifier.1.bias is [3]; expected [2]\n"
    )


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
