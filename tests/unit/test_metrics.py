"""EER, legacy t-DCF and the report, on hand-computed and published cases."""

import time

import numpy as np
import pytest

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.metrics.eer import det_curve, eer
from speechbrain_bilevel.metrics.report import (
    evaluate,
    format_report,
    side_by_side,
)
from speechbrain_bilevel.metrics.scores import (
    ASVScores,
    CMScores,
    read_asv_scores,
    read_cm_scores,
)
from speechbrain_bilevel.metrics.tdcf import (
    ASVRates,
    TDCFCosts,
    asv_rates,
    min_tdcf,
)

ASV_EVAL = "data/protocols/ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"


@pytest.fixture
def asv_eval(shared):
    return read_asv_scores(shared / ASV_EVAL)


def cm_scores(bonafide, path="cm.txt", **attacks):
    """CMScores of bona fide scores and of the scores of each attack."""
    groups = {"-": bonafide, **attacks}
    attack = [name for name, group in groups.items() for _ in group]
    return CMScores(
        utt=np.array([f"u{i}" for i in range(len(attack))], dtype=object),
        attack=np.array(attack, dtype=object),
        is_bonafide=np.array([name == "-" for name in attack]),
        score=np.concatenate([np.array(g, float) for g in groups.values()]),
        path=path,
    )


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


def test_det_curve_passes_many_ties_bona_fide_first():
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.integers(0, 5, 300), rng.integers(0, 5, 700)
    trials = [(score, 0) for score in bonafide] + [(s, 1) for s in spoof]
    rejected = [0, 0]
    frr, far = [0.0], [1.0]
    for _, is_spoof in sorted(trials):
        rejected[is_spoof] += 1
        frr.append(rejected[0] / 300)
        far.append((700 - rejected[1]) / 700)
    curve = det_curve(bonafide, spoof)
    assert curve[0].tolist() == frr
    assert curve[1].tolist() == far


def test_eer_of_shifted_gaussians_is_the_normal_tail():
    # Means 2 apart, unit variance: EER = Phi(-1) = 0.158655.
    rng = np.random.default_rng(0)
    rate, threshold = eer(
        rng.normal(1, 1, 200_000), rng.normal(-1, 1, 200_000)
    )
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


# ---------------------------------------------------------------- t-DCF


def test_asv_accepts_at_and_above_its_threshold():
    # The curve's EER point is at 2, where it rejects the target 2 and the
    # nontarget 1; at that threshold the ASV system accepts the target.
    rates = asv_rates([2.0, 4.0], [1.0, 3.0], [1.9, 2.0, 2.1, 0.0])
    assert rates == ASVRates(
        eer=0.5, threshold=2.0, p_miss=0.0, p_fa=0.5, p_fa_spoof=0.5
    )


def test_min_tdcf_by_hand():
    rates = ASVRates(0.1, 0.0, p_miss=0.2, p_fa=0.1, p_fa_spoof=0.5)
    c1 = 0.9405 * (1 - 0.2) - 0.0095 * 10 * 0.1  # 0.7429
    c2 = 10 * 0.05 * 0.5  # 0.25
    # (FRR, FAR): (0, 1), (0, 2/3), (1/4, 2/3), (1/4, 1/3), (1/4, 0) ...
    costs = [c2 * 2 / 3, c1 / 4]
    value, threshold = min_tdcf([1.0, 5.0, 6.0, 7.0], [0.0, 2.0, 3.0], rates)
    assert costs[0] < costs[1]
    assert value == pytest.approx(costs[0] / c2, abs=1e-12)
    assert threshold == 0.0
    # A spoof that is dearer to accept moves the minimum to rejecting all.
    dear = TDCFCosts(c_fa_cm=100.0)
    value, threshold = min_tdcf(
        [1.0, 5.0, 6.0, 7.0], [0.0, 2.0, 3.0], rates, dear
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


# ------------------------------------------------------- published numbers


def test_asv_rates_of_la_eval(asv_eval):
    assert len(asv_eval.target) == 5370
    assert len(asv_eval.nontarget) == 33327
    assert len(asv_eval.spoof) == 63882
    rates = asv_rates(asv_eval.target, asv_eval.nontarget, asv_eval.spoof)
    assert round(100 * rates.eer, 5) == 2.45778
    assert rates.threshold == -5.680051
    assert round(rates.p_fa, 7) == 0.0246047
    assert round(rates.p_miss, 7) == 0.0245810
    assert round(rates.p_fa_spoof, 7) == 0.7606525


@pytest.mark.parametrize(
    "name, eer_percent, tdcf",
    [
        ("bilevel_E2E", 5.653530214, 0.155582056),
        ("RawGAT-ST_add", 1.1586, 0.03737),
        ("AIR_LFCC-ResNet18_softmax", 5.058, 0.1208),
    ],
)
def test_published_score_files(shared, asv_eval, name, eer_percent, tdcf):
    scores = read_cm_scores(shared / f"data/scores/{name}.txt")
    result = evaluate(scores, asv_eval)

    def digits(number):
        return len(str(number).partition(".")[2])

    assert round(100 * result.eer, digits(eer_percent)) == eer_percent
    assert round(result.min_tdcf, digits(tdcf)) == tdcf
    assert (result.n_bonafide, result.n_spoof) == (7355, 63882)


def test_attacks_of_the_published_bilevel_system(shared):
    scores = read_cm_scores(shared / "data/scores/bilevel_E2E.txt")
    attacks = evaluate(scores).attacks
    assert [a.attack for a in attacks] == [f"A{n:02}" for n in range(7, 20)]
    assert {a.trials for a in attacks} == {4914}
    rates = {a.attack: round(100 * a.eer, 2) for a in attacks}
    weakest = dict(sorted(rates.items(), key=lambda item: -item[1])[:4])
    assert weakest == {"A18": 21.59, "A08": 7.65, "A19": 5.41, "A17": 4.91}


def test_full_evaluation_set_is_fast():
    # About 10 ms each; the bound is for a busy machine and still far below
    # what a loop over 71,237 thresholds takes.
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(1, 1, 7355), rng.normal(0, 1, 63882)
    rates = ASVRates(0.02, 0.0, p_miss=0.02, p_fa=0.02, p_fa_spoof=0.7)
    start = time.perf_counter()
    eer(bonafide, spoof)
    min_tdcf(bonafide, spoof, rates)
    assert time.perf_counter() - start < 1.0


# ---------------------------------------------------------------- report


def test_report_shows_the_published_digits(shared, asv_eval):
    scores = read_cm_scores(shared / "data/scores/bilevel_E2E.txt")
    report = format_report(evaluate(scores, asv_eval))
    assert "EER 5.653530214 %" in report
    assert "min t-DCF 0.155582056" in report
    assert "ASV EER 2.45778 %" in report
    assert "7355 bona fide, 63882 spoof" in report
    marked = [line for line in report.splitlines() if "<- worst" in line]
    assert [line.split()[:3] for line in marked] == [["A18", "4914", "21.591"]]
    assert "WARNING" not in report


def test_report_without_asv_scores_says_so():
    result = evaluate(cm_scores([2, 3], A07=[0, 1]))
    assert result.min_tdcf is None
    assert "min t-DCF not computed" in format_report(result)
    # A single attack at 0 % is nobody's weak point.
    assert "worst" not in format_report(result)


def test_attacks_are_sorted_and_measured_against_all_bona_fide():
    scores = cm_scores([2, 4, 6, 8], A09=[1, 1], A07=[3, 3, 3, 5])
    attacks = evaluate(scores).attacks
    assert [(a.attack, a.trials, a.eer) for a in attacks] == [
        ("A07", 4, 0.25),
        ("A09", 2, 0.0),
    ]


def test_negated_scores_are_announced_and_not_flipped():
    scores = cm_scores([0, 1, 2, 9], A07=[5, 6, 7, 8])
    result = evaluate(scores)
    assert result.eer == 0.75
    report = format_report(result)
    assert "EER ABOVE 50 %, THE SCORES LOOK NEGATED" in report
    assert "With the opposite sign the EER would be 25.000 %" in report
    assert "EER 75.000000000 %" in report
    assert "LOOK NEGATED" in side_by_side({"wrong sign": result})


def test_constant_scores_are_not_taken_for_negated_ones():
    report = format_report(evaluate(cm_scores([7, 7], A07=[7, 7])))
    assert "ABOVE 50 % WITH EITHER SIGN" in report
    assert "NEGATED" not in report


def test_unusable_asv_scores_name_their_file():
    # This ASV system lets no spoofed trial through, which leaves C2 at 0.
    asv = ASVScores(
        target=np.array([0.0, 0.1]),
        nontarget=np.array([1.0, 2.0]),
        spoof=np.array([0.0, -1.0]),
        path="asv.txt",
    )
    with pytest.raises(InputError, match=r"asv\.txt: t-DCF undefined: C2 is 0"):
        evaluate(cm_scores([2, 3], A07=[0, 1]), asv)


def test_side_by_side_has_a_column_for_each_system():
    first = evaluate(cm_scores([2, 4, 6, 8], A07=[3, 3, 3, 5], A08=[0]))
    second = evaluate(cm_scores([2, 4], A07=[0, 0, 1], A10=[1]))
    table = side_by_side({"plain": first, "a long system name": second})
    rows = [line.split("  ") for line in table.splitlines()]
    cells = {row[0]: [c.strip() for c in row[1:] if c.strip()] for row in rows}
    assert cells["bona fide"] == ["4", "2"]
    assert cells["min t-DCF"] == ["-", "-"]
    assert cells["A07"] == ["25.000", "0.000"]
    assert cells["A08"] == ["0.000", "-"]
    assert cells["A10"] == ["-", "0.000"]
    lines = [line for line in table.splitlines() if line]
    columns = {len(line) for line in lines if line != "EER % by attack"}
    assert len(columns) == 1, "the columns are not aligned"
