"""Learned weights of trials in the lower loss."""

import pytest
import torch

from speechbrain_bilevel.nnet.losses import LossWeights


def uneven(size=6):
    weights = LossWeights(size).double()
    values = torch.linspace(-3, 2, size, dtype=torch.float64)
    weights.logits.data.copy_(values)
    return weights


def test_weights_begin_at_one():
    assert torch.equal(LossWeights(4)(torch.tensor([3, 0])), torch.ones(2))


def test_weights_by_their_formula():
    weights = uneven()
    sigmoids = [1 / (1 + 2.718281828459045**-x) for x in (-3, -2, -1, 0, 1, 2)]
    mean = sum(sigmoids) / 6
    found = weights(torch.tensor([5, 1, 1])).tolist()
    expected = [sigmoids[i] / mean for i in (5, 1, 1)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_scale_stays_however_the_logits_move():
    weights, everything = uneven(), torch.arange(6)
    for shift in (0.0, -5.0, 5.0):
        weights.logits.data += shift
        assert weights(everything).mean().item() == pytest.approx(1, rel=1e-12)


def test_a_weight_does_not_depend_on_its_batch():
    weights = uneven()
    alone = weights(torch.tensor([4]))
    among_others = weights(torch.tensor([0, 4, 5]))[1]
    assert alone.item() == among_others.item()


def test_gradients_go_to_the_trials_of_the_batch():
    weights, losses = uneven(), torch.tensor([3.0, 1.0]).double()
    indices = torch.tensor([4, 2])
    (weights(indices) * losses).mean().backward()
    grad = weights.logits.grad
    # Those of the batch as the formula says, all others by the mean only.
    sigmoids = weights.logits.detach().sigmoid()
    slopes, mean = sigmoids * (1 - sigmoids), sigmoids.mean()
    total = (sigmoids[indices] * losses).mean()
    expected = -total / mean**2 * slopes / 6
    expected[indices] += losses / 2 * slopes[indices] / mean
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=0)
    assert grad[4] > 0 and (grad[[0, 1, 3, 5]] < 0).all()


def test_a_loss_that_all_trials_share_moves_no_weight():
    weights = LossWeights(5).double()
    (3.0 * weights(torch.arange(5))).mean().backward()
    assert weights.logits.grad.abs().max() < 1e-15
