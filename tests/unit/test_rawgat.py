"""RawGAT-ST: the published numbers, its mask, and second derivatives."""

from pathlib import Path

import numpy as np
import published_aasist
import pytest
import torch
from second_derivatives import second_derivative_errors

from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.importers import rawgat_state_dict
from speechbrain_bilevel.lobes.rawgat import RawGATST
from speechbrain_bilevel.nnet.sinc import SincFrontEnd
from speechbrain_bilevel.utils.errors import InputError

# What https://github.com/eurecom-asp/RawGAT-ST-antispoofing makes of made-up
# weights, in double precision.
DATA = Path(__file__).parents[1] / "data" / "rawgat.npz"
TINY = {
    "num_samples": 400,
    "sinc_channels": 9,
    "sinc_kernel_size": 17,
    "mask_limit": 3,
    "channels": [2, 3],
    "graph_size": 3,
    "joint_size": 2,
    "nodes": 4,
}


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


WAV = published_aasist.made_up_waveforms(1)


@pytest.mark.parametrize("fusion", ["mul", "add"])
def test_made_up_weights_give_the_published_outputs(double, fusion):
    reference = np.load(DATA)
    state = published_aasist.made_up_state(str(reference[f"{fusion}/shapes"]))
    network = RawGATST(fusion=fusion).eval()
    network.load_state_dict(rawgat_state_dict(state))
    with torch.no_grad():
        embedding = network.embed(WAV)
        output = network.classifier(embedding)
    for ours, kind in (embedding, "embedding"), (output, "output"):
        expected = torch.from_numpy(reference[f"{fusion}/{kind}"][:1])
        assert (ours - expected).abs().max() < 1e-9, kind


def test_the_command_imports_it(run, tmp_path):
    reference = np.load(DATA)
    state = published_aasist.made_up_state(str(reference["concat/shapes"]))
    torch.save(state, tmp_path / "published.pth")
    out = tmp_path / "out"
    published = tmp_path / "published.pth"
    code, _, err = run("import", "rawgat-st-concat", published, out)
    assert code == 0, err
    detector = SpoofDetector.from_hparams(out)
    score = detector.classify_batch(WAV)[1]
    expected = torch.from_numpy(reference["concat/output"])[:1, 1]
    assert (score - expected).abs().max() < 1e-4
    assert "RawGAT-ST-antispoofing" in (out / "README.md").read_text()


def test_only_what_has_no_effect_is_left_out():
    parameters = RawGATST().parameters()
    assert sum(p.numel() for p in parameters) == 440_810 - 5_056


def test_other_tensors_are_refused():
    for name in ("encoder3.0.0.bn2.bias", "GAT_layer4.bn.bias", "proj3.bias"):
        with pytest.raises(InputError, match=f"'{name}' is no tensor of the"):
            rawgat_state_dict({"proj.bias": 0, name: 1})


def test_a_few_adjacent_filters_are_silent_in_training():
    front_end = SincFrontEnd(9, 17, 1, mask_limit=4).eval()
    wavs = torch.randn(2, 400)
    torch.manual_seed(0)
    assert torch.equal(front_end(wavs), front_end(wavs))
    masks = set()
    for _ in range(60):
        # The norm of silence stays zero.
        front_end.training = True
        x = front_end(wavs)
        front_end.training = False
        quiet = (x == 0).all(dim=3).all(dim=0)[0].nonzero().flatten().tolist()
        assert len(quiet) < 4
        assert quiet == list(range(*quiet[:1], len(quiet) + sum(quiet[:1])))
        masks.add(tuple(quiet))
    assert len(masks) > 10


def test_clip_by_clip_is_the_batch():
    torch.manual_seed(0)
    network = RawGATST(**TINY).double()
    wavs = torch.randn(3, 400, dtype=torch.float64)
    network(wavs)
    whole = network.eval()(wavs)
    with torch.no_grad():
        torch.testing.assert_close(network(wavs), whole, rtol=0, atol=1e-12)


def test_what_cannot_be_is_refused():
    for sizes, message in (
        ({"num_samples": 42}, "num_samples: 42 give no frame"),
        ({"mask_limit": 11}, "mask_limit: 11; expected at most 10"),
        ({"fusion": "mean"}, "fusion: 'mean'; expected mul or add or concat"),
    ):
        with pytest.raises(ValueError, match=message):
            RawGATST(**TINY | sizes)
    with pytest.raises(ValueError, match="built for 400 samples, got 401"):
        RawGATST(**TINY)(torch.randn(2, 401))


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_gradients(training):
    torch.manual_seed(1)
    sizes = TINY | {"mask_limit": 0, "graph_dropout": 0.0, "pool_dropout": 0.0}
    network = RawGATST(**sizes).double()
    wavs = torch.randn(3, 400, dtype=torch.float64)
    network(wavs)
    network.train(training)
    errors = second_derivative_errors(network, wavs)
    assert max(errors.values()) < 1e-4, errors
