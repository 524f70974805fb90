"""EER and t-DCF on cases computed by hand, by brute force, and as published."""

import numpy as np
import pytest
from official_scores import ASV_SCORES, FIGURES, official_scores, rounded

from speechbrain_bilevel.evaluation.score_files import (
    read_asv_scores,
    read_cm_scores,
    split_classes,
)
from speechbrain_bilevel.metrics.eer import det_curve, eer, interpolated_eer
from speechbrain_bilevel.metrics.tdcf import (
    ASVRates,
    TDCFCosts,
    act_tdcf,
    asv_rates,
    min_tdcf,
    tdcf_curve,
)
from speechbrain_bilevel.utils.errors import InputError

RATES = ASVRates(0.1, 0.0, p_miss=0.2, p_fa=0.1, p_fa_spoof=0.5)
FORMS = "legacy", "revised"


# ---------------------------------------------------------------- EER


def test_det_curve_by_hand():
    frr, far, thresholds = det_curve([5.0, 3.0, 8.0, 6.0], [4.0, 1.0])
    assert thresholds.tolist() == [0.999, 1, 3, 4, 5, 6, 8]
    assert frr.tolist() == [0, 0, 0.25, 0.25, 0.5, 0.75, 1]
    assert far.tolist() == [1, 0.5, 0.5, 0, 0, 0, 0]


def test_eer_takes_the_first_of_equally_close_points():
    # |FRR - FAR| is 0.25 at thresholds 3 and 4 of the curve above, where the
    # means are 0.375 and 0.125.
    assert eer([5.0, 3.0, 8.0, 6.0], [4.0, 1.0]) == (0.375, 3.0)


def test_eer_is_the_mean_of_the_two_rates():
    # Closest at threshold 2: FRR 1/3, FAR 1/2.
    rate, threshold = eer([2.0, 4.0, 5.0], [1.0, 3.0])
    assert rate == pytest.approx(5 / 12, abs=1e-15)
    assert threshold == 2.0


@pytest.mark.parametrize(
    "bonafide, spoof, expected",
    [
        ([2.0, 3.0], [0.0, 1.0], (0.0, 1.0)),
        ([0.0, 1.0], [2.0, 3.0], (1.0, 1.0)),
        # Ties are passed one by one, bona fide first, not collapsed to 0.5.
        ([7.0, 7.0], [7.0, 7.0], (1.0, 7.0)),
        # 1, b:2, s:2, 3: FRR and FAR meet at 0.5 after the bona fide 2, where
        # spoof first would give 0.
        ([2.0, 3.0], [1.0, 2.0], (0.5, 2.0)),
    ],
    ids=["perfect", "inverted", "constant", "tie"],
)
def test_eer_of_special_cases(bonafide, spoof, expected):
    assert eer(bonafide, spoof) == expected


def brute_force(bonafide, spoof):
    """Error rates of every threshold, by counting trials one by one."""
    # Of equal scores, bona fide ones are rejected first.
    trials = [(score, 0) for score in bonafide] + [(s, 1) for s in spoof]
    rejected, rates = [0, 0], [(0.0, 1.0)]
    for _, is_spoof in sorted(trials):
        rejected[is_spoof] += 1
        rates.append(
            (
                rejected[0] / len(bonafide),
                (len(spoof) - rejected[1]) / len(spoof),
            )
        )
    return rates


@pytest.mark.parametrize("n_bonafide, n_spoof", [(1, 1), (7, 40), (300, 700)])
def test_eer_and_min_tdcf_equal_brute_force(n_bonafide, n_spoof):
    rng = np.random.default_rng(0)
    # Few values, so that ties within and between classes are common.
    bonafide, spoof = (
        rng.integers(0, 5, n_bonafide),
        rng.integers(-1, 4, n_spoof),
    )
    rates = brute_force(bonafide, spoof)
    frr, far, _ = det_curve(bonafide, spoof)
    assert list(zip(frr.tolist(), far.tolist())) == rates
    closest = min(rates, key=lambda rate: abs(rate[0] - rate[1]))
    assert eer(bonafide, spoof)[0] == sum(closest) / 2
    c0 = 0.9405 * RATES.p_miss + 0.0095 * 10 * RATES.p_fa
    c1, c2 = 0.9405 - c0, 0.05 * 10 * RATES.p_fa_spoof
    for form, fixed in zip(FORMS, (0, c0)):
        costs = [fixed + c1 * miss + c2 * wrong for miss, wrong in rates]
        value, _ = min_tdcf(bonafide, spoof, RATES, form=form)
        expected = min(costs) / (fixed + min(c1, c2))
        assert value == pytest.approx(expected, abs=1e-14)


def test_eer_of_shifted_gaussians_is_the_normal_tail():
    # Means 2 apart, unit variance: EER = Phi(-1) = 0.158655.
    rng = np.random.default_rng(0)
    rate, threshold = eer(rng.normal(1, 1, 200_000), rng.normal(-1, 1, 200_000))
    assert rate == pytest.approx(0.158655, abs=0.002)
    assert threshold == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    "bonafide, spoof, message",
    [
        ([], [1.0], "there is no bona fide score"),
        ([1.0], [], "there is no spoof score"),
        ([1.0, np.nan, np.inf], [1.0], "2 of 3 bona fide scores are NaN or"),
        ([1.0], [0.0, -np.inf], "the first at index 1"),
        ([1.0], [[0.0, 1.0]], r"spoof scores have shape \(1, 2\)"),
    ],
)
def test_eer_refuses_unusable_scores(bonafide, spoof, message):
    with pytest.raises(InputError, match=message):
        eer(bonafide, spoof)


def interpolated_brute_force(bonafide, spoof):
    """EER and threshold by walking along the distinct scores."""
    before = None
    for threshold in sorted({*bonafide, *spoof}):
        frr = np.mean([score < threshold for score in bonafide])
        far = np.mean([score >= threshold for score in spoof])
        if far <= frr:
            part = (before[1] - before[0]) / (before[1] - before[0] + frr - far)
            rate = before[1] + part * (far - before[1])
            return rate, before[2] + part * (threshold - before[2])
        before = frr, far, threshold
    return (frr + far) / 2, threshold


@pytest.mark.parametrize("digits", [0, 1, 15])
def test_interpolated_eer_equals_brute_force(digits):
    rng = np.random.default_rng(digits)
    for _ in range(50):
        sizes, shift = rng.integers(1, 40, 2), rng.uniform(-2, 3)
        bonafide = rng.normal(shift, 1, sizes[0]).round(digits)
        spoof = rng.normal(0, 1, sizes[1]).round(digits)
        expected = interpolated_brute_force(bonafide, spoof)
        found = interpolated_eer(bonafide, spoof)
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "bonafide, spoof, expected",
    [
        ([2.0, 3.0], [0.0, 1.0], (0.0, 2.0)),
        ([7.0, 7.0], [7.0, 7.0], (0.5, 7.0)),
        # At the highest score, FAR is still 1 and FRR 1/3.
        ([0.0, 1.0, 1.0], [1.0, 1.0], (2 / 3, 1.0)),
        # (FRR, FAR) is (0, 1) at 0, (0, 2/3) at 1 and (1/2, 1/3) at 2: the
        # rates are equal at 4/5 of the way from 1 to 2.
        ([1.0, 2.0], [0.0, 1.0, 2.0], (0.4, 1.8)),
    ],
    ids=["perfect", "constant", "no crossing", "by hand"],
)
def test_interpolated_eer_of_special_cases(bonafide, spoof, expected):
    assert interpolated_eer(bonafide, spoof) == pytest.approx(expected)
    with pytest.raises(InputError, match="there is no spoof score"):
        interpolated_eer(bonafide, [])


def test_the_eer_depends_on_the_convention_where_scores_are_coarse():
    bonafide, attacks, _ = official_scores()
    spoof = np.concatenate(list(attacks.values()))
    rate, _ = interpolated_eer(bonafide, spoof)
    assert rounded(100 * rate, "5.651044") == "5.651044"
    coarse = bonafide.round(1), spoof.round(1)
    found = 100 * eer(*coarse)[0], 100 * interpolated_eer(*coarse)[0]
    assert found == pytest.approx((6.1179, 5.6817), abs=1e-4)


# ---------------------------------------------------------------- t-DCF


def test_asv_accepts_at_and_above_its_threshold():
    # The curve's EER point is at 2, where it rejects the target 2 and the
    # nontarget 1; at that threshold the ASV system accepts the target.
    rates = asv_rates([2.0, 4.0], [1.0, 3.0], [1.9, 2.0, 2.1, 0.0])
    assert rates == ASVRates(
        eer=0.5, threshold=2.0, p_miss=0.0, p_fa=0.5, p_fa_spoof=0.5
    )


def test_min_tdcf_by_hand():
    c1 = 0.9405 * (1 - 0.2) - 0.0095 * 10 * 0.1  # 0.7429
    c2 = 10 * 0.05 * 0.5  # 0.25
    # (FRR, FAR): (0, 1), (0, 2/3), (1/4, 2/3), (1/4, 1/3), (1/4, 0) ...
    costs = [c2 * 2 / 3, c1 / 4]
    value, threshold = min_tdcf([1.0, 5.0, 6.0, 7.0], [0.0, 2.0, 3.0], RATES)
    assert costs[0] < costs[1]
    assert value == pytest.approx(costs[0] / c2, abs=1e-12)
    assert threshold == 0.0
    # A spoof that is dearer to accept moves the minimum to rejecting all.
    dear = TDCFCosts(c_fa_cm=100.0)
    value, threshold = min_tdcf(
        [1.0, 5.0, 6.0, 7.0], [0.0, 2.0, 3.0], RATES, dear
    )
    assert value == pytest.approx(0.25, abs=1e-12)
    assert threshold == 3.0


def test_min_tdcf_of_perfect_and_inverted_scores():
    rates = ASVRates(0.1, 0.0, p_miss=0.1, p_fa=0.1, p_fa_spoof=0.6)
    assert min_tdcf([2.0, 3.0], [0.0, 1.0], rates) == (0.0, 1.0)
    # No better than accepting everything.
    value, threshold = min_tdcf([0.0, 1.0], [2.0, 3.0], rates)
    assert (value, threshold) == (1.0, -0.001)


@pytest.mark.parametrize(
    "rates, costs, message",
    [
        ((1.0, 0.1, 0.5), TDCFCosts(), "C1 is -0.0095"),
        ((0.0, 0.0, 0.5), TDCFCosts(c_miss_cm=0.0), "C1 is 0"),
        ((0.1, 0.1, 0.0), TDCFCosts(), "C2 is 0"),
        ((0.1, 0.1, -0.5), TDCFCosts(), "C2 is -0.25"),
        ((np.nan, 0.1, 0.5), TDCFCosts(), "C1 is nan"),
    ],
)
def test_min_tdcf_refuses_undefined_weights(rates, costs, message):
    with pytest.raises(InputError, match=message):
        min_tdcf([1.0], [0.0], ASVRates(0.1, 0.0, *rates), costs)


def test_a_perfect_countermeasure_leaves_the_asv_systems_own_errors():
    c0 = 0.9405 * 0.2 + 0.0095 * 10 * 0.1
    value, _ = min_tdcf([1.0], [0.0], RATES, form="revised")
    assert value == pytest.approx(c0 / (c0 + 0.05 * 10 * 0.5), rel=1e-12)


def test_an_unknown_form_and_two_costs_of_a_miss_are_refused():
    with pytest.raises(InputError, match="unknown form '2020'; expected"):
        min_tdcf([1.0], [0.0], RATES, form="2020")
    costs = TDCFCosts(c_miss_cm=2.0)
    with pytest.raises(InputError, match="c_miss_asv is 1 and c_miss_cm is 2"):
        min_tdcf([1.0], [0.0], RATES, costs, form="revised")


@pytest.mark.parametrize("form", FORMS)
def test_actual_tdcf_meets_the_curve_at_its_thresholds(form):
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(1, 1, 50), rng.normal(0, 1, 70)
    curve, thresholds = tdcf_curve(bonafide, spoof, RATES, form=form)
    actual = [
        act_tdcf(bonafide, spoof, RATES, threshold, form=form)
        for threshold in thresholds
    ]
    np.testing.assert_allclose(actual, curve, rtol=1e-12)
    # A threshold from elsewhere is worse than the minimum, without a limit.
    assert act_tdcf(bonafide, spoof, RATES, 99.0, form=form) > 1
    assert act_tdcf(bonafide, spoof, RATES, -99.0, form=form) == 1.0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"p_spoof": 0.1}, "p_target .* is 1.05; expected 1"),
        ({"c_fa_cm": -1.0}, "c_fa_cm is -1.0"),
        ({"c_miss_asv": float("nan")}, "c_miss_asv is nan"),
    ],
)
def test_costs_are_checked(changes, message):
    with pytest.raises(InputError, match=message):
        TDCFCosts(**changes)


# --------------------------------------------------------- official figures


def check_figures(scores, rates, percent, legacy, revised):
    """Both classes have the published figures, to all digits given."""
    bonafide, spoof = scores
    assert (len(bonafide), len(spoof)) == (7355, 63882)
    assert rounded(100 * eer(bonafide, spoof)[0], percent) == percent
    value, threshold = min_tdcf(bonafide, spoof, rates)
    assert rounded(value, legacy) == legacy
    newer, same_threshold = min_tdcf(bonafide, spoof, rates, form="revised")
    assert rounded(newer, revised) == revised
    assert same_threshold == threshold
    # The two forms are tied by the ASV system's rates alone.
    assert newer == pytest.approx(0.0627329 + 0.9372671 * value, abs=1e-6)


def test_official_figures_of_the_scores_in_this_repository():
    bonafide, attacks, rates = official_scores()
    spoof = np.concatenate(list(attacks.values()))
    check_figures((bonafide, spoof), rates, *FIGURES["bilevel_E2E"])
    assert list(attacks) == [f"A{n:02}" for n in range(7, 20)]
    assert {len(scores) for scores in attacks.values()} == {4914}
    percent = {k: 100 * eer(bonafide, v)[0] for k, v in attacks.items()}
    weakest = sorted(percent, key=percent.get, reverse=True)[:4]
    found = {name: round(percent[name], 2) for name in weakest}
    assert found == {"A18": 21.59, "A08": 7.65, "A19": 5.41, "A17": 4.91}


def test_asv_rates_of_la_eval(shared):
    asv = read_asv_scores(shared / ASV_SCORES)
    assert len(asv.target) == 5370
    assert len(asv.nontarget) == 33327
    assert len(asv.spoof) == 63882
    rates = asv_rates(asv.target, asv.nontarget, asv.spoof)
    assert round(100 * rates.eer, 5) == 2.45778
    assert rates.threshold == -5.680051
    assert round(rates.p_fa, 7) == 0.0246047
    assert round(rates.p_miss, 7) == 0.0245810
    assert round(rates.p_fa_spoof, 7) == 0.7606525
    assert rates == official_scores()[2]


@pytest.mark.parametrize("name", FIGURES)
def test_official_figures_of_published_score_files(shared, name):
    scores = read_cm_scores(shared / f"data/scores/{name}.txt")
    _, _, rates = official_scores()
    check_figures(split_classes(scores), rates, *FIGURES[name])


@pytest.mark.parametrize(
    "name, percent", [("bilevel_E2E", 5.651044), ("RawGAT-ST_add", 1.161517)]
)
def test_interpolated_eers_are_those_of_the_arena(shared, name, percent):
    scores = read_cm_scores(shared / f"data/scores/{name}.txt")
    rate, _ = interpolated_eer(*split_classes(scores))
    assert 100 * rate == pytest.approx(percent, abs=5e-7)


def test_the_scores_in_this_repository_are_the_published_ones(shared):
    scores = read_cm_scores(shared / "data/scores/bilevel_E2E.txt")
    bonafide, attacks, _ = official_scores()
    published = scores.groupby("attack", observed=True).score
    for attack, column in published:
        kept = bonafide if attack == "-" else attacks[attack]
        assert np.array_equal(np.sort(column), kept)
