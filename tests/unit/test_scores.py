"""Reading score files, and what bad ones are told."""

import tracemalloc

import numpy as np
import pytest

from speechbrain_bilevel.evaluation.score_files import (
    check_trials,
    read_asv_scores,
    read_cm_scores,
)
from speechbrain_bilevel.utils.errors import InputError

GOOD_CM = "b1 - bonafide 2.5\nb2 bonafide bonafide 3\ns1 A07 spoof -1e-3\n"
GOOD_ASV = "bonafide target 3\nbonafide nontarget 1\nA07 spoof 2\n"


def write(tmp_path, content, name="scores.txt"):
    path = tmp_path / name
    if isinstance(content, str):
        content = content.encode("utf-8")
    path.write_bytes(content)
    return path


def test_cm_scores_are_read_in_order(tmp_path):
    scores = read_cm_scores(write(tmp_path, GOOD_CM))
    assert scores.utt.tolist() == ["b1", "b2", "s1"]
    assert scores.attack.tolist() == ["-", "bonafide", "A07"]
    assert scores.is_bonafide.tolist() == [True, True, False]
    assert scores.score.tolist() == [2.5, 3.0, -0.001]
    assert scores.bonafide.tolist() == [2.5, 3.0]
    assert scores.spoof.tolist() == [-0.001]


def test_asv_scores_are_read_by_class(tmp_path):
    scores = read_asv_scores(write(tmp_path, GOOD_ASV + "A08 spoof -4\n"))
    assert scores.target.tolist() == [3.0]
    assert scores.nontarget.tolist() == [1.0]
    assert scores.spoof.tolist() == [2.0, -4.0]


@pytest.mark.parametrize(
    "content",
    [
        GOOD_CM.replace("\n", "\r\n"),
        GOOD_CM.replace(" ", "\t"),
        GOOD_CM.rstrip("\n"),
        "\n" + GOOD_CM + "\n\n",
        b"\xef\xbb\xbf" + GOOD_CM.encode(),
    ],
    ids=["crlf", "tabs", "no last newline", "empty lines", "byte order mark"],
)
def test_harmless_differences_do_not_matter(tmp_path, content):
    scores = read_cm_scores(write(tmp_path, content))
    assert scores.utt.tolist() == ["b1", "b2", "s1"]
    assert scores.score.tolist() == [2.5, 3.0, -0.001]


BAD_CM = {
    "too few columns": (
        GOOD_CM + "s2 0.5\n",
        r"scores\.txt, line 4: expected the 4 columns of "
        "`utt source key score`, separated by blanks, found 2",
    ),
    "too many columns": (GOOD_CM + "s2 A07 x spoof 1\n", "line 4: .*, found 5"),
    "commas": (GOOD_CM.replace(" ", ","), "line 1: .*, found 1"),
    "unknown key": (
        GOOD_CM + "s2 A07 forged 1\n",
        r"line 4: unknown key 'forged'; expected bonafide or spoof in column 3",
    ),
    "header": (
        "utt source key score\n" + GOOD_CM,
        "line 1: .* looks like a header",
    ),
    "no number": (
        GOOD_CM + "s2 A07 spoof 1,5\n",
        "line 4: the score '1,5' is not a number; expected one in column 4",
    ),
    "underscore": (GOOD_CM + "s2 A07 spoof 1_0\n", "'1_0' is not a number"),
    "nan": (
        GOOD_CM + "\ns2 A07 spoof nan\n",
        "line 5: the score is 'nan'; expected a finite number",
    ),
    "infinite": (GOOD_CM + "s2 A07 spoof -inf\n", "the score is '-inf'"),
    "overflow": (GOOD_CM + "s2 A07 spoof 1e999\n", "the score is '1e999'"),
    "repeated": (
        GOOD_CM + "b1 - bonafide 1\ns1 A07 spoof 2\ns1 A07 spoof 2\n",
        r"scores\.txt: utterances given more than once: 2 \(b1, s1\)",
    ),
    "empty": ("", "no trial in it"),
    "no spoof": (
        "b1 - bonafide 1\nb2 - bonafide 2\n",
        r"scores\.txt: no spoof trial \(found 2 bonafide, 0 spoof\)",
    ),
    "no bona fide": ("s1 A07 spoof 1\n", "no bonafide trial"),
    "latin-1": (
        GOOD_CM.encode() + b"s\xe9 A07 spoof 1\n",
        "line 4: not UTF-8 text",
    ),
    "utf-16": (GOOD_CM.encode("utf-16"), "line 1: not UTF-8 text"),
    "null in a name": (
        GOOD_CM + "s\0 A07 spoof 1\n",
        "line 4: not UTF-8 text",
    ),
    "zero bytes": (b"\0" * 100_000, "line 1: 65536 bytes and no end"),
    "endless line": ("x " * 50_000, "line 1: 65536 bytes and no end"),
    "random bytes": (
        np.random.default_rng(0).bytes(100_000),
        "line 1: not UTF-8 text",
    ),
}


@pytest.mark.parametrize("content, message", BAD_CM.values(), ids=BAD_CM)
def test_bad_cm_scores_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_cm_scores(write(tmp_path, content))


BAD_ASV = {
    "cm file": (GOOD_CM, "line 1: expected the 3 columns of `source key s"),
    "unknown key": (
        GOOD_ASV + "A07 bonafide 1\n",
        "line 4: unknown key 'bonafide'; expected target or nontarget or spoof",
    ),
    "nan": (GOOD_ASV + "A07 spoof NaN\n", "line 4: the score is 'NaN'"),
    "no number": (GOOD_ASV + "A07 spoof x\n", "'x' is not a number"),
    "no spoof": (
        "bonafide target 1\nbonafide nontarget 0\n",
        r"no spoof trial \(found 1 target, 1 nontarget, 0 spoof\)",
    ),
    "empty": ("\n", "no trial in it"),
}


@pytest.mark.parametrize("content, message", BAD_ASV.values(), ids=BAD_ASV)
def test_bad_asv_scores_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_asv_scores(write(tmp_path, content))


@pytest.mark.parametrize("read", [read_cm_scores, read_asv_scores])
def test_unreadable_paths_are_refused(tmp_path, read):
    with pytest.raises(InputError, match=r"gone.txt: cannot be read \(No such"):
        read(tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"\(Is a directory\). Expected a"):
        read(tmp_path)


def test_a_long_field_is_not_printed_in_full(tmp_path):
    path = write(tmp_path, f"u - {'k' * 3000} 1\n")
    with pytest.raises(InputError) as caught:
        read_cm_scores(path)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_repeated_names_are_counted_and_the_first_five_shown(tmp_path):
    lines = [f"s{n} A07 spoof 1\n" for n in range(8)]
    with pytest.raises(InputError) as caught:
        read_cm_scores(write(tmp_path, GOOD_CM + "".join(lines * 2)))
    assert "8 (s0, s1, s2, s3, s4, ...)" in str(caught.value)


def test_reading_needs_memory_in_proportion_to_the_file(tmp_path):
    # A fixed-width array as wide as the one long name would take 500 MB.
    lines = [f"LA_E_{n} A07 spoof {n}\n" for n in range(50_000)]
    path = write(tmp_path, f"{'n' * 2500} - bonafide 1\n" + "".join(lines))
    tracemalloc.start()
    scores = read_cm_scores(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(scores.utt) == 50_001
    assert peak < 40e6


def test_check_trials_accepts_any_order(tmp_path):
    check_trials(read_cm_scores(write(tmp_path, GOOD_CM)), ["s1", "b2", "b1"])


@pytest.mark.parametrize(
    "expected, message",
    [
        (
            ["b1", "b2", "s1", *(f"s{n}" for n in range(10, 17))],
            r"scores\.txt: missing trials: 7 \(s10, s11, s12, s13, s14, "
            r"\.\.\.\); extra trials: 0\. Expected exactly the 10",
        ),
        (["b1"], r"missing trials: 0; extra trials: 2 \(b2, s1\)"),
        (["b1", "b2", "x"], r"1 \(x\); extra trials: 1 \(s1\)"),
    ],
    ids=["missing", "extra", "both"],
)
def test_check_trials_names_the_difference(tmp_path, expected, message):
    scores = read_cm_scores(write(tmp_path, GOOD_CM))
    with pytest.raises(InputError, match=message):
        check_trials(scores, expected)


def test_official_protocol_and_published_scores_agree(shared):
    protocol = shared / "data/protocols/ASVspoof2019.LA.cm.eval.trl.txt"
    utts = [line.split()[1] for line in protocol.read_text().splitlines()]
    scores = read_cm_scores(shared / "data/scores/bilevel_E2E.txt")
    check_trials(scores, utts)
    with pytest.raises(InputError, match=f"missing trials: 1 \\({utts[7]}x"):
        check_trials(scores, [*utts[:7], utts[7] + "x", *utts[7:]])
