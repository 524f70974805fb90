"""V2's layers that have a backward pass of their own, against plain ones."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call

from speechbrain_bilevel.lobes.v2 import V2, SincFilters
from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm
from speechbrain_bilevel.nnet.sinc import sinc_patches
from speechbrain_bilevel.nnet.transformer import Dropout

FILTERS, KERNEL, SIDE = 10, 13, 4


class WholeNumbers(torch.nn.Module):
    """Filters whose responses to whole numbers are exact."""

    def __init__(self):
        super().__init__()
        values = torch.randint(-3, 4, (FILTERS, KERNEL // 2 + 1))
        self.values = torch.nn.Parameter(values.double())

    def first_half(self):
        return self.values


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def layers(samples, pool):
    """Sinc filters, norm and patches with random parameters; filters and
    frames are left over on the right."""
    frames = (samples - KERNEL + 1) // pool
    sinc, norm = SincFilters(FILTERS, KERNEL), UnbiasedLayerNorm([FILTERS, 1])
    norm.gamma, norm.beta = (
        torch.nn.Parameter(torch.randn(FILTERS, frames)) for _ in range(2)
    )
    return sinc, norm, torch.nn.Conv2d(1, 5, SIDE, stride=SIDE)


def plain(wavs, sinc, norm, patches, pool):
    """What ``sinc_patches`` computes, in as many steps as it takes to say."""
    half = sinc.first_half()
    filters = torch.cat([half, half[:, :-1].flip(1)], dim=1)
    x = torch.nn.functional.conv1d(wavs.unsqueeze(1), filters.unsqueeze(1))
    x = torch.nn.functional.max_pool1d(x.abs(), pool)
    std, mean = torch.std_mean(x, dim=-1, keepdim=True)
    x = (x - mean) / (std + norm.eps) * norm.gamma + norm.beta
    x = torch.nn.functional.leaky_relu(x, 0.2)
    return patches(x.unsqueeze(1)).flatten(2)


def wavs_of(kind, samples):
    """Waveforms; of some, several responses in a frame are the largest."""
    noise = torch.randn(3, samples)
    if kind == "silence":
        noise[1:] = 0
    return noise if kind != "whole numbers" else noise.round()


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("kind", ["noise", "silence", "whole numbers"])
@pytest.mark.parametrize("samples", [131, 13_000])
def test_sinc_patches(kind, pool, samples):
    wavs, parts = wavs_of(kind, samples), layers(samples, pool)
    if kind == "whole numbers":
        parts = WholeNumbers(), *parts[1:]
    parameters = [p for part in parts for p in part.parameters()]
    found = []
    for function in (plain, sinc_patches):
        out = function(wavs, *parts, pool)
        weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
        gradients = torch.autograd.grad((out * weights).sum(), parameters)
        found.append([out, *gradients])
    for expected, ours in zip(*found):
        assert expected.shape == ours.shape
        scale = expected.abs().max().clamp_min(1e-9)
        assert (expected - ours).abs().max() / scale < 1e-8


def test_sinc_patches_are_differentiable_twice_and_forward():
    wavs, parts = torch.randn(2, 61), layers(61, 3)
    parameters = [p for part in parts for p in part.parameters()]
    direction = [torch.randn_like(p) for p in parameters]

    def product(function):
        loss = function(wavs, *parts, 3).tanh().sum()
        found = torch.autograd.grad(loss, parameters, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(found, direction))
        return torch.autograd.grad(along, parameters)

    expected = product(plain)
    for ours, other in zip(product(sinc_patches), expected):
        assert (ours - other).abs().max() < 1e-9 * other.abs().max() + 1e-12

    # Forward over backward, where waveforms have a tangent, and nothing else.
    tangents = []
    for function in (plain, sinc_patches):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(wavs, torch.ones_like(wavs))
            loss = function(dual, *parts, 3).tanh().sum()
            gradients = torch.autograd.grad(loss, parameters)
            tangents.append(
                [forward_ad.unpack_dual(g).tangent for g in gradients]
            )
    for ours, other in zip(*tangents):
        assert (ours - other).abs().max() < 1e-9 * other.abs().max() + 1e-12


def test_silent_clips_have_second_derivatives():
    """Both ways to them agree, without NaN, for which float32 is enough."""
    wavs, parts = wavs_of("silence", 61), torch.nn.ModuleList(layers(61, 3))
    wavs, parts = wavs.float(), parts.float()
    values = dict(parts.named_parameters())
    direction = {n: torch.randn_like(value) for n, value in values.items()}

    def gradients(values):
        def loss(values):
            patches = functional_call(
                Call(parts), {f"parts.{n}": v for n, v in values.items()}, wavs
            )
            return patches.tanh().sum()

        return torch.func.grad(loss)(values)

    _, expected = torch.func.jvp(gradients, (values,), (direction,))
    loss = sinc_patches(wavs, *parts, 3).tanh().sum()
    found = torch.autograd.grad(loss, values.values(), create_graph=True)
    along = sum((g * v).sum() for g, v in zip(found, direction.values()))
    found = torch.autograd.grad(along, values.values())
    for ours, other in zip(found, expected.values()):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)


class Call(torch.nn.Module):
    """``sinc_patches`` of its parts."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, wavs):
        return sinc_patches(wavs, *self.parts, 3)


def test_filters_are_made_of_no_coarse_product():
    """Which autocast and TF32 would make of a product of matrices."""
    double = SincFilters(8, 81)
    double.device = double.low_hz_.device
    speechbrain_s = double._get_sinc_filters()[:, 0, :41]
    torch.testing.assert_close(double.first_half(), speechbrain_s)
    filters = SincFilters(8, 81).float()
    expected = filters.first_half()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(filters.first_half(), expected)
        filters.device = filters.low_hz_.device
        coarse = filters._get_sinc_filters()[:, 0, :41]
    assert (coarse - expected).abs().max() > 0.01


def test_a_tangent_that_comes_from_behind():
    """The backward pass of a function without tangents may get one."""
    wavs, parts = torch.randn(2, 61), layers(61, 3)
    parameters = [p for part in parts for p in part.parameters()]
    found = []
    for function in (plain, sinc_patches):
        with forward_ad.dual_level():
            out = function(wavs, *parts, 3)
            factor = forward_ad.make_dual(torch.ones(()), torch.ones(()))
            gradients = torch.autograd.grad((out * factor).sum(), parameters)
            found.append([forward_ad.unpack_dual(g).tangent for g in gradients])
    for ours, other in zip(*found):
        assert (ours - other).abs().max() < 1e-9 * other.abs().max() + 1e-12


def test_gradient_by_waveforms():
    wavs, parts = torch.randn(2, 61, requires_grad=True), layers(61, 3)
    gradients = [
        torch.autograd.grad(f(wavs, *parts, 3).tanh().sum(), wavs)[0]
        for f in (plain, sinc_patches)
    ]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_layer_norm():
    norm = UnbiasedLayerNorm([3, 7])
    x = torch.randn(2, 3, 7, requires_grad=True)
    gamma, beta = (torch.randn(3, 7, requires_grad=True) for _ in range(2))

    def function(x, gamma, beta):
        values = {"gamma": gamma, "beta": beta}
        return torch.func.functional_call(norm, values, (x,))

    arguments = x, gamma, beta
    std, mean = torch.std_mean(x, dim=-1, keepdim=True)
    expected = (x - mean) / (std + norm.eps) * gamma + beta
    torch.testing.assert_close(function(*arguments), expected)
    assert gradcheck(function, arguments, check_forward_ad=True)
    assert gradgradcheck(function, arguments, check_fwd_over_rev=True)
    for one in range(3):
        inputs = [a.detach() for a in arguments]
        inputs[one].requires_grad_()
        assert gradgradcheck(function, inputs)


def test_layer_norm_of_a_constant_row_has_no_nan():
    x = torch.ones(2, 7, requires_grad=True)
    out = UnbiasedLayerNorm(7)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert (out == 0).all() and (gradient == 0).all()


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(p):
    x = torch.randn(300, 1001, requires_grad=True)
    layer = Dropout(p)
    out = layer(x)
    dropped = (out == 0).double().mean()
    # Five standard deviations.
    assert abs(dropped - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-17
    share = round(p * 2**16) / 2**16
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, (out != 0) / (1 - share))
    torch.testing.assert_close(out, x * gradient)
    # Neighbors are dropped independently, also within a 64-bit number.
    zero = (out.flatten() == 0).double() - dropped
    for lag in (1, 2, 3, 4):
        correlation = (zero[lag:] * zero[:-lag]).mean() / (p * (1 - p))
        assert abs(correlation) < 5 / x.numel() ** 0.5
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_of_all_and_of_nothing():
    x = torch.randn(5)
    assert torch.equal(Dropout(0.0)(x), x)
    assert (Dropout(1.0)(x) == 0).all()


def test_a_batch_without_gradients_has_the_outputs_of_one_with():
    network = V2(
        num_samples=1600,
        sinc_channels=8,
        patch_size=4,
        token_sizes=[12, 6],
        encoder_channels=[4, 8],
        num_layers=1,
        nhead=2,
        d_ffn=16,
        gru_hidden_size=4,
    ).eval()
    wavs = torch.randn(7, 1600)
    expected = network(wavs)
    with torch.no_grad():
        torch.testing.assert_close(network(wavs), expected)
        # In training, statistics are of the whole batch.
        network.train()
        torch.manual_seed(0)
        found = network(wavs)
    torch.manual_seed(0)
    torch.testing.assert_close(network(wavs), found)
