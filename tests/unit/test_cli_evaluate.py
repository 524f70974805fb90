"""``speechbrain-bilevel evaluate`` and the recipe's evaluate_tdcf.py."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from full_disk import disk_full_after
from official_scores import (
    ASV_SCORES,
    CM_PROTOCOL,
    FIGURES,
    official_scores,
)

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


def test_the_official_eer_from_a_score_file(evaluate):
    bonafide, attacks, _ = official_scores()
    with open("scores.txt", "w") as file:
        for attack, scores in {"-": bonafide, **attacks}.items():
            key = "bonafide" if attack == "-" else "spoof"
            for n, score in enumerate(scores.tolist()):
                file.write(f"{attack}_{n} {attack} {key} {score!r}\n")
    code, out, _ = evaluate("scores.txt", "--resamples", 0)
    assert code == 0
    assert f"EER %                {FIGURES['bilevel_E2E'][0]}" in out


def test_the_official_figures_from_the_corpus_files(evaluate, shared):
    code, out, err = evaluate(
        shared / "data/scores/bilevel_E2E.txt",
        "--asv-scores",
        shared / ASV_SCORES,
        "--protocol",
        shared / CM_PROTOCOL,
        "--resamples",
        20,
    )
    assert (code, err) == (0, "")
    for figure in (*FIGURES["bilevel_E2E"], "ASV EER 2.45778"):
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
    _, with_keys, _ = evaluate("good.txt", "--resamples", 0)
    _, bare, _ = evaluate(
        "good_bare.txt", "--protocol", "eval.trl.txt", "--resamples", 0
    )
    read_as = "good: read as ASVspoof 2019: utt source key score"
    bare = bare.replace("good_bare", "good")
    bare = bare.replace("good: read as ASVspoof 2021: utt score", read_as)
    assert bare == with_keys


def test_what_the_intervals_are_over_can_be_chosen(evaluate):
    options = "--protocol", "eval.trl.txt", "--resample", "utterances"
    code, out, _ = evaluate(
        "good.txt", *options, "--resamples", 30, "--seed", 5
    )
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
    options = (
        "--protocol trial_metadata.txt --asv-scores asv.txt --resamples 0 "
    )
    options += "--asv-protocol asv_metadata.txt --output report --partition"
    code, _, err = evaluate("scores.txt", *options.split(), partition)
    assert code == 0, err
    asv = json.loads(Path("report/metrics.json").read_text())["asv"]
    assert asv["p_fa_spoof"] == accepted / 4


def with_codecs(path):
    """Write the trials as a list with columns of its own."""
    rows = ["path,label,attack,speaker,codec,channel"]
    lines = Path("eval.trl.txt").read_text().splitlines()
    for n, line in enumerate(lines):
        speaker, utt, _, attack, label = line.split()
        codec = "mp3,mono" if n % 5 else ",stereo"
        rows.append(f"{utt},{label},{attack},{speaker},{codec}")
    Path(path).write_text("\n".join(rows))


def test_figures_by_columns_of_the_protocol(evaluate):
    pytest.importorskip("matplotlib")
    with_codecs("list.csv")
    options = "--protocol", "list.csv", "--by", "codec", "--by", "channel"
    code, out, err = evaluate(
        *("good_bare.txt", *options, "--asv-scores", "asv.txt"),
        *("--output", "report", "--resample", "utterances"),
    )
    assert code == 0, err
    found = json.loads(Path("report/metrics.json").read_text())
    by = found["systems"][0]["by"]
    assert list(by) == ["codec", "channel"]
    assert by["codec"]["mp3"]["trials"] == {"bonafide": 16, "spoof": 24}
    # A line without codec.
    assert by["codec"]["-"]["trials"] == {"bonafide": 4, "spoof": 6}
    assert by["codec"]["-"]["metrics"]["eer"].keys() == {"value"}
    metrics = by["channel"]["mono"]["metrics"]
    assert metrics == by["codec"]["mp3"]["metrics"]
    assert list(metrics) == [
        *("eer", "min_tdcf_legacy", "min_tdcf_revised", "min_dcf")
    ]
    for estimate in metrics.values():
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    text = Path("report/metrics.txt").read_text()
    assert text in out
    page = Path("report/report.html").read_text()
    rate = f"{100 * metrics['eer']['value']:.2f}"
    for column, value in (("codec", "mp3"), ("channel", "mono")):
        (line,) = [x for x in text.splitlines() if x.startswith(f"{value} ")]
        assert line.split()[:4] == [value, "16", "24", rate]
        table = page[page.index(f"<h2>By {column}</h2>") :]
        assert rate in table[: table.index("</table>")]
        assert "16 + 24" in table[: table.index("</table>")]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--protocol", "list.csv", "--by", "bitrate"], "no column bitrate"),
        (
            ["--protocol", "list.csv", "--by", "attack"],
            "Expected one of the columns speaker; by attack it always is",
        ),
        (["--by", "codec"], "--by names a column of a protocol; give the"),
    ],
)
def test_a_column_that_is_not_there_is_refused(evaluate, options, message):
    with_codecs("list.csv")
    code, out, err = evaluate("good.txt", *options)
    assert (code, out) == (2, "") and message in err


def test_asv_scores_of_other_attacks_are_announced(evaluate):
    Path("dev.txt").write_text(ASV.replace("A07", "A01"))
    for asv, times in (("dev.txt", 1), ("asv.txt", 0)):
        _, out, _ = evaluate("good.txt", "--asv-scores", asv, "--resamples", 0)
        assert out.count("the t-DCF mixes two corpora") == times


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
    code, out, _ = evaluate("run1/good.txt", "run2/good.txt", "--resamples", 0)
    assert code == 0
    assert out.split()[:2] == ["run1", "run2"]
    code, out, _ = evaluate("good.txt", "good.txt", "--resamples", 0)
    assert (code, out.split()[:4]) == (
        0,
        ["good.txt", "(1)", "good.txt", "(2)"],
    )


def test_a_fixed_threshold(evaluate):
    _, out, _ = evaluate("good.txt", "--threshold", 0.5, "--resamples", 0)
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
    code, out, _ = evaluate("negated.txt", "--resamples", 0)
    assert code == 0
    assert "!!! WARNING: negated: the scores look negated !!!" in out


def test_negated_asv_scores_are_announced(evaluate):
    pytest.importorskip("matplotlib")
    lines = [line.split() for line in Path("asv.txt").read_text().splitlines()]
    Path("negated.txt").write_text(
        "".join(f"{' '.join(rest)} {-float(x)}\n" for *rest, x in lines)
    )
    asv = "--asv-scores", "negated.txt"
    _, out, _ = evaluate("good.txt", *asv, "--output", "report")
    for text in (out, Path("report/report.html").read_text()):
        assert "above 50 %: the ASV scores look negated" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.txt"], "gone.txt: cannot be read (No such file"),
        (
            ["good.txt", "--asv-scores", "good.txt"],
            "good.txt: 50 of 50 lines cannot",
        ),
        (["good_bare.txt"], "good_bare.txt: has no keys"),
        (["good.txt", "--protocol", "gone.trl"], "gone.trl: cannot be read"),
        (
            ["short.txt", "--protocol", "eval.trl.txt"],
            "missing trials: 49 (b1,",
        ),
        (
            ["good.txt", "--resamples", "-1"],
            "number of at least 0",
        ),
        (
            ["good.txt", "--resamples", "1000000000"],
            "number of at least 0 and at most 100000",
        ),
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


@pytest.mark.parametrize(
    "name", ["metrics.txt", "scores.png", "metrics.json", "tdcf.png"]
)
@pytest.mark.parametrize("read_as", ["scores", "protocol", "asv"])
def test_an_input_is_never_written_over(evaluate, name, read_as):
    Path("out").mkdir()
    source = {"scores": "good", "protocol": "eval.trl", "asv": "asv"}[read_as]
    text = Path(f"{source}.txt").read_text()
    Path("out", name).write_text(text)
    Path("link.txt").symlink_to(Path("out", name))
    arguments = {
        "scores": ["link.txt"],
        "protocol": ["good.txt", "--protocol", "link.txt"],
        "asv": ["good.txt", "--asv-scores", "link.txt"],
    }[read_as]
    code, out, err = evaluate(*arguments, "--resamples", 0, "--output", "out")
    assert (code, out) == (2, "")
    assert f"{Path('out', name)}: exists, and this command did not" in err
    assert Path("out", name).read_text() == text
    assert len(os.listdir("out")) == 1


def test_a_report_is_replaced_whole_or_not_at_all(evaluate):
    def report():
        return {path.name: path.read_bytes() for path in Path("r").iterdir()}

    options = "--resamples", 0, "--output", "r"
    assert evaluate("good.txt", *options, "--asv-scores", "asv.txt")[0] == 0
    before = report()
    # Room for the figures, not for all plots.
    with disk_full_after(sorted(map(len, before.values()))[-3]):
        code, _, err = evaluate("bad.txt", *options)
    assert code == 2 and "cannot be written (File too" in err
    assert report() == before
    assert evaluate("bad.txt", *options)[0] == 0
    # No figure of an earlier report stays beside the new ones.
    assert set(before) - set(report()) == {"tdcf.png"}


def test_a_printed_threshold_is_exact(evaluate):
    # A softmax in double precision: all differences are in the last digits.
    rng = np.random.default_rng(0)
    Path("softmax.txt").write_text(
        "".join(
            f"u{n} {a} {k} {1 - 10.0 ** -(10 + x)!r}\n"
            for n, x in enumerate(rng.normal(0, 1, 100).tolist())
            for a, k in [("-", "bonafide") if x > -0.3 else ("A07", "spoof")]
        )
    )
    _, out, _ = evaluate("softmax.txt", "--resamples", 0)
    (line,) = [x for x in out.splitlines() if x.startswith("EER %  ")]
    _, out, _ = evaluate(
        "softmax.txt", "--resamples", 0, "--threshold", line.split()[-1]
    )
    lines = [x.split() for x in out.splitlines() if "at the given" in x]
    assert [float(words[6]) for words in lines] == [0.0, 0.0]


def test_thresholds_may_be_small_and_negative(evaluate):
    code, out, _ = evaluate(
        "good.txt", "--resamples", 0, "--threshold", "-1e-3"
    )
    assert code == 0 and "threshold -0.001" in out


def test_names_with_points_are_kept(evaluate):
    for name in ("lr_0.1", "lr_0.01"):
        Path(name).write_text(Path("good.txt").read_text())
    _, out, _ = evaluate("lr_0.1", "lr_0.01", "--resamples", 0)
    assert out.split()[:2] == ["lr_0.1", "lr_0.01"]


def test_few_speakers_are_no_ground_for_intervals(evaluate):
    lines = Path("eval.trl.txt").read_text().splitlines()
    few = (f"S{n % 3} {line.split(' ', 1)[1]}" for n, line in enumerate(lines))
    Path("few.txt").write_text("\n".join(few))
    options = "--resamples", 30, "--protocol", "few.txt"
    code, out, _ = evaluate("good.txt", *options)
    assert code == 0 and "resamples over utterances" in out
    assert "caution: good: trials of one speaker resemble" in out
    code, out, _ = evaluate("good.txt", *options, "--resample", "speakers")
    assert code == 0 and "a class has 3 speakers only; the int" in out


def test_unknown_speakers_are_not_one_speaker(evaluate):
    lines = Path("eval.trl.txt").read_text().splitlines()
    Path("some.txt").write_text(
        "\n".join("-" + line[line.index(" ") :] for line in lines[:5])
        + "\n"
        + "\n".join(lines[5:])
    )
    options = "--resamples", 30, "--protocol", "some.txt"
    code, out, _ = evaluate("good.txt", *options)
    assert code == 0 and "resamples over utterances" in out
    code, _, err = evaluate("good.txt", *options, "--resample", "speakers")
    assert code == 2 and "good.txt: 5 of 50 trials have no speaker" in err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--asv-protocol", "eval.trl.txt"], "--asv-protocol belongs to --asv"),
        (["--partition", "eval"], "--partition is one of a protocol"),
        (["--threshold", "nan"], "'nan' is not a finite number"),
    ],
)
def test_an_option_without_effect_is_refused(evaluate, options, message):
    code, out, err = evaluate("good.txt", *options)
    assert (code, out) == (2, "") and message in err


def test_untrusted_names_do_not_steer_the_terminal(evaluate):
    Path("evil.txt").write_text(
        Path("good.txt").read_text().replace("A07", "\x1b[31mA07")
    )
    code, out, _ = evaluate("evil.txt", "good.txt", "--resamples", 0)
    assert code == 0 and "\x1b" not in out and "\ufffd[31mA07" in out
    code, _, err = evaluate("evil.txt", "--protocol", "gone\x1b[2J.txt")
    assert code == 2
    Path("named.txt").write_text("utt,score\n\x1b[31mu,1\n")
    code, _, err = evaluate("named.txt", "--protocol", "eval.trl.txt")
    assert code == 2 and "\x1b" not in err


def start(*arguments, **options):
    """The command in a process of its own."""
    command = Path(sys.executable).with_name("speechbrain-bilevel")
    return subprocess.Popen(
        [command, "evaluate", *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_an_output_that_nobody_reads_is_no_crash(evaluate):
    reader, writer = os.pipe()
    os.close(reader)
    process = start("good.txt", "--output", "report", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGPIPE and err == ""
    assert Path("report/report.html").exists()


def test_ctrl_c_ends_without_traceback(evaluate):
    os.mkfifo("scores")
    # What is started in the background would ignore it.
    heeded = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = start("scores", stdout=subprocess.PIPE, preexec_fn=heeded)
    # Waits until the command reads it.
    with open("scores", "w"):
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in err and "Traceback" not in err


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


def test_the_script_needs_no_corpus(evaluate):
    done = run_script("good.txt", "--resamples", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert "min t-DCF not computed" in done.stdout
    done = run_script("good.txt", "--asv_scores", "asv.txt", "--resamples", "0")
    assert (done.returncode, done.stderr) == (0, "")
    for form in "legacy 2019", "revised 2021":
        assert f"min t-DCF, {form}" in done.stdout
    done = run_script("good.txt", "--partition", "dev")
    assert done.returncode == 2
    assert "--partition belongs to --data_folder" in done.stderr


def test_the_script_takes_all_from_the_corpus(corpus):
    done = run_script("good.txt", "--data_folder", corpus, "--resamples", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert "min t-DCF, legacy 2019" in done.stdout
    assert "20 resamples over speakers" in done.stdout


def test_the_script_ends_with_2_on_bad_input(corpus):
    Path("short.txt").write_text("b0 - bonafide 1\n")
    done = run_script("short.txt", "--data_folder", corpus)
    assert done.returncode == 2
    assert "missing trials: 49" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from speechbrain_bilevel import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: print(*{'numpy', 'pandas', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "evaluate" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_files_of_the_user_s_own_are_kept(evaluate):
    Path("out").mkdir()
    Path("out", "tdcf.png").write_bytes(b"a photo")
    code, out, err = evaluate("good.txt", "--resamples", 0, "--output", "out")
    assert (code, out) == (2, "") and "tdcf.png: exists, and this com" in err
    assert os.listdir("out") == ["tdcf.png"]
    # Beside a report, too.
    Path("out", "tdcf.png").unlink()
    assert evaluate("good.txt", "--resamples", 0, "--output", "out")[0] == 0
    Path("out", "tdcf.png").write_bytes(b"a photo")
    assert evaluate("good.txt", "--resamples", 0, "--output", "out")[0] == 2
    assert Path("out", "tdcf.png").read_bytes() == b"a photo"
