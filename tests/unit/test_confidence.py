"""Resampling: exact figures, honest intervals, a test that can be trusted."""

import numpy as np
import pytest
from made_up_scores import cm_scores
from scipy.stats import norm

from speechbrain_bilevel.evaluation.bootstrap import (
    Ranking,
    cumulate,
    interval,
    n_speakers,
    p_value,
    resampled_figures,
    speaker_draws,
    usual_resampling,
    utterance_draws,
)
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.results import Estimate
from speechbrain_bilevel.evaluation.score_files import (
    CMScores,
    by_name,
    reordered,
)
from speechbrain_bilevel.metrics.asvspoof5 import act_dcf, cllr, min_dcf
from speechbrain_bilevel.metrics.eer import det_curve, eer
from speechbrain_bilevel.metrics.tdcf import ASVRates, act_tdcf, min_tdcf
from speechbrain_bilevel.utils.errors import InputError

RATES = ASVRates(0.1, 0.0, p_miss=0.2, p_fa=0.1, p_fa_spoof=0.5)


def test_figures_of_counts_are_those_of_repeated_trials():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        # Few values, so that ties within and between classes are common.
        bonafide = np.sort(rng.integers(0, 8, rng.integers(1, 8))).astype(float)
        spoof = np.sort(rng.integers(-3, 5, rng.integers(1, 8))).astype(float)
        counts = [rng.integers(0, 4, len(x)) for x in (bonafide, spoof)]
        if not all(count.any() for count in counts):
            continue
        repeated = [np.repeat(bonafide, counts[0]), np.repeat(spoof, counts[1])]
        ranking = Ranking(bonafide, spoof)
        ranks = [cumulate(count) for count in counts]
        assert ranking.eer(*ranks) == eer(*repeated)[0]
        lowest = [
            np.min(1.9 * frr + far)
            for frr, far in (ranking.corners(*ranks), det_curve(*repeated)[:2])
        ]
        assert lowest[0] == pytest.approx(lowest[1], abs=1e-12)


def test_eer_of_a_class_that_was_not_drawn_is_unknown():
    ranking = Ranking(np.array([1.0]), np.array([0.0]))
    assert np.isnan(ranking.eer(cumulate([0]), cumulate([1])))
    assert np.isnan(ranking.eer(cumulate([1]), cumulate([0])))


@pytest.mark.parametrize("resample", ["utterances", "speakers"])
def test_each_figure_of_a_draw_is_the_reference_function_s(resample):
    rng = np.random.default_rng(1)
    speakers = rng.choice(["S1", "S2", "S3", "S4"], 60)
    scores = cm_scores(
        rng.normal(1, 1, 20),
        speakers=speakers,
        A07=rng.normal(0, 1, 25),
        A08=rng.normal(-1, 1, 15).round(1),
    )
    (figures,) = resampled_figures([scores], RATES, resample, 20, 3, 0.25)
    # Trials are drawn in the order of their names.
    scores = by_name(scores)
    speakers = scores.speaker
    if resample == "speakers":
        draws = speaker_draws(speakers, scores.is_bonafide, 20, 3)
    else:
        draws = utterance_draws(scores.attack, 20, 3)
    for draw, counts in enumerate(draws):
        repeated = np.repeat(np.arange(60), counts)
        bonafide = scores.score[repeated[scores.is_bonafide[repeated]]]
        spoofed = repeated[~scores.is_bonafide[repeated]]
        spoof = scores.score[spoofed]
        expected = {
            "eer": eer(bonafide, spoof)[0],
            "min_dcf": min_dcf(bonafide, spoof)[0],
            "act_dcf": act_dcf(bonafide, spoof),
            "cllr": cllr(bonafide, spoof),
            "frr": np.mean(bonafide <= 0.25),
            "far": np.mean(spoof > 0.25),
        }
        for form in "legacy", "revised":
            expected[f"min_tdcf_{form}"], _ = min_tdcf(
                bonafide, spoof, RATES, form=form
            )
            expected[f"act_tdcf_{form}"] = act_tdcf(
                bonafide, spoof, RATES, 0.25, form=form
            )
        for attack in "A07", "A08":
            trials = spoofed[scores.attack[spoofed] == attack]
            expected["eer", attack] = (
                eer(bonafide, scores.score[trials])[0]
                if len(trials)
                else np.nan
            )
        found = {name: values[draw] for name, values in figures.items()}
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_an_attack_that_few_draws_hold_has_an_interval_of_these():
    # NaN would spoil the table and the JSON.
    estimate = interval(0.5, [0.2, np.nan, 0.2, np.nan])
    assert (estimate.low, estimate.high) == (0.2, 0.2)
    assert interval(0.5, [np.nan, np.nan]) == Estimate(0.5)


def test_draws_keep_what_is_no_chance():
    attacks = np.array(["-"] * 5 + ["A07"] * 3 + ["A08"] * 2)
    for counts in utterance_draws(attacks, 50, seed=0):
        for attack, trials in (("-", 5), ("A07", 3), ("A08", 2)):
            assert counts[attacks == attack].sum() == trials
    speakers = np.array(["a", "b", "c", "a", "b", "c"])
    keys = np.array([True] * 3 + [False] * 3)
    for counts in speaker_draws(speakers, keys, 50, seed=0):
        # Each speaker's trials come together; as many speakers are drawn.
        assert (counts[:3] == counts[3:]).all() and counts[:3].sum() == 3


def test_draws_without_a_class_are_made_again():
    # Only one of three speakers has bona fide speech.
    speakers = np.array(["a", "b", "c"])
    keys = np.array([True, False, False])
    for counts in speaker_draws(speakers, keys, 100, seed=0):
        assert counts[0] > 0 and counts[1:].sum() > 0


@pytest.mark.parametrize(
    "speakers, message",
    [(None, "cm.txt: .* needs to know them"), (["S1"] * 4, "at least 2 of th")],
)
def test_unknown_or_too_few_speakers_are_refused(speakers, message):
    scores = cm_scores([1, 2], speakers=speakers, A07=[0, 1])
    with pytest.raises(InputError, match=message):
        evaluate([scores], resample="speakers")


def test_intervals_hold_the_truth_as_often_as_they_say():
    # Gaussian scores, d' = 2: the true EER is the tail beyond 1.
    truth, held, runs = norm.sf(1), 0, 200
    rng = np.random.default_rng(0)
    for run in range(runs):
        scores = cm_scores(rng.normal(2, 1, 150), A07=rng.normal(0, 1, 150))
        found = evaluate([scores], resample="utterances", draws=200, seed=run)
        estimate = found.evaluations[0].metrics["eer"]
        held += estimate.low <= truth <= estimate.high
    # 95 % of 200 is 190; fewer than 178 has a chance of 1 in 10,000.
    assert 178 <= held


def clustered(rng, speakers=30, trials=20):
    """Scores of speakers whose trials resemble one another."""
    ease = rng.normal(0, 1, speakers)
    names = np.repeat([f"S{i}" for i in range(speakers)], trials)
    score = np.repeat(ease, trials) + rng.normal(0, 0.5, len(names))
    is_bonafide = np.tile([True, False], len(names) // 2)
    return CMScores(
        utt=np.array([f"u{i}" for i in range(len(names))], object),
        attack=np.where(is_bonafide, "-", "A07").astype(object),
        is_bonafide=is_bonafide,
        score=score + 1.5 * is_bonafide,
        speaker=names.astype(object),
    )


def test_speakers_make_wider_intervals_where_their_trials_are_alike():
    scores = clustered(np.random.default_rng(0))
    widths = {}
    for resample in "speakers", "utterances":
        found = evaluate([scores], resample=resample, draws=300)
        estimate = found.evaluations[0].metrics["eer"]
        widths[resample] = estimate.high - estimate.low
    assert widths["speakers"] > 1.5 * widths["utterances"]


def test_p_values_of_equal_systems_are_even():
    # Two systems as good as each other: p < 0.1 in a tenth of all corpora.
    rng = np.random.default_rng(0)
    runs, small = 200, 0
    for run in range(runs):
        clean = np.concatenate([rng.normal(2, 1, 100), rng.normal(0, 1, 100)])
        noisy = clean + rng.normal(0, 0.7, (2, 200))
        systems = [cm_scores(x[:100], A07=x[100:]) for x in noisy]
        report = evaluate(systems, resample="utterances", draws=200, seed=run)
        small += report.comparisons[0].p_value < 0.1
    # 20 expected; the bounds have a chance of 1 in 10,000 to be left.
    assert 6 <= small <= 40


def test_a_clear_difference_is_found_and_a_common_one_cancels():
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(2, 1, 400), rng.normal(0, 1, 400)
    good = cm_scores(bonafide, "good", A07=spoof)
    # The same errors but for a little noise: far closer to each other than
    # two independent systems of this size would be.
    twin = cm_scores(bonafide + rng.normal(0, 0.01, 400), "twin", A07=spoof)
    bad = cm_scores(rng.normal(1, 1, 400), "bad", A07=rng.normal(0, 1, 400))
    report = evaluate([good, twin, bad], resample="utterances", draws=500)
    found = {
        (c.first, c.second): c for c in report.comparisons if c.metric == "eer"
    }
    assert set(found) == {("good", "twin"), ("good", "bad"), ("twin", "bad")}
    assert found["good", "bad"].p_value == pytest.approx(2 / 501)
    assert found["good", "bad"].difference.high < 0
    twins = found["good", "twin"].difference
    alone = report.evaluations[0].metrics["eer"]
    assert twins.high - twins.low < (alone.high - alone.low) / 3


def test_a_system_does_not_differ_from_itself():
    scores = cm_scores([2, 3, 0] * 4, A07=[0, 1, 2.5] * 4)
    report = evaluate([scores, scores], resample="utterances", draws=50)
    assert {c.p_value for c in report.comparisons} == {1.0}
    assert p_value(np.zeros(9)) == 1.0


def test_trials_are_paired_by_name_not_by_line():
    rng = np.random.default_rng(0)
    scores = cm_scores(rng.normal(1, 1, 30), A07=rng.normal(0, 1, 40))
    order = rng.permutation(70)
    shuffled = CMScores(
        *(column[order] for column in (scores.utt, scores.attack)),
        scores.is_bonafide[order],
        scores.score[order],
        path="shuffled",
    )
    report = evaluate([scores, shuffled], resample="utterances", draws=50)
    assert {c.p_value for c in report.comparisons} == {1.0}
    first, second = report.evaluations
    for name, estimate in first.metrics.items():
        assert estimate.low == pytest.approx(second.metrics[name].low)
        assert estimate.high == pytest.approx(second.metrics[name].high)


def test_other_trials_are_not_compared():
    first = cm_scores([2, 3], A07=[0, 1])
    second = cm_scores([2, 3], A07=[0, 1, 2])
    report = evaluate([first, second], resample="utterances", draws=5)
    assert report.comparisons == [] and report.groups == [[0], [1]]


def test_files_that_contradict_each_other_are_refused():
    first = cm_scores([2, 3], A07=[0, 1])
    swapped = CMScores(
        first.utt, first.attack, ~first.is_bonafide, first.score, "swapped"
    )
    message = r"swapped: trials with another key than in cm.txt: 4 \(u0, u1"
    with pytest.raises(InputError, match=message):
        evaluate([first, swapped])


def test_equal_seeds_give_equal_intervals():
    rng = np.random.default_rng(0)
    scores = cm_scores(rng.normal(1, 1, 30), A07=rng.normal(0, 1, 40))

    def found(seed):
        report = evaluate([scores], resample="utterances", draws=50, seed=seed)
        return report.evaluations[0].metrics

    assert found(1) == found(1) != found(2)


def test_corrected_intervals_of_a_minimum_hold_the_truth_more_often():
    # Unit normals 4 apart; the cost is lowest where its derivative is 0.
    shift, n_bonafide, n_spoof, draws = 4.0, 200, 1000, 200
    thresholds = np.linspace(0, shift, 100_000)
    costs = 1.9 * norm.cdf(thresholds - shift) + norm.sf(thresholds)
    truth, held, held_plain, runs = costs.min(), 0, 0, 150
    rng = np.random.default_rng(0)
    for run in range(runs):
        scores = cm_scores(
            rng.normal(shift, 1, n_bonafide), A07=rng.normal(0, 1, n_spoof)
        )
        (figures,) = resampled_figures(
            [scores], None, "utterances", draws, seed=run
        )
        value, _ = min_dcf(scores.bonafide, scores.spoof)
        estimate = interval(value, figures["min_dcf"])
        held += estimate.low <= truth <= estimate.high
        low, high = np.quantile(figures["min_dcf"], [0.025, 0.975])
        held_plain += low <= truth <= high
    assert held - held_plain > 0.05 * runs
    assert held > 0.75 * runs


def test_draws_do_not_depend_on_the_order_of_the_lines():
    rng = np.random.default_rng(0)
    scores = cm_scores(rng.normal(1, 1, 30), A07=rng.normal(0, 1, 40))
    shuffled = reordered(scores, rng.permutation(70))
    found = [
        resampled_figures([each], None, "utterances", 20, seed=0)[0]
        for each in (scores, shuffled)
    ]
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-12)


@pytest.mark.parametrize(
    "bonafide_speakers, spoof_speakers, usual, known",
    [
        (10, 12, "speakers", 10),
        (9, 30, "utterances", 9),
        (1, 1, "utterances", 1),
    ],
)
def test_speakers_are_resampled_where_there_are_enough(
    bonafide_speakers, spoof_speakers, usual, known
):
    speakers = [f"S{n % bonafide_speakers}" for n in range(30)]
    speakers += [f"S{n % spoof_speakers}" for n in range(30)]
    scores = cm_scores(range(30), speakers=speakers, A07=range(30))
    assert n_speakers(scores) == known
    assert usual_resampling([scores]) == usual
    scores.speaker[3] = "-"
    assert n_speakers(scores) == 0
    assert usual_resampling([scores]) == "utterances"


def test_few_trials_have_no_intervals():
    rng = np.random.default_rng(0)
    few = cm_scores(rng.normal(2, 1, 9), A07=rng.normal(0, 1, 50))
    report = evaluate([few, few], resample="utterances", draws=20)
    for system in report.evaluations:
        assert {x.low for x in system.metrics.values()} == {None}
        assert system.attacks["A07"].eer.low is None
    assert report.comparisons == []
    assert "no intervals and no tests with fewer" in report.cautions[0]
    # Of an attack, only its own are left out.
    some = cm_scores(
        rng.normal(2, 1, 20), A07=rng.normal(0, 1, 9), A08=rng.normal(0, 1, 10)
    )
    report = evaluate([some], resample="utterances", draws=20)
    (system,) = report.evaluations
    assert system.metrics["eer"].low is not None and report.cautions == []
    assert system.attacks["A07"].eer.low is None
    assert system.attacks["A08"].eer.low is not None
