"""Gaussian mixtures and EM, against formulas in plain numpy."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from tiny_onnx import small_network

from speechbrain_bilevel.lobes.cepstral_gmm import CepstralGMM
from speechbrain_bilevel.nnet.gmm import EM, GaussianMixtures
from speechbrain_bilevel.nnet.losses import NegativeLogLikelihood
from speechbrain_bilevel.nnet.schedulers import inverse_power

CLIPS, FRAMES, SIZE, COMPONENTS = 6, 40, 3, 4
LABELS = torch.tensor([0, 1, 0, 0, 1, 0])


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def clips(seed=0):
    """Frames of two kinds of clips, around several centers each."""
    rng = np.random.default_rng(seed)
    centers = 3 * rng.standard_normal((2, COMPONENTS, SIZE))
    kinds = rng.integers(COMPONENTS, size=(CLIPS, FRAMES))
    frames = centers[LABELS.numpy()[:, None], kinds]
    return torch.from_numpy(frames + rng.standard_normal(frames.shape))


def mixtures_for(frames):
    torch.manual_seed(0)
    mixtures = GaussianMixtures(2, COMPONENTS, SIZE)
    mixtures(frames)
    return mixtures


def step(mixtures, optimizer, frames, labels):
    loss = NegativeLogLikelihood()(mixtures(frames), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def joint(x, weight, mean, variance):
    """Log densities of each frame and component."""
    of_features = norm.logpdf(x[:, None], mean, np.sqrt(variance))
    return np.log(weight) + of_features.sum(axis=-1)


def parts_of(mixtures, label):
    found = mixtures.components.detach()[label].clone().numpy()
    weight, mean, variance = np.split(found, [1, 1 + SIZE], axis=1)
    return np.exp(weight[:, 0]), mean, np.exp(variance)


def em(x, weight, mean, variance, floor=1e-6):
    """An iteration as in a textbook."""
    terms = joint(x, weight, mean, variance)
    posterior = np.exp(terms - logsumexp(terms, axis=1, keepdims=True))
    count = posterior.sum(axis=0)[:, None]
    mean = posterior.T @ x / count
    variance = posterior.T @ x**2 / count - mean**2
    return count[:, 0] / len(x), mean, np.maximum(variance, floor)


def test_likelihoods_by_definition():
    frames = clips()
    mixtures = mixtures_for(frames)
    optimizer = EM(mixtures.parameters())
    step(mixtures, optimizer, frames, LABELS)
    found = mixtures(frames).detach().numpy()
    for label in (0, 1):
        for clip, likelihood in zip(frames.numpy(), found[:, label]):
            terms = joint(clip, *parts_of(mixtures, label))
            expected = logsumexp(terms, axis=1).mean()
            np.testing.assert_allclose(likelihood, expected, rtol=1e-12)


def test_a_step_of_all_data_is_an_iteration_of_em():
    frames = clips()
    mixtures = mixtures_for(frames)
    optimizer = EM(mixtures.parameters())
    x = [frames[n == LABELS].flatten(0, 1).numpy() for n in (0, 1)]
    expected, losses = [parts_of(mixtures, n) for n in (0, 1)], []
    for _ in range(10):
        losses.append(step(mixtures, optimizer, frames, LABELS))
        for label in (0, 1):
            expected[label] = em(x[label], *expected[label])
            for part, other in zip(parts_of(mixtures, label), expected[label]):
                np.testing.assert_allclose(part, other, rtol=1e-8, atol=1e-8)
    assert losses == sorted(losses, reverse=True)


def test_accumulated_gradients_are_those_of_all_data():
    frames = clips()
    whole, parted = mixtures_for(frames), mixtures_for(frames)
    step(whole, EM(whole.parameters()), frames, LABELS)
    optimizer = EM(parted.parameters())
    for part in ([0, 1], [2, 3], [4, 5]):
        loss = NegativeLogLikelihood()(parted(frames[part]), LABELS[part])
        (loss / 3).backward()
    optimizer.step()
    torch.testing.assert_close(parted.components, whole.components)


def test_steps_mix_batches_as_stepwise_em_does():
    """Against running sums of moments about zero."""
    frames = clips()
    mixtures = mixtures_for(frames)
    optimizer, rate = EM(mixtures.parameters(), lr=0.3), 0.3
    weight, mean, variance = parts_of(mixtures, 0)
    sums = None
    for part in ([0, 1], [1, 4], [2, 3], [5, 4]):
        step(mixtures, optimizer, frames[part], LABELS[part])
        own = frames[part][LABELS[part] == 0].flatten(0, 1).numpy()
        posterior = np.zeros((0, COMPONENTS))
        if len(own):
            terms = joint(own, weight, mean, variance)
            posterior = np.exp(terms - logsumexp(terms, axis=1, keepdims=True))
        batch = [posterior.sum(axis=0)[:, None]]
        batch += [posterior.T @ own, posterior.T @ own**2]
        if sums is None:
            # What is known at first is the initial mixture.
            known = weight[:, None] * batch[0].sum()
            sums = [known, known * mean, known * (variance + mean**2)]
        sums = [(1 - rate) * s + rate * b for s, b in zip(sums, batch)]
        weight = sums[0][:, 0] / sums[0].sum()
        mean = sums[1] / sums[0]
        variance = sums[2] / sums[0] - mean**2
        found = parts_of(mixtures, 0)
        for part, expected in zip(found, (weight, mean, variance)):
            np.testing.assert_allclose(part, expected, rtol=1e-8)


def test_a_class_that_is_not_in_the_batch_stays_as_it_is():
    frames = clips()
    mixtures = mixtures_for(frames)
    before = mixtures.components.detach().clone()
    optimizer = EM(mixtures.parameters())
    step(mixtures, optimizer, frames[LABELS == 0], LABELS[LABELS == 0])
    assert torch.equal(mixtures.components[1], before[1])
    assert not torch.equal(mixtures.components[0], before[0])
    # And learns when it comes.
    step(mixtures, optimizer, frames, LABELS)
    assert not torch.equal(mixtures.components[1], before[1])


def test_the_variance_floor_and_components_without_frames():
    frames = torch.zeros(2, 5, SIZE)
    mixtures = GaussianMixtures(2, COMPONENTS, SIZE)
    mixtures.initialize(torch.eye(SIZE) * 100)
    optimizer = EM(mixtures.parameters(), variance_floor=0.25)
    for _ in range(5):
        step(mixtures, optimizer, frames, torch.tensor([0, 1]))
    _, mean, variance = parts_of(mixtures, 0)
    assert np.isfinite(mixtures.components.detach().numpy()).all()
    assert variance.min() == pytest.approx(0.25)
    assert abs(mean).min() < 1e-9
    with pytest.raises(ValueError, match="lr: 1.5"):
        EM(mixtures.parameters(), lr=1.5)


def test_it_begins_at_frames_of_the_first_batch_only():
    frames = clips()
    mixtures = GaussianMixtures(2, COMPONENTS, SIZE)
    mixtures.eval()(frames)
    assert not mixtures.initialized
    mixtures.train()(frames)
    begun = mixtures.components.detach().clone()
    means = begun[0, :, 1 : 1 + SIZE]
    distances = torch.cdist(means, frames.flatten(0, 1))
    assert (distances.min(dim=1).values < 1e-5).all()
    assert len(means.unique(dim=0)) == COMPONENTS
    # Also what was saved and loaded does not begin again.
    resumed = GaussianMixtures(2, COMPONENTS, SIZE)
    resumed.load_state_dict(mixtures.state_dict())
    for each in (mixtures, resumed):
        each.train()(frames + 1)
        assert torch.equal(each.components, begun)


def test_a_resumed_optimizer_goes_on_to_the_bit():
    frames = clips()
    mixtures = mixtures_for(frames)
    optimizer = EM(mixtures.parameters())
    schedule = inverse_power(optimizer)
    resumed = mixtures_for(frames)
    for part in ([0, 1], [2, 4]):
        step(mixtures, optimizer, frames[part], LABELS[part])
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 4**-0.6
    resumed.load_state_dict(mixtures.state_dict())
    other = EM(resumed.parameters())
    other.load_state_dict(optimizer.state_dict())
    for each, made in ((mixtures, optimizer), (resumed, other)):
        step(each, made, frames[3:], LABELS[3:])
    assert torch.equal(mixtures.components, resumed.components)


def test_the_network_learns_noise_of_two_colors():
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    noise = 0.1 * torch.randn(12, 4000)
    noise[::2, 1:] += 0.5 * noise[::2, :-1]
    labels = torch.arange(12) % 2
    for features in ("lfcc", "cqcc"):
        network = CepstralGMM(4000, features, num_components=3)
        optimizer = EM(network.parameters())
        for _ in range(4):
            step(network, optimizer, noise[:8], labels[:8])
        logits = network.eval()(noise[8:])
        assert torch.equal(logits.argmax(dim=1), labels[8:])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(network(noise[8:]), logits)
    assert sum(p.numel() for p in CepstralGMM().parameters()) == 123_904
    with pytest.raises(ValueError, match="features: 'mfcc'"):
        CepstralGMM(features="mfcc")


def test_it_is_differentiable_twice():
    network = small_network("CepstralGMM").double()
    wavs = (0.1 * torch.randn(1, 700)).requires_grad_()
    loss = NegativeLogLikelihood()(network(wavs), torch.tensor([1]))
    (gradient,) = torch.autograd.grad(loss, wavs, create_graph=True)
    gradient.square().sum().backward()
    assert wavs.grad.isfinite().all() and wavs.grad.any()
