"""Resampling: exact figures, honest intervals, a test that can be trusted."""

import numpy as np
import pandas as pd
import pytest
from made_up_scores import cm_scores
from scipy.stats import norm

from speechbrain_bilevel.evaluation.bootstrap import (
    Estimate,
    count_speakers,
    default_resampling,
    interval,
    p_value,
    resample,
    resample_figures,
)
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.score_files import split_classes
from speechbrain_bilevel.metrics.asvspoof5 import act_dcf, cllr, min_dcf
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.metrics.tdcf import ASVRates, act_tdcf, min_tdcf
from speechbrain_bilevel.utils.errors import InputError

BEST = "eer", "min_dcf", "min_tdcf_legacy", "min_tdcf_revised"
RATES = ASVRates(0.1, 0.0, p_miss=0.2, p_fa=0.1, p_fa_spoof=0.5)


def figures_of_lines(scores, threshold):
    """All figures of a table by the reference functions."""
    bonafide, spoof = split_classes(scores)
    expected = {
        "eer": eer(bonafide, spoof)[0],
        "min_dcf": min_dcf(bonafide, spoof)[0],
        "act_dcf": act_dcf(bonafide, spoof),
        "cllr": cllr(bonafide, spoof),
        "frr": np.mean(bonafide <= threshold),
        "far": np.mean(spoof > threshold),
    }
    for form in "legacy", "revised":
        expected[f"min_tdcf_{form}"], _ = min_tdcf(
            bonafide, spoof, RATES, form=form
        )
        expected[f"act_tdcf_{form}"] = act_tdcf(
            bonafide, spoof, RATES, threshold, form=form
        )
    for attack in "A07", "A08":
        trials = scores.score[scores.attack == attack]
        rate = eer(bonafide, trials)[0] if len(trials) else np.nan
        expected["eer", "attack", attack] = rate
    for codec in "mp3", "opus":
        classes = split_classes(scores[scores.codec == codec])
        found = dict.fromkeys(BEST, (np.nan, None))
        if all(map(len, classes)):
            found = {"eer": eer(*classes), "min_dcf": min_dcf(*classes)}
            for form in "legacy", "revised":
                found[f"min_tdcf_{form}"] = min_tdcf(*classes, RATES, form=form)
        for name in BEST:
            expected[name, "codec", codec] = found[name][0]
    return expected


@pytest.mark.parametrize("over", ["utterances", "speakers"])
@pytest.mark.parametrize("digits", [0, 1, 9])
def test_figures_of_a_resample_are_those_of_repeated_lines(over, digits):
    rng = np.random.default_rng(digits)
    scores = cm_scores(
        # Few values, so that ties within and between classes are common.
        rng.normal(1, 1, 20).round(digits),
        speakers=rng.choice(["S1", "S2", "S3", "S4"], 60),
        A07=rng.normal(0, 1, 25).round(digits),
        A08=rng.normal(-1, 1, 15).round(digits),
    )
    # So few bona fide trials of opus that some resamples have none.
    codecs = np.where(np.arange(60) % 20 < 2, "opus", "mp3")
    scores["codec"] = pd.Categorical(codecs)
    (figures,) = resample_figures(
        [scores], over, 200, 3, RATES, threshold=0.25, by=["codec"]
    )
    assert np.isnan(figures["eer", "codec", "opus"]).any()
    for draw, counts in enumerate(resample(scores, over, 200, seed=3)):
        repeated = scores.iloc[np.repeat(np.arange(60), counts)]
        expected = figures_of_lines(repeated, threshold=0.25)
        found = {name: values[draw] for name, values in figures.items()}
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert found["eer"] == expected["eer"]


def test_an_attack_that_few_resamples_hold_has_an_interval_of_these():
    # NaN would spoil the table and the JSON.
    estimate = interval(0.5, [0.2, np.nan, 0.2, np.nan])
    assert (estimate.low, estimate.high) == (0.2, 0.2)
    assert interval(0.5, [np.nan, np.nan]) == Estimate(0.5)


def test_resamples_keep_what_is_not_chance():
    scores = cm_scores(range(5), A07=range(3), A08=range(2))
    for counts in resample(scores, "utterances", 50, seed=0):
        for attack, trials in (("-", 5), ("A07", 3), ("A08", 2)):
            assert counts[scores.attack == attack].sum() == trials
    scores = cm_scores(range(3), speakers=[*"abcabc"], A07=range(3))
    for counts in resample(scores, "speakers", 50, seed=0):
        # Each speaker's trials come together; as many speakers are drawn.
        assert (counts[:3] == counts[3:]).all() and counts[:3].sum() == 3


def test_resamples_without_a_class_are_drawn_again():
    # Only one of three speakers has bona fide speech.
    scores = cm_scores([1], speakers=[*"abc"], A07=[0, 0])
    for counts in resample(scores, "speakers", 100, seed=0):
        assert counts[0] > 0 and counts[1:].sum() > 0


@pytest.mark.parametrize(
    "speakers, message",
    [
        (None, r"cm.txt: .* needs to know them"),
        (["S1"] * 4, "at least 2 of them, found 1"),
        (["S1", "S2", "-", "S2"], "1 of 4 trials have no speaker but '-'"),
    ],
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
        figures = resample_figures([scores], "utterances", 200, seed=run)[0]
        rate, _ = eer(*split_classes(scores))
        estimate = interval(rate, figures["eer"])
        held += estimate.low <= truth <= estimate.high
    # 95 % of 200 is 190; fewer than 178 has a chance of 1 in 10,000.
    assert held >= 178


def test_corrected_intervals_of_a_minimum_hold_the_truth_more_often():
    # Unit normals 4 apart; the cost is lowest where its derivative is 0.
    shift, n_bonafide, n_spoof = 4.0, 200, 1000
    thresholds = np.linspace(0, shift, 100_000)
    costs = 1.9 * norm.cdf(thresholds - shift) + norm.sf(thresholds)
    truth, held, held_plain, runs = costs.min(), 0, 0, 150
    rng = np.random.default_rng(0)
    for run in range(runs):
        scores = cm_scores(
            rng.normal(shift, 1, n_bonafide), A07=rng.normal(0, 1, n_spoof)
        )
        figures = resample_figures([scores], "utterances", 200, seed=run)[0]
        value, _ = min_dcf(*split_classes(scores))
        estimate = interval(value, figures["min_dcf"])
        held += estimate.low <= truth <= estimate.high
        low, high = np.quantile(figures["min_dcf"], [0.025, 0.975])
        held_plain += low <= truth <= high
    assert held - held_plain > 0.05 * runs
    assert held > 0.75 * runs


def test_speakers_make_wider_intervals_where_their_trials_are_alike():
    rng = np.random.default_rng(0)
    ease, speakers = rng.normal(0, 1, 30), np.tile(np.arange(30), 10)
    score = ease[speakers] + rng.normal(0, 0.5, (2, 300)) + [[1.5], [0]]
    scores = cm_scores(
        score[0], speakers=np.tile(speakers, 2).astype(str), A07=score[1]
    )
    widths = {}
    for over in "speakers", "utterances":
        report = evaluate([scores], resample=over, n_resamples=300)
        estimate = report.evaluations[0].metrics["eer"]
        widths[over] = estimate.high - estimate.low
    assert widths["speakers"] > 1.5 * widths["utterances"]


def test_p_values_of_equal_systems_are_even():
    # Two systems as good as each other: p < 0.1 in a tenth of all corpora.
    rng = np.random.default_rng(0)
    runs, small = 200, 0
    for run in range(runs):
        clean = np.concatenate([rng.normal(2, 1, 100), rng.normal(0, 1, 100)])
        noisy = clean + rng.normal(0, 0.7, (2, 200))
        systems = [cm_scores(x[:100], A07=x[100:]) for x in noisy]
        first, second = resample_figures(systems, "utterances", 99, seed=run)
        small += p_value(first["eer"] - second["eer"]) < 0.1
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
    report = evaluate([good, twin, bad], None, "utterances", n_resamples=500)
    found = {
        (c.first, c.second): c for c in report.comparisons if c.metric == "eer"
    }
    assert set(found) == {("good", "twin"), ("good", "bad"), ("twin", "bad")}
    assert found["good", "bad"].p_value == pytest.approx(2 / 501)
    assert found["good", "bad"].difference.high < 0
    twins = found["good", "twin"].difference
    alone = report.evaluations[0].metrics["eer"]
    assert twins.high - twins.low < (alone.high - alone.low) / 3


def test_trials_are_paired_by_name_not_by_line():
    rng = np.random.default_rng(0)
    scores = cm_scores(rng.normal(1, 1, 30), A07=rng.normal(0, 1, 40))
    shuffled = scores.sample(frac=1, random_state=0, ignore_index=True)
    report = evaluate([scores, shuffled], None, "utterances", n_resamples=50)
    # A system does not differ from itself.
    assert {c.p_value for c in report.comparisons} == {1.0}
    first, second = report.evaluations
    for name, estimate in first.metrics.items():
        assert estimate.low == pytest.approx(second.metrics[name].low)
        assert estimate.high == pytest.approx(second.metrics[name].high)


def test_equal_seeds_give_equal_intervals():
    rng = np.random.default_rng(0)
    scores = cm_scores(rng.normal(1, 1, 30), A07=rng.normal(0, 1, 40))

    def found(seed):
        report = evaluate([scores], None, "utterances", 50, seed=seed)
        return report.evaluations[0].metrics

    assert found(1) == found(1) != found(2)


@pytest.mark.parametrize(
    "n_bonafide, n_spoof, expected, known",
    [
        (10, 12, "speakers", 10),
        (9, 30, "utterances", 9),
        (1, 1, "utterances", 1),
    ],
)
def test_speakers_are_resampled_where_there_are_enough(
    n_bonafide, n_spoof, expected, known
):
    speakers = [f"S{n % n_bonafide}" for n in range(30)]
    speakers += [f"S{n % n_spoof}" for n in range(30)]
    scores = cm_scores(range(30), speakers=speakers, A07=range(30))
    assert count_speakers(scores) == known
    assert default_resampling([scores]) == expected
    speakers = pd.Series(["S1", *speakers[1:3], "-", *speakers[4:]])
    unknown = scores.assign(speaker=speakers.astype("category"))
    assert count_speakers(unknown) == 0
    assert default_resampling([scores, unknown]) == "utterances"


@pytest.mark.parametrize("over", ["utterances", "speakers"])
def test_few_speakers_of_a_value_give_no_interval(over):
    # All trials of b are of nine speakers, which are drawn with all of these.
    speakers = [f"S{n % (9 if n % 2 else 30)}" for n in range(120)]
    rng = np.random.default_rng(0)
    scores = cm_scores(
        rng.normal(1, 1, 60), speakers=speakers * 2, A07=rng.normal(0, 1, 180)
    )
    scores["codec"] = pd.Categorical([*"ab"] * 120)
    (system,) = evaluate([scores], None, over, 20, by=["codec"]).evaluations
    low = {
        value: x.metrics["eer"].low for value, x in system.by["codec"].items()
    }
    assert low["a"] is not None
    assert (low["b"] is None) == (over == "speakers")


def test_few_trials_have_no_intervals():
    rng = np.random.default_rng(0)
    few = cm_scores(rng.normal(2, 1, 9), A07=rng.normal(0, 1, 50))
    report = evaluate([few, few], None, "utterances", n_resamples=20)
    for system in report.evaluations:
        assert {x.low for x in system.metrics.values()} == {None}
        assert system.attacks["A07"].metrics["eer"].low is None
    assert report.comparisons == []
    assert "no intervals and no tests with fewer" in report.cautions[0]
    # Of an attack, only its own are left out.
    some = cm_scores(
        rng.normal(2, 1, 20), A07=rng.normal(0, 1, 9), A08=rng.normal(0, 1, 10)
    )
    report = evaluate([some], None, "utterances", n_resamples=20)
    (system,) = report.evaluations
    assert system.metrics["eer"].low is not None and report.cautions == []
    assert system.attacks["A07"].metrics["eer"].low is None
    assert system.attacks["A08"].metrics["eer"].low is not None
