"""``speechbrain-bilevel evaluate`` and the recipe's evaluate_tdcf.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "recipes/ASVspoof2019/LA/evaluate_tdcf.py"
ASV = "bonafide target 3\nbonafide nontarget 1\nA07 spoof 2\nA07 spoof 0\n"


@pytest.fixture
def evaluate(run, tmp_path, monkeypatch):
    """Runs the command in a folder with two systems' scores."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    trials = [(f"b{n}", f"S{n % 12}", "-", "bonafide") for n in range(20)]
    trials += [
        (f"s{n}", f"S{n % 12}", f"A0{7 + n % 2}", "spoof") for n in range(30)
    ]
    Path("eval.trl.txt").write_text(
        "".join(f"{s} {u} - {a} {k}\n" for u, s, a, k in trials)
    )
    for name, shift in (("good", 3), ("bad", 1)):
        scores = rng.normal(0, 1, 50) + shift * (np.arange(50) < 20)
        rows = list(zip(trials, scores.tolist()))
        Path(f"{name}.txt").write_text(
            "".join(f"{u} {a} {k} {x}\n" for (u, _, a, k), x in rows)
        )
        Path(f"{name}_bare.txt").write_text(
            "".join(f"{u} {x}\n" for (u, *_), x in rows)
        )
    Path("asv.txt").write_text(ASV)

    return lambda *arguments: run("evaluate", *arguments)


def test_the_published_numbers(evaluate, shared, tmp_path):
    data = shared / "data"
    code, out, err = evaluate(
        data / "scores/bilevel_E2E.txt",
        "--asv-scores",
        data / "protocols/ASVspoof2019.LA.asv.eval.gi.trl.scores.txt",
        "--protocol",
        data / "protocols/ASVspoof2019.LA.cm.eval.trl.txt",
        "--draws",
        20,
    )
    assert (code, err) == (0, "")
    for figure in ("5.653530214", "0.155582056", "0.20855", "ASV EER 2.45778"):
        assert figure in out
    assert "20 resamples over speakers" in out


def test_one_score_file_is_enough(evaluate):
    code, out, _ = evaluate("good.txt")
    assert code == 0
    assert "good: 20 bona fide and 30 spoofed trials" in out
    assert "1000 resamples over utterances" in out
    assert "min t-DCF not computed" in out


def test_a_protocol_brings_keys_and_speakers(evaluate):
    code, out, _ = evaluate("good_bare.txt", "--protocol", "eval.trl.txt")
    assert code == 0 and "over speakers" in out
    _, with_keys, _ = evaluate("good.txt", "--draws", 0)
    _, bare, _ = evaluate(
        "good_bare.txt", "--protocol", "eval.trl.txt", "--draws", 0
    )
    assert bare.splitlines()[1:] == with_keys.splitlines()[1:]


def test_what_the_intervals_are_over_can_be_chosen(evaluate):
    options = "--protocol", "eval.trl.txt", "--resample", "utterances"
    code, out, _ = evaluate("good.txt", *options, "--draws", 30, "--seed", 5)
    assert code == 0
    assert "30 resamples over utterances, seed 5" in out
    code, _, err = evaluate("good.txt", "--resample", "speakers")
    assert code == 2 and "good.txt: resampling over speakers needs to" in err


@pytest.mark.parametrize("partition, accepted", [("eval", 1), ("hidden", 3)])
def test_asv_scores_are_of_the_same_partition(evaluate, partition, accepted):
    classes = {"target": 5, "nontarget": 3, "spoof": 4}
    trials, keys, asv = "", "", ""
    for part, n_accepted in (("eval", 1), ("hidden", 3)):
        for n in range(4):
            for key, score in classes.items():
                # The ASV system accepts so many of the four spoofed trials.
                if key == "spoof" and n >= n_accepted:
                    score = 0
                keys += f"S {part}{key}{n} - - - {key} - {part}\n"
                asv += f"S {part}{key}{n} {score}\n"
            trials += f"S {part}b{n} - - - bonafide - {part}\n"
            trials += f"S {part}s{n} - - A07 spoof - {part}\n"
    lines = [line.split() for line in trials.splitlines()]
    for name, text in (
        ("trial_metadata.txt", trials),
        ("scores.txt", "".join(f"{utt} 1\n" for _, utt, *_ in lines)),
        ("asv_metadata.txt", keys),
        ("asv.txt", asv),
    ):
        Path(name).write_text(text)
    options = "--protocol trial_metadata.txt --asv-scores asv.txt --draws 0 "
    options += "--asv-protocol asv_metadata.txt --output report --partition"
    code, _, err = evaluate("scores.txt", *options.split(), partition)
    assert code == 0, err
    asv = json.loads(Path("report/metrics.json").read_text())["asv"]
    assert asv["p_fa_spoof"] == accepted / 4


def test_two_systems_are_compared(evaluate):
    code, out, _ = evaluate("good.txt", "bad.txt", "--asv-scores", "asv.txt")
    assert code == 0
    assert out.split()[:2] == ["good", "bad"]
    assert "good - bad  min t-DCF, legacy 2019" in out


def test_files_of_the_same_name_are_told_apart(evaluate):
    Path("run1").mkdir()
    Path("run1/good.txt").write_text(Path("good.txt").read_text())
    Path("run2").mkdir()
    Path("run2/good.txt").write_text(Path("bad.txt").read_text())
    code, out, _ = evaluate("run1/good.txt", "run2/good.txt", "--draws", 0)
    assert code == 0
    assert out.split()[:2] == ["run1", "run2"]
    code, out, _ = evaluate("good.txt", "good.txt", "--draws", 0)
    assert (code, out.split()[:4]) == (
        0,
        ["good.txt", "(1)", "good.txt", "(2)"],
    )


def test_a_fixed_threshold(evaluate):
    _, out, _ = evaluate("good.txt", "--threshold", 0.5, "--draws", 0)
    (line,) = [x for x in out.splitlines() if x.startswith("FRR %, at the")]
    assert line.split()[-2:] == ["threshold", "0.5"]


def test_everything_is_written(evaluate):
    pytest.importorskip("matplotlib")
    code, out, _ = evaluate(
        "good.txt", "--asv-scores", "asv.txt", "--output", "a/report"
    )
    assert code == 0
    assert out.rstrip().endswith(str(Path("a/report/report.html")))
    written = {path.name for path in Path("a/report").iterdir()}
    pngs = {f"{plot}.png" for plot in ("det", "scores", "tdcf", "attacks")}
    assert written == {"metrics.json", "metrics.txt", "report.html"} | pngs
    assert Path("a/report/metrics.txt").read_text() in out
    metrics = json.loads(Path("a/report/metrics.json").read_text())
    assert metrics["systems"][0]["name"] == "good"
    assert "</html>" in Path("a/report/report.html").read_text()


def test_negated_scores_are_announced(evaluate):
    lines = [line.split() for line in Path("good.txt").read_text().splitlines()]
    Path("negated.txt").write_text(
        "".join(f"{u} {a} {k} {-float(x)}\n" for u, a, k, x in lines)
    )
    code, out, _ = evaluate("negated.txt", "--draws", 0)
    assert code == 0
    assert "negated: EER ABOVE 50 %, THE SCORES LOOK NEGATED" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.txt"], "gone.txt: cannot be read (No such file"),
        (["good.txt", "--asv-scores", "good.txt"], "good.txt: 50 lines cannot"),
        (["good_bare.txt"], "good_bare.txt: has no keys"),
        (["good.txt", "--protocol", "gone.trl"], "gone.trl: cannot be read"),
        (
            ["short.txt", "--protocol", "eval.trl.txt"],
            "missing trials: 49 (b1,",
        ),
        (["good.txt", "--draws", "-1"], "is not a whole number from 0"),
        (["good.txt", "--threshold", "x"], "is not a finite number"),
        (
            ["good.txt", "--output", "asv.txt"],
            "asv.txt/metrics.json: cannot be written",
        ),
        ([], "SCORES"),
    ],
)
def test_wrong_use_ends_with_2(evaluate, arguments, message):
    Path("short.txt").write_text("b0 - bonafide 1\n")
    code, _, err = evaluate(*arguments)
    assert code == 2
    assert message in err and "Traceback" not in err


# ------------------------------------------------------ evaluate_tdcf.py


@pytest.fixture
def corpus(evaluate, tmp_path):
    """The protocol and ASV scores in the corpus' own layout."""
    folder = tmp_path / "LA"
    for name, source, target in (
        ("cm_protocols", "eval.trl.txt", "cm.eval.trl.txt"),
        ("asv_scores", "asv.txt", "asv.eval.gi.trl.scores.txt"),
    ):
        place = folder / f"ASVspoof2019_LA_{name}"
        place.mkdir(parents=True)
        (tmp_path / source).rename(place / f"ASVspoof2019.LA.{target}")
    return folder


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_script_takes_all_from_the_corpus(corpus):
    done = run_script("good.txt", "--data_folder", corpus, "--draws", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert "min t-DCF, legacy 2019" in done.stdout
    assert "20 resamples over speakers" in done.stdout


def test_the_script_ends_with_2_on_bad_input(corpus):
    Path("short.txt").write_text("b0 - bonafide 1\n")
    done = run_script("short.txt", "--data_folder", corpus)
    assert done.returncode == 2
    assert "missing trials: 49" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
