"""AASIST and AASIST-L: the published numbers, and gradients twice over."""

from pathlib import Path

import numpy as np
import published_aasist
import pytest
import torch

from speechbrain_bilevel.dataio.audio import fit_length, read_audio
from speechbrain_bilevel.inference.importers import PUBLISHED, aasist_state_dict
from speechbrain_bilevel.lobes.aasist import AASIST, POOL, WINDOW
from speechbrain_bilevel.utils.errors import InputError

SIZES = {name: PUBLISHED[name.lower()].sizes for name in ("AASIST", "AASIST-L")}
TINY = {
    "sinc_channels": 9,
    "sinc_kernel_size": 17,
    "channels": [2, 3],
    "graph_size": 3,
    "stack_size": 2,
}
NAMES = sorted(SIZES)
DATA = Path(__file__).parents[1] / "data" / "aasist.npz"


def published(shared, name):
    """A published state dict."""
    return torch.load(
        shared / "weights" / f"{name}.pth",
        weights_only=True,
        map_location="cpu",
    )


def imported(shared, name):
    """Our network with published weights."""
    network = AASIST(**SIZES[name]).eval()
    network.load_state_dict(aasist_state_dict(published(shared, name)))
    return network


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def reference(shared):
    return np.load(shared / "reference" / "aasist_outputs.npz")


@pytest.fixture
def wavs(shared, reference):
    """The clips of the reference."""
    folder = shared / "data" / "MiniLA" / "LA" / "ASVspoof2019_LA_eval"
    wavs = [
        read_audio(folder / "flac" / f"{utt}.flac", 64600)
        for utt in reference["utt"]
    ]
    return torch.stack([fit_length(wav, 64600) for wav in wavs])


def tiny(**sizes):
    """A small network in double precision whose statistics are not 0 and 1."""
    torch.manual_seed(0)
    network = AASIST(**TINY, **sizes).double()
    with torch.no_grad():
        network(torch.randn(4, 2000, dtype=torch.float64))
    return network


@pytest.mark.parametrize("name", NAMES)
def test_made_up_weights_give_known_outputs(double, name):
    """In any clone; see ``published_aasist``."""
    reference = np.load(DATA)
    state = published_aasist.made_up_state(str(reference[f"{name}/shapes"]))
    network = AASIST(**SIZES[name]).eval()
    network.load_state_dict(aasist_state_dict(state))
    with torch.no_grad():
        embedding = network.embed(published_aasist.made_up_waveforms(2))
        logits = network.classifier(embedding)
    for ours, kind in (embedding, "embedding"), (logits, "logits"):
        expected = torch.from_numpy(reference[f"{name}/{kind}"])
        assert (ours - expected).abs().max() < 1e-9, kind


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_the_published(shared, reference, wavs, name):
    network = imported(shared, name)
    with torch.inference_mode():
        embedding = network.embed(wavs)
        logits = network.classifier(embedding)
        one = network(wavs[3:4])
    for ours, kind in (embedding, "embedding"), (logits, "logits"):
        expected = torch.from_numpy(reference[f"{name}/{kind}"])
        assert (ours - expected).abs().max() < 1e-4, kind
    assert (one - logits[3:4]).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close(shared, reference, wavs, name):
    network = imported(shared, name)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = network(wavs[:2])
    expected = torch.from_numpy(reference[f"{name}/logits"][:2])
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().max() < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_only_what_has_no_effect_is_left_out(shared, name):
    """The published sizes, less the norms that its outputs do not depend on."""
    statistics = "running_mean", "running_var", "num_batches_tracked"
    weights = {
        key: value.numel()
        for key, value in published(shared, name).items()
        if not key.endswith(statistics)
    }
    assert sum(weights.values()) == {"AASIST": 297866, "AASIST-L": 85306}[name]
    unused = sum(n for key, n in weights.items() if ".bn1." in key)
    parameters = AASIST(**SIZES[name]).parameters()
    assert sum(p.numel() for p in parameters) == sum(weights.values()) - unused


def test_parameter_counts():
    counts = [
        sum(p.numel() for p in AASIST(**SIZES[name]).parameters())
        for name in NAMES
    ]
    assert counts == [297_866 - 512, 85_306 - 272]


def test_other_tensors_are_refused():
    for name in (
        "Sinc_conv.low_hz_",
        "encoder.6.0.conv1.weight",
        "GAT_layer_S.att_weight2",
        "pool_S.score.weight",
        "master3",
    ):
        with pytest.raises(InputError, match=f"'{name}' is no tensor of the"):
            aasist_state_dict({"pos_S": 0, name: 1})


@pytest.mark.parametrize("frames", [9, WINDOW + 2, WINDOW + 3, 2 * WINDOW + 1])
def test_window_after_window_is_the_whole(frames):
    """Without gradients, on numbers of frames around those of a window."""
    network = tiny().eval()
    samples = TINY["sinc_kernel_size"] - 1 + POOL * frames
    wavs = torch.randn(2, samples, dtype=torch.float64)
    whole = network(wavs)
    with torch.no_grad():
        assert torch.allclose(network(wavs), whole, rtol=0, atol=1e-12)


def test_hooks_of_the_residual_blocks_fire():
    """As those of summaries and Grad-CAM, with and without gradients."""
    network, shapes = tiny().eval(), []
    network.encoder[0].register_forward_hook(
        lambda block, inputs, output: shapes.append(tuple(output.shape))
    )
    samples = TINY["sinc_kernel_size"] - 1 + POOL * (WINDOW + 3)
    wavs = torch.randn(2, samples, dtype=torch.float64)
    network(wavs)
    with torch.no_grad():
        network(wavs)
    frames = (WINDOW + 3) // POOL
    assert shapes == [(n, 2, 3, frames) for n in (2, 1, 1)]


def test_too_short_is_refused():
    network = AASIST(**TINY)
    with pytest.raises(ValueError, match="43 samples at least, got 42"):
        network(torch.randn(2, 42))


def test_every_parameter_learns_from_a_batch():
    torch.manual_seed(0)
    network = AASIST(**TINY)
    statistics = network.encoder[1].norm.running_mean.clone()
    loss = torch.nn.functional.cross_entropy(
        network(torch.randn(2, 2000)), torch.tensor([0, 1])
    )
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not torch.equal(network.encoder[1].norm.running_mean, statistics)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_gradients(training):
    """Against central differences, along a direction of waveforms and all
    parameters at once."""
    network = tiny(graph_dropout=0.0, pool_dropout=0.0, dropout=0.0)
    network.train(training)
    names = [name for name, _ in network.named_parameters()]
    wavs = torch.randn(2, 500, dtype=torch.float64)
    point = [wavs, *(p.detach() for p in network.parameters())]
    direction = [torch.randn_like(value) for value in point]

    def loss_and_gradients(step):
        values = [
            (value + step * change).requires_grad_()
            for value, change in zip(point, direction)
        ]
        logits = torch.func.functional_call(
            network, dict(zip(names, values[1:])), values[0]
        )
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
        gradients = torch.autograd.grad(loss, values, create_graph=True)
        return loss, gradients, values

    def along(gradients):
        return sum((g * d).sum() for g, d in zip(gradients, direction))

    _, gradients, values = loss_and_gradients(0.0)
    second = torch.autograd.grad(along(gradients), values)
    size = 1e-6
    (high, above, _), (low, below, _) = map(loss_and_gradients, (size, -size))
    difference = (high - low) / (2 * size)
    assert torch.allclose(along(gradients), difference, rtol=1e-6)
    for name, ours, up, down in zip(["wavs", *names], second, above, below):
        expected = (up - down) / (2 * size)
        assert ours.isfinite().all(), name
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-6), name
