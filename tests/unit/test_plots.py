"""The figures show the numbers, whatever the scores; PNGs and equal HTML."""

import base64
import html
import io
import re
import sys
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from made_up_scores import cm_scores
from matplotlib.colors import same_color
from PIL import Image
from scipy.spatial import KDTree

from speechbrain_bilevel.evaluation import plots
from speechbrain_bilevel.evaluation.bootstrap import Estimate
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.format import METRICS
from speechbrain_bilevel.evaluation.report import render
from speechbrain_bilevel.evaluation.score_files import ASVScores, split_classes
from speechbrain_bilevel.metrics.eer import det_curve, eer
from speechbrain_bilevel.utils.errors import InputError


def normal(gap, n=300, seed=0):
    """Normal scores of variance 1, bona fide ones higher by the gap."""
    rng = np.random.default_rng(seed)
    draw = rng.normal
    return cm_scores(draw(gap, size=n), A07=draw(size=n), A08=draw(1, size=n))


def report_of(*systems, asv=None):
    names = [f"system {n}" for n in range(len(systems))]
    return evaluate(list(systems), asv=asv, names=names)


def page_of(report):
    return render(report, plots.draw(report))


@pytest.fixture
def asv():
    rng = np.random.default_rng(1)
    gaps = {"target": 4, "nontarget": 0, "spoof": 3}
    return ASVScores(**{k: rng.normal(v, size=500) for k, v in gaps.items()})


def curve_and_mark(figure, index):
    """Points of a system's curve and its mark, each of shape [n, 2]."""
    lines = figure.axes[0].get_lines()
    return [np.array(line.get_data()).T for line in lines[2 * index :][:2]]


def test_det_curve_passes_through_the_eer():
    scores = normal(3, n=20_000)
    curve, mark = curve_and_mark(plots.draw(report_of(scores))["det"], 0)
    frr, far, _ = det_curve(*split_classes(scores))
    closest = np.argmin(np.abs(frr - far))
    assert [far[closest], frr[closest]] in curve.tolist()
    rate, _ = eer(*split_classes(scores))
    assert mark.tolist() == [[rate, rate]]


def test_thinned_det_curve_is_the_same_picture():
    scores = normal(3, n=20_000)
    figure = plots.draw(report_of(scores))["det"]
    axes = figure.axes[0]

    def in_parts_of_the_axes(points):
        transform = axes.transData + axes.transAxes.inverted()
        return transform.transform(points)

    curve, _ = curve_and_mark(figure, 0)
    frr, far, _ = det_curve(*split_classes(scores))
    inside = (far > axes.get_xlim()[0]) & (frr > axes.get_ylim()[0])
    inside &= (far < axes.get_xlim()[1]) & (frr < axes.get_ylim()[1])
    points = in_parts_of_the_axes(np.stack([far, frr], axis=1)[inside])
    drawn = KDTree(in_parts_of_the_axes(curve))
    distances, _ = drawn.query(points, p=np.inf)
    assert len(points) > 20_000 and distances.max() < 1 / 1000 + 1e-9
    assert len(curve) < 5000
    assert len(plots.svg(figure)) < 100_000


def test_det_shows_a_good_and_a_bad_system():
    systems = normal(6.5, n=2000), normal(0.9, n=2000)
    report = report_of(*systems)
    low, high = (s.metrics["eer"].value for s in report.evaluations)
    assert low < 0.01 and high > 0.35
    axes = plots.draw(report)["det"].axes[0]
    assert axes.get_xlim()[0] < low / 2 and axes.get_xlim()[1] > high
    assert axes.get_xlim() == axes.get_ylim()


def test_tdcf_curve_has_its_minimum_at_the_mark(asv):
    report = report_of(normal(3), normal(2), asv=asv)
    figure = plots.draw(report)["tdcf"]
    for index, system in enumerate(report.evaluations):
        curve, mark = curve_and_mark(figure, index)
        assert mark[0, 1] == curve[:, 1].min()
        assert mark[0, 1] == system.metrics["min_tdcf_revised"].value
        assert mark[0].tolist() in curve.tolist()


def test_no_tdcf_without_asv_scores():
    assert "tdcf" not in plots.draw(report_of(normal(3)))


def test_bars_are_as_long_as_the_eers():
    report = report_of(normal(3), normal(1))
    axes = plots.draw(report)["attacks"].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    for bars, system in zip(axes.containers, report.evaluations):
        for bar in bars:
            row = round(bar.get_y() + bar.get_height() / 2)
            rate = system.attacks[names[row]].metrics["eer"].value
            assert bar.get_width() == pytest.approx(100 * rate)


def test_intervals_of_bars_and_in_legends():
    report = report_of(normal(3))
    system = report.evaluations[0]
    rates = {"eer": Estimate(0.2, 0.15, 0.3)}
    result = replace(system.attacks["A08"], metrics=rates)
    system = replace(
        system,
        metrics={"eer": Estimate(0.1, 0.05, 0.125)},
        by={"attack": {"A08": result}},
    )
    figures = plots.draw(replace(report, evaluations=[system]))
    (interval,) = figures["attacks"].axes[0].get_lines()
    assert interval.get_xdata() == pytest.approx([15, 30])
    (text,) = figures["det"].legends[0].get_texts()
    assert text.get_text() == "system 0: 10.00 (5.00 to 12.50)"


@pytest.mark.parametrize("n_systems, n_attacks", [(1, 1), (3, 13), (8, 40)])
def test_attack_figure_grows_with_the_bars(n_systems, n_attacks):
    rng = np.random.default_rng(0)
    attacks = {f"A{n:02d}": rng.normal(size=5) for n in range(n_attacks)}
    scores = cm_scores(rng.normal(2, size=20), **attacks)
    figure = plots.draw(report_of(*[scores] * n_systems))["attacks"]
    bars = [bar for group in figure.axes[0].containers for bar in group]
    assert len(bars) == n_systems * n_attacks
    heights = [bar.get_window_extent().height for bar in bars]
    assert min(heights) * 72 / figure.dpi > 4


def shares(panel):
    return [patch.get_data().values for patch in panel.patches]


@pytest.mark.parametrize(
    "scores",
    [
        normal(3),
        cm_scores([1e6, 2, 3], A07=[0, -1e9]),
        cm_scores([0, 1, 1], A07=[0, 1e-30, 0.5]),
        cm_scores([5, 5], A07=[5]),
        cm_scores([1.0], A07=[1.0]),
    ],
    ids=["normal", "outliers", "softmax", "constant", "constant softmax"],
)
def test_histograms_hold_all_trials(scores):
    (panel,) = plots.draw(report_of(scores))["scores"].axes
    for share in shares(panel):
        assert share.sum() == pytest.approx(100)


def test_an_outlier_does_not_flatten_the_histogram():
    for n in 30, 2000:
        scores = normal(3, n=n)
        scores.loc[0, "score"] = 1e9
        (panel,) = plots.draw(report_of(scores))["scores"].axes
        assert panel.get_xlim()[1] < 10
        assert "all scores beyond" in panel.get_xlabel()


def test_threshold_and_logit_axis_of_softmax_scores():
    scores = normal(6)
    probabilities = scores.assign(score=1 / (1 + np.exp(3 - scores.score)))
    figure = plots.draw(report_of(scores, probabilities))["scores"]
    raw, softmax = figure.axes
    assert "logit" in softmax.get_xlabel() and "logit" not in raw.get_xlabel()
    # On the logit axis the same scores have the same picture.
    assert np.allclose(shares(raw), shares(softmax))
    where = [panel.get_lines()[0].get_xdata()[0] for panel in figure.axes]
    _, threshold = eer(*split_classes(scores))
    assert where == pytest.approx([threshold, threshold - 3])


@pytest.mark.parametrize(
    "scores",
    [
        cm_scores([2, 3], A07=[0, 1]),
        cm_scores([0, 1], A07=[2, 3]),
        cm_scores([1, 1], A07=[1, 1]),
        cm_scores([1], A07=[0]),
    ],
    ids=["perfect", "negated", "all the same", "two trials"],
)
def test_marks_of_extreme_systems_are_in_the_picture(scores, asv):
    figures = plots.draw(report_of(scores, asv=asv))
    for name in "det", "tdcf":
        _, mark = curve_and_mark(figures[name], 0)
        x, y = (
            figures[name]
            .axes[0]
            .transLimits.transform(
                figures[name].axes[0].transScale.transform(mark[0])
            )
        )
        assert -1e-9 <= x <= 1 + 1e-9 and -1e-9 <= y <= 1


def test_a_system_has_one_color_in_all_figures(asv):
    figures = plots.draw(report_of(normal(3), normal(2), asv=asv))
    for index in range(2):
        lines = [figures[n].axes[0].get_lines() for n in ("det", "tdcf")]
        colors = [each[2 * index].get_color() for each in lines]
        bars = figures["attacks"].axes[0].containers[index]
        colors.append(bars[0].get_facecolor())
        panel = figures["scores"].axes[index]
        colors.append(panel.patches[1].get_facecolor()[:3])
        assert all(same_color(c, plots.color(index)) for c in colors)


def test_eight_systems_differ_without_color(asv):
    figure = plots.draw(report_of(*[normal(3, n=20)] * 8, asv=asv))["det"]
    marks = [figure.axes[0].get_lines()[2 * n + 1] for n in range(8)]
    looks = {(mark.get_marker(), mark.get_linestyle()) for mark in marks}
    assert len(looks) == 8


@pytest.mark.parametrize(
    "name", ["$x_1$", "_hidden", "<b> & 'c'", "a\nb\udcff"]
)
def test_names_are_shown_as_they_are(name):
    report = evaluate([normal(3, n=20)], names=[name])
    figure = plots.draw(report)["attacks"]
    shown = re.sub("[\n\udcff]", "\ufffd", name)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        shown
    ]
    assert f">{html.escape(shown, quote=False)}</text>" in plots.svg(figure)
    page_of(report).encode("utf-8")


def test_pngs_for_papers(asv):
    figures = plots.draw(report_of(normal(3), asv=asv))
    assert sorted(figures) == ["attacks", "det", "scores", "tdcf"]
    for figure in figures.values():
        with Image.open(io.BytesIO(plots.png(figure))) as image:
            assert image.width == 1380
            assert 300 < image.height < 3000
            assert len(image.getcolors(1 << 24)) > 10


def test_equal_reports_give_equal_pages_whatever_the_users_settings():
    page = page_of(report_of(normal(3, n=20)))
    before = dict(matplotlib.rcParams)
    mine = {"font.size": 30, "axes.grid": True, "svg.fonttype": "path"}
    with matplotlib.rc_context(mine):
        assert page_of(report_of(normal(3, n=20))) == page
    assert dict(matplotlib.rcParams) == before


def test_the_page_holds_the_figures_as_images(asv):
    page = page_of(report_of(normal(3), normal(2), asv=asv))
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(images) == 4
    for image in images:
        svg = ElementTree.fromstring(base64.b64decode(image))
        texts = " ".join(text.strip() for text in svg.itertext())
        assert "system 0" in texts and "system 1" in texts


def test_every_metric_is_defined(asv):
    report = evaluate([normal(3)], asv, threshold=1.0)
    page = page_of(report)
    for metric in report.evaluations[0].metrics:
        title = html.escape(METRICS[metric].title)
        assert re.search(rf"<dt>{re.escape(title)}</dt>\n<dd>\w", page)


def test_the_interpolated_eer_is_on_the_page():
    scores = cm_scores([1, 2], A07=[0, 1])
    page = page_of(report_of(scores, scores.assign(score=[2, 3, 0, 1])))
    assert "25.00000 % for system 0, with 2 such trials;" in page
    assert "0.00000 % for system 1, with 0 such trials." in page


def test_best_system_is_bold_on_the_page():
    page = page_of(report_of(normal(4), normal(2)))
    rates = [
        f"{100 * system.metrics['eer'].value:.2f}"
        for system in report_of(normal(4), normal(2)).evaluations
    ]
    assert f"<strong>{rates[0]}</strong>" in page
    assert f"<strong>{rates[1]}</strong>" not in page


def test_negated_scores_are_announced_not_flipped():
    scores = normal(4)
    negated = scores.assign(score=-scores.score)
    page = page_of(report_of(negated, normal(4)))
    rate, _ = eer(*split_classes(scores))
    (box,) = re.findall(r'<section class="warning".*?</section>', page, re.S)
    assert "system 0: the scores look negated" in box
    assert f"with the opposite sign it would be {100 * rate:.2f} %" in box
    assert "Nothing was flipped" in box


def test_same_scores_everywhere_are_announced_as_such():
    page = page_of(report_of(cm_scores([1, 1], A07=[1, 1])))
    assert "above 50 % with either sign" in page and "negated" not in page


def test_intervals_and_comparisons_on_the_page():
    systems = [normal(4), normal(2)]
    report = evaluate(systems, None, "utterances", 50, names=["good", "bad"])
    page = page_of(report)
    rate = report.evaluations[0].metrics["eer"]
    assert f"<small>{100 * rate.low:.2f} to {100 * rate.high:.2f}" in page
    assert re.search(r"good</span>\s+is better", page)
    assert not re.search(r"bad</span>\s+is better", page)
    assert "50 resamples: trials are drawn" in page


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    report = report_of(normal(3))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"'\.\[plots\]'"):
        plots.draw(report)


def test_of_very_many_attacks_the_worst_are_drawn():
    rng = np.random.default_rng(0)
    attacks = {f"A{n:03}": rng.normal(n / 50, size=50) for n in range(100)}
    report = report_of(cm_scores(rng.normal(2, size=50), **attacks))
    axes = plots.draw(report)["attacks"].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    attacks = report.evaluations[0].attacks
    rates = {k: v.metrics["eer"].value for k, v in attacks.items()}
    worst = sorted(rates, key=rates.get, reverse=True)[:60]
    assert names == sorted(worst)
