"""The commands that calibrate and fuse score files."""

import numpy as np
import pytest

from speechbrain_bilevel.evaluation.score_files import (
    read_cm_scores,
    split_classes,
)
from speechbrain_bilevel.metrics.asvspoof5 import cllr, min_dcf
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.metrics.eer import eer

N = 60  # of which every third is bona fide


def rows_of(part, seed):
    """Lines ``utt source key score`` of a system that is often right."""
    random = np.random.default_rng(seed)
    for index in range(N):
        bonafide = index % 3 == 0
        score = random.normal(1.2 if bonafide else -0.8) / 2 + 3
        name = "- bonafide" if bonafide else "A07 spoof"
        yield f"{part}_{index} {name} {score:.6f}"


@pytest.fixture
def folder(tmp_path):
    """Two systems on dev and eval; b's lines are in another order."""
    for part in "dev", "eval":
        for system, seed in (("a", 1), ("b", 2)):
            rows = list(rows_of(part, seed + 10 * (part == "dev")))
            if system == "b":
                rows.reverse()
            (tmp_path / f"{part}_{system}.txt").write_text("\n".join(rows))
            bare = [f"{row.split()[0]} {row.split()[3]}" for row in rows]
            (tmp_path / f"{part}_{system}_bare.txt").write_text("\n".join(bare))
        protocol = [
            f"S1 {row.split()[0]} - {row.split()[1]} {row.split()[2]}"
            for row in rows_of(part, 0)
        ]
        name = f"ASVspoof2019.LA.cm.{part}.trl.txt"
        (tmp_path / name).write_text("\n".join(protocol))
    return tmp_path


def columns(*paths):
    """Scores [n_trials, n_systems] and keys, sorted by utterance."""
    systems = [read_cm_scores(path).sort_values("utt") for path in paths]
    scores = np.column_stack([system.score for system in systems])
    return scores, (systems[0].label == "bonafide").to_numpy()


def table_rows(out):
    """Numbers of each table row: Cllr, actDCF, minDCF, EER."""
    rows = [line.split() for line in out.splitlines()]
    return [
        (row[0], *map(float, row[1:]))
        for row in rows
        if len(row) == 5 and row[0] != "Cllr"
    ]


def test_calibrate_learns_on_dev_and_keeps_eer_and_min_dcf(run, folder):
    dev, scores = folder / "dev_a.txt", folder / "eval_a.txt"
    code, out, err = run(
        "calibrate", scores, "--learn", dev, "--output", folder / "llr.txt"
    )
    assert code == 0 and err == ""
    calibrate = learn_fusion(*columns(dev))
    assert f"weight {calibrate.weights[0]:.9g}  {scores}\n" in out
    assert f"bias {calibrate.bias:.9g}\n" in out
    before, after = read_cm_scores(scores), read_cm_scores(folder / "llr.txt")
    assert after.utt.tolist() == before.utt.tolist()
    assert after.attack.tolist() == before.attack.tolist()
    assert after.label.tolist() == before.label.tolist()
    llr = calibrate(before[["score"]])
    np.testing.assert_allclose(after.score, llr, rtol=0, atol=1e-12)

    classes = split_classes(after)
    assert eer(*classes)[0] == eer(*split_classes(before))[0]
    assert min_dcf(*classes)[0] == min_dcf(*split_classes(before))[0]
    rows = table_rows(out)
    names = ["dev_a", "calibrated", "eval_a", "calibrated"]
    assert [row[0] for row in rows] == names
    for raw, calibrated in (rows[:2], rows[2:]):
        assert calibrated[1] < raw[1] and calibrated[3:] == raw[3:]
    assert rows[3][1] == pytest.approx(cllr(*classes), abs=5e-5)
    assert rows[3][4] == pytest.approx(100 * eer(*classes)[0], abs=5e-4)
    assert "dev: 20 bona fide, 40 spoof\n" in out


def test_scores_without_keys_need_a_protocol_for_figures_only(run, folder):
    arguments = (
        *("calibrate", folder / "eval_a_bare.txt", "--output"),
        *(folder / "llr.txt", "--learn", folder / "dev_a_bare.txt"),
        *("--dev-protocol", folder / "ASVspoof2019.LA.cm.dev.trl.txt"),
    )
    code, out, _ = run(*arguments)
    assert code == 0 and len(table_rows(out)) == 2
    assert f"{folder / 'llr.txt'}: without keys" in out
    bare = [row.split() for row in (folder / "llr.txt").open()]
    assert {len(row) for row in bare} == {2}

    protocol = folder / "ASVspoof2019.LA.cm.eval.trl.txt"
    (folder / "llr.txt").unlink()
    code, out, _ = run(*arguments, "--protocol", protocol)
    assert code == 0 and len(table_rows(out)) == 4
    keyed = read_cm_scores(folder / "llr.txt")
    assert keyed.score.tolist() == [float(row[1]) for row in bare]


def test_one_class_is_calibrated_without_figures(run, folder):
    spoof = [row for row in rows_of("eval", 1) if "spoof" in row]
    (folder / "spoof.txt").write_text("\n".join(spoof))
    code, out, _ = run(
        *("calibrate", folder / "spoof.txt", "--learn", folder / "dev_a.txt"),
        *("--output", folder / "llr.txt"),
    )
    assert code == 0 and "one class alone has no figures" in out
    assert len((folder / "llr.txt").read_text().splitlines()) == 40


def test_negated_dev_scores_are_refused_by_name(run, folder):
    negated = [
        f"{' '.join(row.split()[:3])} -{row.split()[3]}"
        for row in rows_of("dev", 1)
    ]
    (folder / "neg.txt").write_text("\n".join(negated))
    code, out, err = run(
        *("calibrate", folder / "eval_a.txt", "--learn", folder / "neg.txt"),
        *("--output", folder / "llr.txt"),
    )
    assert code == 2 and out == ""
    assert err.startswith(f"error: {folder / 'neg.txt'}: the learned weight")
    assert "look negated" in err and not (folder / "llr.txt").exists()


def test_given_weights_weigh_the_scores_as_they_are(run, folder):
    # The keys come from the one file that has them.
    a, b = folder / "eval_a_bare.txt", folder / "eval_b.txt"
    code, out, err = run(
        *("fuse", a, b, "--weights", 0.6, 4, "--output", folder / "fused.txt")
    )
    assert code == 0 and err == ""
    scores, is_bonafide = columns(folder / "eval_a.txt", b)
    fused, keys = columns(folder / "fused.txt")
    np.testing.assert_allclose(fused[:, 0], scores @ [0.6, 4.0], rtol=1e-14)
    assert keys.tolist() == is_bonafide.tolist()
    lines = (folder / "fused.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [
        f"eval_{n}" for n in range(N)
    ]
    assert f"weight 0.6  {a}\nweight 4  {b}\nbias 0\n" in out
    rows = table_rows(out)
    assert [row[0] for row in rows] == ["eval_a_bare", "eval_b", "fusion"]
    for row, column in zip(rows, [*scores.T, fused[:, 0]]):
        rate = 100 * eer(column[keys], column[~keys])[0]
        assert row[4] == pytest.approx(rate, abs=5e-4)


def test_learned_weights_are_those_of_the_joined_dev_scores(run, folder):
    dev = folder / "dev_a.txt", folder / "dev_b.txt"
    systems = folder / "eval_a.txt", folder / "eval_b.txt"
    code, out, err = run(
        *("fuse", *systems, "--learn", *dev, "--output", folder / "fused.txt")
    )
    assert code == 0 and err == ""
    fusion = learn_fusion(*columns(*dev))
    scores, _ = columns(*systems)
    fused, _ = columns(folder / "fused.txt")
    np.testing.assert_allclose(fused[:, 0], fusion(scores), rtol=1e-9)
    rows = table_rows(out)
    assert [row[0] for row in rows][:3] == ["dev_a", "dev_b", "fusion"]
    assert rows[2][1] < min(rows[0][1], rows[1][1])


def test_missing_and_extra_trials_are_named(run, folder):
    rows = [*list(rows_of("eval", 2))[:-2], "new - bonafide 1"]
    (folder / "other.txt").write_text("\n".join(rows))
    code, _, err = run(
        *("fuse", folder / "eval_a.txt", folder / "other.txt"),
        *("--weights", 1, 1, "--output", folder / "fused.txt"),
    )
    assert code == 2 and not (folder / "fused.txt").exists()
    assert f"{folder / 'other.txt'}: missing trials: 2 (eval_58, ev" in err
    assert f"extra trials: 1 (new). Expected exactly the {N} of" in err


def test_another_key_for_the_same_trial_is_refused(run, folder):
    text = (folder / "eval_b.txt").read_text()
    changed = text.replace("eval_3 - bonafide", "eval_3 A07 spoof")
    (folder / "eval_b.txt").write_text(changed)
    code, _, err = run(
        *("fuse", folder / "eval_a.txt", folder / "eval_b.txt"),
        *("--weights", 1, 1, "--output", folder / "fused.txt"),
    )
    assert code == 2 and "another key than in" in err and "1 (eval_3)" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("eval_a.txt eval_b.txt", "one of the arguments --weights --learn"),
        (
            "eval_a.txt eval_b.txt --weights 1 1 --learn dev_a.txt dev_b.txt",
            "not allowed with argument --weights",
        ),
        ("eval_a.txt eval_b.txt --weights 1", "--weights has 1 values for 2"),
        (
            "eval_a.txt eval_b.txt --learn dev_a.txt dev_b.txt dev_a.txt",
            "--learn has 3 values for 2 score files",
        ),
        (
            "eval_a.txt eval_b.txt --weights 1 nan",
            "'nan' is not a finite number",
        ),
        ("eval_a.txt eval_b.txt --weights 0 0", "--weights are all 0"),
        ("eval_a.txt eval_b.txt --weights 1 x", "'x' is not a finite number"),
        ("eval_a.txt --weights 1", "there is `calibrate`"),
        (
            "eval_a.txt eval_b.txt --weights 1 1 --dev-protocol p.txt",
            "--dev-partition belong to --learn",
        ),
        (
            "eval_a.txt gone.txt --weights 1 1",
            "gone.txt: cannot be read (No such file",
        ),
        ("eval_a.txt eval_b.txt --weights 1e308 1e308", "60 of 60 weighted"),
        ("eval_a.txt eval_b.txt --learn dev_a.txt dev_b_bare.txt", "no keys"),
    ],
)
def test_arguments_that_do_not_fit(
    run, folder, monkeypatch, arguments, message
):
    monkeypatch.chdir(folder)
    code, out, err = run("fuse", *arguments.split(), "--output", "fused.txt")
    assert code == 2 and out == "" and message in err
    assert not (folder / "fused.txt").exists()


@pytest.mark.parametrize("name", ["eval_a.txt", "dev_a.txt", "p.eval.txt"])
def test_an_input_is_never_written_over(run, folder, name):
    (folder / "p.eval.txt").write_bytes(
        (folder / "ASVspoof2019.LA.cm.eval.trl.txt").read_bytes()
    )
    before = (folder / name).read_bytes()
    (folder / "sub").mkdir()
    code, _, err = run(
        *("calibrate", folder / "eval_a.txt", "--learn", folder / "dev_a.txt"),
        *("--protocol", folder / "p.eval.txt"),
        *("--output", folder / "sub" / ".." / name),
    )
    assert code == 2 and f"{name}: exists, and this command did not" in err
    assert (folder / name).read_bytes() == before


def test_an_output_that_cannot_be_written_is_an_error(run, folder):
    code, out, err = run(
        *("calibrate", folder / "eval_a.txt", "--learn", folder / "dev_a.txt"),
        *("--output", folder / "eval_a.txt" / "llr.txt"),
    )
    assert code == 2 and out == "" and "cannot be written" in err


def test_learning_on_what_is_scored_is_said_loudly(run, folder):
    code, _, err = run(
        *("calibrate", folder / "eval_a.txt", "--output", folder / "llr.txt"),
        *("--learn", folder / "eval_b.txt"),
    )
    assert code == 0
    assert err.startswith("warning: LEARNED ON WHAT IS SCORED: 60 of the 60")


def test_a_negative_weight_is_announced(run, folder):
    files = folder / "eval_a.txt", folder / "eval_b.txt"
    code, _, err = run(
        *("fuse", *files, "--weights", "-0.5", 1, "--output"),
        folder / "fused.txt",
    )
    assert code == 0 and len(err.splitlines()) == 1
    assert f"warning: {files[0]} has the negative weight -0.5" in err


def test_systems_of_one_file_name_are_told_apart_by_folder(run, folder):
    paths = folder / "x" / "scores.txt", folder / "y" / "scores.txt"
    for path in paths:
        path.parent.mkdir()
        path.write_bytes((folder / "eval_a.txt").read_bytes())
    code, out, _ = run(
        *("fuse", *paths, "--weights", 1, 1, "--output", folder / "fused.txt")
    )
    names = [row[0] for row in table_rows(out)]
    assert code == 0 and names == ["x", "y", "fusion"]


def test_one_protocol_may_hold_both_partitions(run, folder):
    lines = []
    for part in "dev", "eval":
        for row in rows_of(part, 0):
            utt, attack, key, _ = row.split()
            lines.append(f"S {utt} - - {attack} {key} - {part}")
    everything = "\n".join(lines).replace("- dev", "- progress")
    (folder / "progress.txt").write_text(everything)
    (folder / "list.csv").write_text(
        "id,path,label,partition\n"
        + "".join(
            f"{utt},x.wav,{key},{part}\n"
            for _, utt, _, _, _, key, _, part in map(str.split, lines)
        )
    )

    def calibrate(protocol, *options):
        (folder / "out").unlink(missing_ok=True)
        return run(
            *("calibrate", folder / "eval_a_bare.txt"),
            *("--learn", folder / "dev_a_bare.txt", "--output", folder / "out"),
            *("--protocol", folder / protocol),
            *("--dev-protocol", folder / protocol, *options),
        )

    code, out, err = calibrate("list.csv")
    assert (code, err) == (0, "") and "dev: 20 bona fide, 40 spoof" in out
    code, _, err = calibrate("progress.txt")
    assert code == 2 and "missing trials: 60 (eval_0" in err
    code, with_options, err = calibrate(
        "progress.txt", "--dev-partition", "progress", "--partition", "eval"
    )
    assert (code, err) == (0, "") and with_options == out
    (folder / "out").unlink()
    code, _, err = run(
        *("calibrate", folder / "eval_a.txt", "--learn", folder / "dev_a.txt"),
        *("--output", folder / "out", "--dev-partition", "dev"),
    )
    assert code == 2 and "partition dev: without a protocol" in err


def test_negated_scores_are_announced(run, folder):
    rows = (row.split() for row in rows_of("eval", 1))
    (folder / "negated.txt").write_text(
        "".join(f"{u} {a} {k} {-float(x)}\n" for u, a, k, x in rows)
    )
    code, _, err = run(
        *("calibrate", folder / "negated.txt", "--learn", folder / "dev_a.txt"),
        *("--output", folder / "out"),
    )
    assert code == 0
    assert "!!! WARNING: negated: the scores look negated !!!" in err
    assert "!!! WARNING: calibrated: the scores look negated !!!" in err


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "empty."),
        ("\n\n", "empty."),
        ("utt,source,key,score\n", "nothing below its header."),
    ],
)
def test_an_empty_file_is_not_calibrated(run, folder, content, message):
    (folder / "empty.txt").write_text(content)
    code, _, err = run(
        *("calibrate", folder / "empty.txt", "--learn", folder / "dev_a.txt"),
        *("--output", folder / "out"),
    )
    assert code == 2 and f"{folder / 'empty.txt'}: {message}" in err
    assert not (folder / "out").exists()
