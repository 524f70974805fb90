"""The metrics of ASVspoof 5 on closed forms and against loops."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from speechbrain_bilevel.metrics.asvspoof5 import (
    BAYES_THRESHOLD,
    act_dcf,
    cllr,
    min_adcf,
    min_dcf,
)
from speechbrain_bilevel.metrics.tdcf import TDCFCosts
from speechbrain_bilevel.utils.errors import InputError

SPECIAL = {
    "perfect": ([2.0, 3.0], [0.0, 1.0], 0.0),
    "inverted": ([0.0, 1.0], [2.0, 3.0], 1.0),
    "constant": ([1.0, 1.0], [1.0, 1.0], 1.0),
    # Rejecting half of the bona fide trials costs 0.95, all of the spoofed
    # ones accepted 1.
    "half": ([0.0, 3.0], [1.0, 1.0], 0.95),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_min_dcf_of_special_cases(name):
    bonafide, spoof, expected = SPECIAL[name]
    assert min_dcf(bonafide, spoof)[0] == pytest.approx(expected, abs=1e-12)


def test_min_dcf_of_gaussians_is_bayes_rule():
    # Equal variances: the log-likelihood ratio is monotone in the score, so
    # the lowest cost is at its Bayes threshold.
    shift = 2.0
    bonafide = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    spoof = bonafide - shift
    threshold = BAYES_THRESHOLD / shift - shift / 2
    expected = 1.9 * norm.cdf(threshold) + norm.sf(threshold + shift)
    value, found = min_dcf(bonafide, spoof)
    assert value == pytest.approx(expected, abs=1e-4)
    assert found == pytest.approx(threshold, abs=2e-2)
    # As log-likelihood ratios the actual cost is the minimum.
    ratios = [shift * x + shift**2 / 2 for x in (bonafide, spoof)]
    assert act_dcf(*ratios) == pytest.approx(expected, abs=1e-4)
    # And misleading ones pay.
    assert act_dcf(*(x - 3 for x in ratios)) > value + 0.1


def test_act_dcf_accepts_at_the_threshold():
    assert pytest.approx(-np.log(1.9)) == BAYES_THRESHOLD
    at, below = BAYES_THRESHOLD, np.nextafter(BAYES_THRESHOLD, -np.inf)
    assert act_dcf([at], [below]) == 0.0
    assert act_dcf([below], [at]) == pytest.approx(2.9)


def test_cllr_of_gaussians_is_the_integral():
    shift = 1.5
    quantiles = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    ratios = shift * quantiles + shift**2 / 2

    def cost(x):
        ratio = shift * x + shift**2 / 2
        return np.logaddexp(0, -ratio) / np.log(2) * norm.pdf(x)

    expected, _ = quad(cost, -12, 12)
    assert cllr(ratios, -ratios) == pytest.approx(expected, abs=1e-5)


def test_cllr_at_the_limits():
    assert cllr([0.0], [0.0, 0.0]) == 1.0
    assert cllr([800.0], [-800.0]) == pytest.approx(0.0, abs=1e-12)
    # Overconfident errors cost their size in bits, without overflow.
    assert cllr([-1e6], [1e6]) == pytest.approx(1e6 / np.log(2))


def by_hand(target, nontarget, spoof, costs):
    """The a-DCF at every threshold in the middle of two scores."""
    scores = np.unique(np.concatenate([target, nontarget, spoof]))
    thresholds = [
        scores[0] - 1,
        *(scores[:-1] + scores[1:]) / 2,
        scores[-1] + 1,
    ]
    miss = costs.p_target * costs.c_miss_asv
    accept_nontarget = costs.p_nontarget * costs.c_fa_asv
    accept_spoof = costs.p_spoof * costs.c_fa_cm
    values = [
        miss * np.mean(np.array(target) < t)
        + accept_nontarget * np.mean(np.array(nontarget) > t)
        + accept_spoof * np.mean(np.array(spoof) > t)
        for t in thresholds
    ]
    return min(values) / min(miss, accept_nontarget + accept_spoof)


def test_min_adcf_against_a_loop():
    rng = np.random.default_rng(0)
    for costs in TDCFCosts(), TDCFCosts(c_fa_cm=0.3, c_fa_asv=200.0):
        for _ in range(50):
            target = rng.normal(2, 1, rng.integers(1, 20))
            nontarget = rng.normal(0, 1, rng.integers(1, 20))
            spoof = rng.normal(1, 1, rng.integers(1, 20))
            value, _ = min_adcf(target, nontarget, spoof, costs)
            expected = by_hand(target, nontarget, spoof, costs)
            assert value == pytest.approx(expected, abs=1e-12)


def test_min_adcf_of_special_cases():
    assert min_adcf([3.0, 4.0], [1.0], [0.0, 2.0]) == (0.0, 2.0)
    assert min_adcf([0.0], [1.0], [1.0])[0] == 1.0
    # Passed one by one, the target first, a tie separates nothing.
    assert min_adcf([1.0], [1.0], [1.0])[0] == 1.0
    with pytest.raises(InputError, match="a-DCF undefined"):
        min_adcf([1.0], [0.0], [0.0], TDCFCosts(c_miss_asv=0.0))


@pytest.mark.parametrize("metric", [min_dcf, act_dcf, cllr])
@pytest.mark.parametrize(
    "bonafide, spoof, message",
    [
        ([], [1.0], "no bona fide score"),
        ([1.0], [], "no spoof score"),
        ([1.0, np.nan], [1.0], "1 of 2 bona fide scores are NaN"),
        ([1.0], [-np.inf], "1 of 1 spoof scores are NaN or"),
    ],
)
def test_unusable_scores_are_refused(metric, bonafide, spoof, message):
    with pytest.raises(InputError, match=message):
        metric(bonafide, spoof)
