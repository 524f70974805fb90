"""Calibration and fusion against closed forms and an independent loss."""

import numpy as np
import pytest
from official_scores import official_scores
from scipy import optimize
from scipy.integrate import quad

from speechbrain_bilevel.metrics.asvspoof5 import cllr
from speechbrain_bilevel.metrics.calibration import LinearFusion, learn_fusion
from speechbrain_bilevel.utils.errors import InputError


def normal_scores(means, n_bonafide, n_spoof, seed=0):
    """Systems with N(+mean, 1) for bona fide and N(-mean, 1) for spoof.

    The log-likelihood ratio of independent ones is 2 * sum(mean * score).
    """
    is_bonafide = np.arange(n_bonafide + n_spoof) < n_bonafide
    noise = np.random.default_rng(seed).normal(
        size=(len(is_bonafide), len(means))
    )
    return np.where(is_bonafide[:, None], means, np.negative(means)) + noise, (
        is_bonafide
    )


def smoothed_loss(weights, bias, scores, is_bonafide):
    """What is to be minimized, written trial by trial from its definition."""
    n_bonafide, n_spoof = sum(is_bonafide), sum(~is_bonafide)
    total = {True: 0.0, False: 0.0}
    for row, key in zip(scores, is_bonafide):
        p = 1 / (1 + np.exp(-(np.dot(weights, row) + bias)))
        if key:
            target = (n_bonafide + 1) / (n_bonafide + 2)
        else:
            target = 1 / (n_spoof + 2)
        total[bool(key)] -= target * np.log(p) + (1 - target) * np.log(1 - p)
    return total[True] / n_bonafide / 2 + total[False] / n_spoof / 2


@pytest.mark.parametrize("mean", [0.5, 1.0, 1.5])
def test_normal_scores_get_their_llr_and_its_cllr(mean):
    scores, is_bonafide = normal_scores([mean], 40000, 20000)
    calibrate = learn_fusion(scores, is_bonafide)
    assert calibrate.weights[0] == pytest.approx(2 * mean, rel=0.03)
    assert calibrate.bias == pytest.approx(0, abs=0.05)

    def bits_at(score):
        density = np.exp(-((score - mean) ** 2) / 2) / np.sqrt(2 * np.pi)
        return density * np.logaddexp(0, -2 * mean * score) / np.log(2)

    llr = calibrate(scores)
    expected = quad(bits_at, -12, 12)[0]
    assert cllr(llr[is_bonafide], llr[~is_bonafide]) == pytest.approx(
        expected, rel=0.02
    )


def test_fusion_of_independent_systems_adds_their_llrs():
    scores, is_bonafide = normal_scores([1.0, 0.5], 40000, 40000)
    fusion = learn_fusion(scores, is_bonafide)
    assert fusion.weights == pytest.approx((2.0, 1.0), rel=0.03)
    assert fusion.bias == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("counts", [(300, 300), (40, 700), (3, 2)])
@pytest.mark.parametrize("means", [[1.0], [0.3, 2.5]])
def test_the_loss_has_no_slope_at_the_solution(means, counts):
    scores, is_bonafide = normal_scores(means, *counts)
    fusion = learn_fusion(scores, is_bonafide)
    at = np.array([*fusion.weights, fusion.bias])

    def loss(x):
        return smoothed_loss(x[:-1], x[-1], scores, is_bonafide)

    step = 1e-4
    for direction in step * np.eye(len(at)):
        slope = (loss(at + direction) - loss(at - direction)) / (2 * step)
        assert slope == pytest.approx(0, abs=1e-8)
        assert loss(at) < min(loss(at + direction), loss(at - direction))


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 3.0, 1e9, 1e200])
def test_offset_and_scale_do_not_change_the_llrs(scale):
    scores, is_bonafide = normal_scores([1.0, 0.7], 500, 900)
    llr = learn_fusion(scores, is_bonafide)(scores)
    moved = scale * (scores + np.array([5.0, -40.0]))
    moved_llr = learn_fusion(moved, is_bonafide)(moved)
    np.testing.assert_allclose(moved_llr, llr, rtol=0, atol=1e-6)


def test_the_size_of_a_class_does_not_matter():
    scores, is_bonafide = normal_scores([1.0], 4000, 4000)
    index = np.concatenate([np.arange(8000), *2 * [np.arange(4000)]])
    once = learn_fusion(scores, is_bonafide)
    thrice = learn_fusion(scores[index], is_bonafide[index])
    assert thrice.weights == pytest.approx(once.weights, rel=2e-3)
    assert thrice.bias == pytest.approx(once.bias, abs=2e-3)


def test_the_order_of_trials_does_not_matter():
    scores, is_bonafide = normal_scores([1.0], 100, 100)
    other = np.random.default_rng(1).permutation(200)
    once = learn_fusion(scores, is_bonafide)
    again = learn_fusion(scores[other], is_bonafide[other])
    assert again.weights == pytest.approx(once.weights, rel=1e-9)


@pytest.mark.parametrize("gap", [1e-3, 1.0, 1e6])
def test_separable_scores_get_the_smoothed_odds(gap):
    # Two points, so the targets themselves are reached: 11/12 and 1/42.
    scores = np.repeat([gap, 0.0], [10, 40])[:, None]
    llr = learn_fusion(scores, scores[:, 0] > 0)([[gap], [0.0]])
    np.testing.assert_allclose(llr, [np.log(11), -np.log(41)], rtol=1e-9)


def test_far_separated_normal_scores_stay_finite():
    scores, is_bonafide = normal_scores([30.0], 100, 100)
    llr = learn_fusion(scores, is_bonafide)(scores)
    assert min(llr[is_bonafide]) > 3 and max(llr) < 10


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (-2.0, 1.0)])
def test_copies_share_the_weight_of_the_original(scale, offset):
    scores, is_bonafide = normal_scores([1.0], 500, 500)
    alone = learn_fusion(scores, is_bonafide)
    both = np.hstack([scores, scale * scores + offset])
    fusion = learn_fusion(both, is_bonafide)
    np.testing.assert_allclose(fusion(both), alone(scores), atol=1e-9)
    half = alone.weights[0] / 2
    assert fusion.weights == pytest.approx((half, half / scale), rel=1e-6)


def test_a_rounded_copy_gets_no_huge_weight():
    scores, is_bonafide = normal_scores([1.0], 5000, 5000)
    both = np.hstack([scores, scores.round(3)])
    weights = learn_fusion(both, is_bonafide).weights
    assert weights == pytest.approx((1.0, 1.0), rel=0.05)


def test_a_sum_of_other_systems_adds_nothing():
    scores, is_bonafide = normal_scores([1.0, 0.5], 2000, 2000)
    three = np.column_stack([scores, scores.sum(1)])
    np.testing.assert_allclose(
        learn_fusion(three, is_bonafide)(three),
        learn_fusion(scores, is_bonafide)(scores),
        atol=1e-6,
    )


def test_a_negated_system_is_refused_alone_and_used_in_a_fusion():
    scores, is_bonafide = normal_scores([1.0, 1.0], 500, 500)
    with pytest.raises(InputError, match=r"LCNN: .*negated.*Nothing was"):
        learn_fusion(-scores[:, :1], is_bonafide, ["LCNN"])
    assert learn_fusion(scores * [1, -1], is_bonafide).weights[1] < -1


@pytest.mark.parametrize(
    "scores, is_bonafide, message",
    [
        ([[1.0], [2.0]], [True, True], "none of the 2 trials .* is spoof"),
        ([[1.0], [2.0]], [False, False], "none of the 2 .* is bona fide"),
        ([[1.0], [np.nan]], [True, False], "1 of 2 system 1 scores are NaN"),
        (
            [[1.0, 3.0], [0.0, 3.0]],
            [True, False],
            "system 2: .*between 3 and 3",
        ),
        ([[1e308], [-1e308]], [True, False], "system 1: .*ordinary size"),
        ([[0.0], [1e-310]], [True, False], "system 1: .*ordinary size"),
        ([1.0, 0.0], [True, False], r"shape \(2,\).*\[n_trials, n_systems\]"),
        ([[1.0], [0.0]], [True], r"keys of shape \(1,\)"),
    ],
)
def test_unusable_scores_are_refused(scores, is_bonafide, message):
    with pytest.raises(InputError, match=message):
        learn_fusion(scores, is_bonafide)


@pytest.mark.parametrize("outlier", [1e4, 1e8, 1e12, 1e16])
def test_an_outlier_costs_no_more_than_telling_nothing(outlier):
    scores, is_bonafide = normal_scores([1.0], 300, 300)
    scores[0] = outlier
    llr = learn_fusion(scores, is_bonafide)(scores)
    limit = 0.6 if outlier == 1e4 else 1
    assert cllr(llr[is_bonafide], llr[~is_bonafide]) < limit


def test_what_has_not_converged_is_refused(monkeypatch):
    def stop_early(*args, options, **kwargs):
        return root(*args, options={"maxiter": 2}, **kwargs)

    root = optimize.root
    monkeypatch.setattr(optimize, "root", stop_early)
    with pytest.raises(InputError, match="no optimum was found"):
        learn_fusion(*normal_scores([1.0], 300, 300))


def test_applying_needs_a_column_for_each_weight_and_finite_sums():
    fusion = LinearFusion((1.0, 2.0), 0.0)
    with pytest.raises(InputError, match=r"shape \(3, 1\) for 2 weights"):
        fusion(np.zeros((3, 1)))
    with pytest.raises(InputError, match="1 of 2 weighted sums"):
        fusion([[0.0, 0.0], [1e308, 1e308]])


def test_official_scores_stay_finite():
    """Half of the trials calibrate the other half; no claim about systems."""
    bonafide, attacks, _ = official_scores()
    spoof = np.concatenate(list(attacks.values()))
    scores = np.concatenate([bonafide, spoof])[:, None]
    keys = np.arange(len(scores)) < len(bonafide)
    calibrate = learn_fusion(scores[::2], keys[::2])
    llr, keys = calibrate(scores[1::2]), keys[1::2]
    assert 0 < cllr(llr[keys], llr[~keys]) < 1
