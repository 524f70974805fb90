"""RawNet2: the published numbers, filters by FFT, and second derivatives."""

from functools import partial
from pathlib import Path

import numpy as np
import published_aasist
import pytest
import torch
from second_derivatives import second_derivative_errors
from torch.nn.functional import conv1d, max_pool1d

from speechbrain_bilevel.inference.importers import rawnet2_state_dict
from speechbrain_bilevel.lobes.rawnet2 import (
    PAPER,
    POOL,
    RawNet2,
    pooled_magnitudes,
)
from speechbrain_bilevel.nnet.sinc import sinc_filters
from speechbrain_bilevel.utils.errors import InputError

# What both published networks make of made-up weights, in double precision:
# https://github.com/asvspoof-challenge/2021/tree/main/LA/Baseline-RawNet2 and
# https://github.com/eurecom-asp/rawnet2-antispoofing
DATA = Path(__file__).parents[1] / "data" / "rawnet2.npz"
SIZES = {"baseline": {}, "paper": PAPER}
IMPORTERS = {
    "baseline": rawnet2_state_dict,
    "paper": partial(rawnet2_state_dict, pre_activation=True),
}
TINY = {
    "num_samples": 600,
    "sinc_channels": 4,
    "sinc_kernel_size": 33,
    "channels": [3, 5],
    "pre_activation": True,
    "gru_hidden_size": 3,
    "gru_layers": 2,
    "classifier_size": 4,
}


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", SIZES)
def test_made_up_weights_give_the_published_outputs(double, name):
    reference = np.load(DATA)
    state = published_aasist.made_up_state(str(reference[f"{name}/shapes"]))
    network = RawNet2(**SIZES[name]).eval()
    network.load_state_dict(IMPORTERS[name](state))
    with torch.no_grad():
        embedding = network.embed(published_aasist.made_up_waveforms(2))
        output = network.classifier(embedding)
    if name == "baseline":
        output = output.log_softmax(dim=1)
    for ours, kind in (embedding, "embedding"), (output, "output"):
        expected = torch.from_numpy(reference[f"{name}/{kind}"])
        assert (ours - expected).abs().max() < 1e-9, kind


@pytest.mark.parametrize(
    "name, published, unused",
    [("baseline", 17_621_410, 848), ("paper", 25_433_602, 0)],
)
def test_only_what_has_no_effect_is_left_out(name, published, unused):
    parameters = RawNet2(**SIZES[name]).parameters()
    assert sum(p.numel() for p in parameters) == published - unused


def test_other_tensors_are_refused():
    for name in ("block0.0.bn1.bias", "block6.0.conv1.bias", "sinc.low_hz_"):
        with pytest.raises(InputError, match=f"'{name}' is no tensor of the"):
            rawnet2_state_dict({"first_bn.bias": 0, name: 1})


@pytest.mark.parametrize("samples", [35, 32 + 3 * 32, 32 + 3 * 32 + 1, 997])
def test_filters_by_fft_are_the_convolution(double, samples):
    """On numbers of samples around those of a window."""
    wavs, filters = torch.randn(2, samples), sinc_filters(5, 33)
    found = pooled_magnitudes(wavs, filters, POOL)
    magnitudes = conv1d(wavs.unsqueeze(1), filters.unsqueeze(1)).abs()
    torch.testing.assert_close(found, max_pool1d(magnitudes, POOL))


def test_clip_by_clip_is_the_batch():
    torch.manual_seed(0)
    network = RawNet2(**TINY).double()
    wavs = torch.randn(3, 600, dtype=torch.float64)
    network(wavs)
    whole = network.eval()(wavs)
    with torch.no_grad():
        torch.testing.assert_close(network(wavs), whole, rtol=0, atol=1e-12)


def test_any_length_that_gives_a_frame():
    network = RawNet2(**TINY).eval()
    assert network(torch.randn(2, 32 + POOL**3)).isfinite().all()
    with pytest.raises(ValueError, match="59 samples at least, got 58"):
        network(torch.randn(2, 58))


def test_half_precision_leaves_the_filters_alone():
    network = RawNet2(**TINY).eval()
    wavs = torch.randn(2, 600)
    expected = network.front_end(wavs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.front_end(wavs), expected)
        assert network(wavs).isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_gradients(training):
    torch.manual_seed(1)
    network = RawNet2(**TINY).double()
    wavs = torch.randn(3, 600, dtype=torch.float64)
    network(wavs)
    network.train(training)
    errors = second_derivative_errors(network, wavs)
    assert max(errors.values()) < 1e-4, errors
