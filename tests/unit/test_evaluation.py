"""Evaluations as tables and as JSON, and what they warn of."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_scores import cm_scores
from official_scores import FIGURES, official_scores

from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.format import format_report
from speechbrain_bilevel.evaluation.report import as_dict
from speechbrain_bilevel.evaluation.score_files import ASVScores, split_classes
from speechbrain_bilevel.metrics.asvspoof5 import min_dcf
from speechbrain_bilevel.metrics.eer import eer, interpolated_eer
from speechbrain_bilevel.metrics.tdcf import asv_rates, min_tdcf
from speechbrain_bilevel.utils.errors import InputError

ASV = ASVScores(
    target=np.array([2.0, 3.0, 4.0]),
    nontarget=np.array([-1.0, 0.0, 1.0]),
    spoof=np.array([0.0, 2.5]),
    path="asv.txt",
)


def normal_scores(rng, shift, n=40, path="cm.txt"):
    bonafide, spoof = rng.normal(shift, 1, n), rng.normal(0, 1, n)
    return cm_scores(bonafide, path, A07=spoof)


def test_figures_of_one_system():
    scores = cm_scores([2, 4, 6, 8], A09=[1, 1], A07=[3, 3, 3, 5])
    (system,) = evaluate([scores], ASV, threshold=3.0).evaluations
    assert (system.n_bonafide, system.n_spoof) == (4, 6)
    found = {name: x.value for name, x in system.metrics.items()}
    rates = asv_rates(ASV.target, ASV.nontarget, ASV.spoof)
    value, threshold = min_tdcf(*split_classes(scores), rates)
    assert found["min_tdcf_legacy"] == value
    assert system.thresholds["min_tdcf"] == threshold
    assert (found["frr"], found["far"]) == (1 / 4, 1 / 6)
    assert found["act_tdcf_legacy"] >= value
    attacks = [
        (k, a.n_spoof, a.metrics["eer"].value)
        for k, a in system.attacks.items()
    ]
    assert attacks == [("A07", 4, 0.25), ("A09", 2, 0.0)]


def test_the_table_shows_the_official_digits():
    bonafide, attacks, _ = official_scores()
    scores = cm_scores(bonafide, **attacks)
    table = format_report(evaluate([scores], names=["bilevel"]))
    assert "bilevel: 7355 bona fide and 63882 spoofed trials" in table
    assert FIGURES["bilevel_E2E"][0] in table
    marked = [line for line in table.splitlines() if "<- worst" in line]
    assert [line.split()[:3] for line in marked] == [["A18", "4914", "21.59"]]
    assert "WARNING" not in table


def test_without_asv_scores_there_is_no_tdcf():
    report = evaluate([cm_scores([2, 3], A07=[0, 1])])
    assert "min_tdcf_legacy" not in report.evaluations[0].metrics
    assert "min t-DCF not computed" in format_report(report)
    # A single attack at 0 % is nobody's weak point.
    assert "worst" not in format_report(report)


def test_negated_scores_are_announced_and_not_flipped():
    scores = cm_scores([0, 1, 2, 9], A07=[5, 6, 7, 8])
    report = evaluate([scores], names=["s"])
    assert report.evaluations[0].metrics["eer"].value == 0.75
    table = format_report(report)
    assert "!!! WARNING: s: the scores look negated !!!" in table
    assert "with the opposite sign it would be 25.00 %." in table
    assert "75.000000000" in table
    good = cm_scores([5], A07=[0])
    assert "look negated" in format_report(evaluate([good, scores]))
    assert "look negated" in as_dict(report)["systems"][0]["warning"]


def test_constant_scores_are_not_taken_for_negated_ones():
    table = format_report(evaluate([cm_scores([7, 7], A07=[7, 7])]))
    assert "EER above 50 % with either sign" in table
    assert "negated" not in table


def test_unusable_asv_scores_name_their_file():
    # This ASV system lets no spoofed trial through, which leaves C2 at 0.
    asv = ASVScores([0.0, 0.1], [1.0, 2.0], [0.0, -1.0], "asv.txt")
    with pytest.raises(InputError, match=r"asv\.txt: t-DCF undefined: C2 is 0"):
        evaluate([cm_scores([2, 3], A07=[0, 1])], asv)


def test_asv_scores_that_look_negated_are_announced():
    asv = ASVScores(np.ones(9), np.ones(9), np.ones(9), "asv.txt")
    table = format_report(evaluate([cm_scores([2, 3], A07=[0, 1])], asv))
    assert "WARNING: ASV EER above 50 %" in table


def test_side_by_side_has_a_column_for_each_system():
    first = cm_scores([2, 4, 6, 8], A07=[3, 3, 3, 5], A08=[0])
    second = cm_scores([2, 4], A07=[0, 0, 1], A10=[1])
    names = ["plain", "a long system name"]
    table = format_report(evaluate([first, second], names=names))
    table = table[: table.index("\n\nactDCF and Cllr")]
    rows = [line.split("  ") for line in table.splitlines()]
    cells = {row[0]: [c.strip() for c in row[1:] if c.strip()] for row in rows}
    assert cells["bona fide"] == ["4", "2"]
    assert cells["A07"] == ["25.00", "0.00"]
    assert cells["A08"] == ["0.00", "-"]
    assert cells["A10"] == ["-", "0.00"]
    lines = [line for line in table.splitlines() if line]
    columns = {len(line) for line in lines if line != "EER % by attack"}
    assert len(columns) == 1, "the columns are not aligned"


def test_comparisons_are_in_the_table():
    rng = np.random.default_rng(0)
    systems = [normal_scores(rng, shift, n=200) for shift in (3, 1)]
    names = ["good", "bad"]
    report = evaluate(systems, ASV, "utterances", 100, names=names)
    (line,) = [
        line
        for line in format_report(report).splitlines()
        if line.startswith("good - bad  EER")
    ]
    found = next(c for c in report.comparisons if c.metric == "eer")
    assert line.split()[-1] == f"{found.p_value:.3f}" == "0.020"
    assert f"  {100 * found.difference.value:.2f}  " in line
    assert found.difference.value < 0
    assert "100 resamples over utterances, seed 0" in format_report(report)


def test_systems_with_different_trials_are_not_compared():
    systems = [cm_scores([2, 3], A07=[0, 1]), cm_scores([2, 3], A07=[0, 1, 2])]
    report = evaluate(systems, None, "utterances", 5, names=["a", "b"])
    assert report.comparisons == [] and report.groups == [[0], [1]]
    caution = "caution: these have different trials, so that their figures can"
    assert caution in format_report(report)
    assert "compared: a | b" in format_report(report)


def test_files_that_contradict_each_other_are_refused():
    first = cm_scores([2, 3], A07=[0, 1])
    swapped = first.assign(label=first.label.tolist()[::-1])
    swapped.attrs["path"] = "swapped"
    message = r"swapped: trials with another key than in cm.txt: 4 \(u0, u1"
    with pytest.raises(InputError, match=message):
        evaluate([first, swapped])


def by_codec():
    """Scores in which only mp3 has trials of both classes."""
    scores = cm_scores([1, 3, 5, 9], A07=[2, 4, 0], A08=[7])
    codecs = ["mp3", "mp3", "mp3", "only bona fide", *["mp3"] * 3, "only spoof"]
    return scores.assign(codec=codecs)


def test_figures_by_a_column():
    scores = by_codec()
    (system,) = evaluate([scores], ASV, by=["codec"]).evaluations
    codecs = system.by["codec"]
    assert list(codecs) == ["mp3", "only bona fide", "only spoof"]
    counts = [(x.n_bonafide, x.n_spoof) for x in codecs.values()]
    assert counts == [(3, 3), (1, 0), (0, 1)]
    rates = asv_rates(ASV.target, ASV.nontarget, ASV.spoof)
    found = {name: x.value for name, x in codecs["mp3"].metrics.items()}
    classes = [1.0, 3.0, 5.0], [2.0, 4.0, 0.0]
    assert found == {
        "eer": eer(*classes)[0],
        "min_dcf": min_dcf(*classes)[0],
        "min_tdcf_legacy": min_tdcf(*classes, rates)[0],
        "min_tdcf_revised": min_tdcf(*classes, rates, form="revised")[0],
    }
    assert codecs["only spoof"].metrics == {}
    # Of an attack, all bona fide trials.
    assert (system.attacks["A08"].n_bonafide, len(system.attacks)) == (4, 2)
    json.dumps(as_dict(evaluate([scores], by=["codec"])), allow_nan=False)


def test_tables_by_a_column():
    report = evaluate([by_codec()], by=["codec", "codec"])
    lines = format_report(report).splitlines()
    table = lines[
        lines.index(next(x for x in lines if x.startswith("codec"))) :
    ]
    assert [line.split()[-1] for line in table[1:4]] == ["0.6667", "-", "-"]
    assert table[2].split() == ["only", "bona", "fide", "1", "0", "-", "-"]
    assert len([line for line in lines if line.startswith("codec")]) == 1
    two = evaluate([by_codec()] * 2, names=["a", "b"], by=["codec"])
    lines = format_report(two).splitlines()
    counts = lines.index("bona fide + spoof by codec")
    assert lines[counts + 1].split() == ["mp3", *["3", "+", "3"] * 2]
    rates = lines.index("EER % by codec")
    assert lines[rates + 1].split() == ["mp3", "33.33", "33.33"]
    assert lines[rates + 3].split() == ["only", "spoof", "-", "-"]


@pytest.mark.parametrize(
    "column, message",
    [
        ("attack", "evaluated by attack. Expected one of the columns codec;"),
        ("partition", "cm.txt: cannot be evaluated by partition. Expected one"),
        ("label", "by attack it always is"),
        ("duration", r"values of duration: 1001 \(0, 1, .* at most 1000 can"),
    ],
)
def test_columns_that_are_no_use_are_refused(column, message):
    scores = cm_scores(range(500), A07=range(501)).assign(codec="mp3")
    if column == "duration":
        scores["duration"] = [str(n) for n in range(1001)]
    with pytest.raises(InputError, match=message):
        evaluate([scores], by=[column])


def test_trials_tied_between_the_classes_are_counted_and_announced():
    scores = cm_scores([1, 1, 2, 3], A07=[0, 0, 1, 2, 2])
    report = evaluate([scores], names=["coarse"])
    (system,) = report.evaluations
    assert system.n_tied == 6
    official, _ = eer(*split_classes(scores))
    grouped, _ = interpolated_eer(*split_classes(scores))
    assert system.eer_interpolated == grouped < official
    table = format_report(report)
    assert f"{100 * grouped:.9f}  " in table
    assert "6 trials tied with the other class" in table
    (caution,) = report.cautions
    assert "coarse: 6 trials share their score with one of" in caution
    assert f"{100 * official:.2f} % as in ASVspoof but {100 * grouped:.2f}" in (
        caution
    )
    found = as_dict(report)["systems"][0]
    assert (found["tied_trials"], found["eer_interpolated"]) == (6, grouped)


def test_two_conventions_without_ties_are_no_reason_for_caution():
    # With so few trials, interpolation alone makes a difference.
    report = evaluate([cm_scores([2, 3], A07=[0, 1, 2.5])])
    (system,) = report.evaluations
    difference = system.eer_interpolated - system.metrics["eer"].value
    assert abs(difference) > 0.001 and system.n_tied == 0
    assert report.cautions == []


@pytest.mark.parametrize(
    "attacks, is_announced",
    [
        ({"A01", "A02"}, True),
        ({"A01", "A07"}, False),
        # Names that say nothing.
        ({"-"}, False),
        ({"spoof"}, False),
        (set(), False),
    ],
)
def test_asv_scores_of_another_corpus_are_announced(attacks, is_announced):
    asv = replace(ASV, attacks=frozenset(attacks))
    report = evaluate([cm_scores([5], A07=[0], A08=[1])], asv, names=["mine"])
    assert len(report.cautions) == is_announced
    if is_announced:
        assert report.cautions[0].startswith(
            "mine: its attacks, 2 (A07, A08), are not those of asv.txt, 2 (A01"
        )
    unnamed = evaluate([cm_scores([5], spoof=[0])], asv)
    assert unnamed.cautions == []


def test_an_attack_on_every_line_is_refused():
    attacks = {f"file{n}": [0.0] for n in range(1001)}
    message = r"cm.txt: values of attack: 1001 \(file0, .* at most 1000 can"
    with pytest.raises(InputError, match=message):
        evaluate([cm_scores([1.0], **attacks)])


def test_json_holds_every_figure():
    rng = np.random.default_rng(0)
    systems = [normal_scores(rng, 2, path=path) for path in ("a.txt", "b.txt")]
    names = ["a", "b"]
    report = evaluate(systems, ASV, "utterances", 50, seed=7, names=names)
    read = json.loads(json.dumps(as_dict(report), allow_nan=False))
    assert [each["scores"] for each in read["systems"]] == ["a.txt", "b.txt"]
    assert read["systems"][0]["trials"] == {"bonafide": 40, "spoof": 40}
    for system, evaluation in zip(read["systems"], report.evaluations):
        for name, estimate in evaluation.metrics.items():
            assert system["metrics"][name] == vars(estimate)
        assert system["thresholds"] == evaluation.thresholds
        attack = evaluation.attacks["A07"]
        assert system["attacks"]["A07"]["eer"] == vars(attack.metrics["eer"])
        assert system["warning"] is None
    assert read["intervals"] == {
        "level": 0.95,
        "resampled": "utterances",
        "n_resamples": 50,
        "seed": 7,
    }
    assert read["asv"]["scores"] == "asv.txt"
    assert read["asv"]["p_fa_spoof"] == 0.5
    metrics = {comparison["metric"] for comparison in read["comparisons"]}
    assert metrics == {"eer", "min_tdcf_legacy"}


def test_enormous_figures_are_short():
    scores = cm_scores([-1e99] * 20, A07=[1e99] * 20)
    report = evaluate([scores, scores], None, "utterances", n_resamples=10)
    table = format_report(report)
    assert max(map(len, table.splitlines())) < 120
    assert "1.4427e+99" in table
    json.dumps(as_dict(report), allow_nan=False)
