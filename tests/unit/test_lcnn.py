"""LFCC-LCNN: the published numbers of three plans, and gradients twice over.

``tests/data/lcnn.npz`` has what the published code makes, in double precision,
of weights that ``published_aasist`` makes up under the published names, and of
its waveforms: the input of the last layer, and the logit.
"""

import json
from pathlib import Path

import numpy as np
import published_aasist
import pytest
import torch

from speechbrain_bilevel.inference.importers import PUBLISHED, lcnn_state_dict
from speechbrain_bilevel.lobes.lcnn import LCNN, LCNN_2021, LightConv
from speechbrain_bilevel.utils.errors import InputError

REFERENCE = np.load(Path(__file__).parents[1] / "data" / "lcnn.npz")
NAMES = ["lfcc-lcnn", "lfcc-lcnn-lstm", "lfcc-lcnn-2021"]
TINY = {"num_samples": 5440, "channels": [3, 2, 3, 2, 2], "embedding_size": 4}
FORMS = pytest.mark.parametrize("lstm", [False, True])


def shapes(name):
    """Published names and shapes."""
    return str(REFERENCE[f"{name}/shapes"])


def tiny(lstm, **sizes):
    """A small network in double precision whose statistics are not 0 and 1."""
    torch.manual_seed(0)
    network = LCNN(**{**TINY, "lstm": lstm, "dropout": 0.0, **sizes}).double()
    with torch.no_grad():
        network(noise(4))
    return network


def noise(count, samples=5440):
    """Waveforms in double precision."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, samples, generator=generator).double() / 10


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_made_up_weights_give_the_published_outputs(double, name):
    published = PUBLISHED[name]
    state = published_aasist.made_up_state(shapes(name))
    network = LCNN(**published.sizes).eval()
    network.load_state_dict(published.convert(state))
    wavs = published_aasist.made_up_waveforms(4).reshape(2, -1)
    with torch.no_grad():
        embedding = network.embed(wavs[:, :120_000])
        logits = network.classifier(embedding)
    logit = logits[:, 1] - logits[:, 0]
    for ours, kind in (embedding, "embedding"), (logit, "logit"):
        expected = torch.from_numpy(REFERENCE[f"{name}/{kind}"])
        assert (ours - expected).abs().max() < 1e-9, kind


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_published_and_one_more_logit(name):
    tables = "put_mean", "put_std", "m_frontend", "running_", "num_batches"
    published = sum(
        np.prod(shape)
        for key, shape in json.loads(shapes(name))
        if not any(table in key for table in tables)
    )
    size, total = (80, 864_305) if name == NAMES[0] else (96, 269_729)
    assert published == total
    network = LCNN(**PUBLISHED[name].sizes)
    found = sum(p.numel() for p in network.parameters())
    assert found == published + size + 1


def test_other_weights_are_refused():
    for name in (
        "m_transform.0.1.weight",
        "m_transform.0.8.running_mean",
        "m_transform.1.0.weight",
        "m_before_pooling.0.2.l_blstm.bias_ih_l0",
        "m_angle.0.weight",
    ):
        with pytest.raises(InputError, match=f"'{name}' is no tensor of the"):
            lcnn_state_dict({name: 1})
    filters = {"m_frontend.0.lfcc_fb": torch.zeros(257, 20)}
    assert lcnn_state_dict(filters) == {}
    with pytest.raises(InputError, match="of 257 frequencies; expected 256"):
        PUBLISHED["lfcc-lcnn-2021"].convert(filters)


def test_a_layer_in_closed_form():
    layer = LightConv(1, 1, 1, pool=True)
    layer.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    layer.conv.bias.data.zero_()
    maps = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-5.0, 4.0], [9.0, 9.0]])
    # The largest magnitude of each square.
    assert layer(maps.view(1, 1, 4, 2)).flatten().tolist() == [3.0, 9.0]


@FORMS
def test_clip_by_clip_is_the_batch(lstm):
    """Without gradients, clips are computed one by one."""
    network, wavs = tiny(lstm).eval(), noise(3)
    whole = network(wavs)
    with torch.no_grad():
        torch.testing.assert_close(network(wavs), whole, rtol=0, atol=1e-12)


def test_with_lstm_any_length_with_a_frame():
    assert not LCNN(**TINY).any_length
    network = tiny(lstm=True).eval()
    assert network.any_length
    for samples in (2400, 2559, 9000):
        assert network(noise(2, samples)).isfinite().all()
    with pytest.raises(RuntimeError):
        network(noise(2, 2399))


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"num_samples": 2559}, "num_samples: 2559, .* needs 2560 and 6 at"),
        ({"num_coefficients": 5}, "num_coefficients: 5; pooling needs 2560 "),
        ({"channels": [2, 2, 2, 2, 3], "lstm": True}, "3 times the last is o"),
    ],
)
def test_sizes_that_cannot_be(sizes, message):
    with pytest.raises(ValueError, match=message):
        LCNN(**{**TINY, **sizes})


@FORMS
@pytest.mark.parametrize("wavs", [noise(2), torch.zeros(2, 5440).double()])
def test_every_parameter_learns_also_from_silence(lstm, wavs):
    network = tiny(lstm)
    labels = torch.tensor([0, 1])
    torch.nn.functional.cross_entropy(network(wavs), labels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert not wavs.any() or parameter.grad.any(), name


@FORMS
def test_gradients_of_gradients(lstm):
    network = tiny(lstm).eval()
    names = "encoder.0.conv.weight", "encoder.7.conv.bias", "classifier.weight"
    point = [network.get_parameter(name).detach() for name in names]
    wavs = noise(2).requires_grad_()

    def logits(wavs, *values):
        return torch.func.functional_call(
            network, dict(zip(names, values)), wavs
        )

    point = [wavs, *(value.requires_grad_() for value in point)]
    assert torch.autograd.gradgradcheck(logits, point, fast_mode=True)


@FORMS
def test_bfloat16_is_close(lstm):
    network = tiny(lstm).float().eval()
    wavs = noise(3).float()
    with torch.no_grad():
        expected = network(wavs)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(wavs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)


def test_the_sizes_of_2021():
    network = LCNN(**LCNN_2021)
    assert (network.lfcc.n_fft, len(network.lfcc.filters)) == (1024, 256)
