"""Reading score files in all layouts, and the errors of bad ones."""

import pandas as pd
import pytest
from official_scores import CM_PROTOCOL

from speechbrain_bilevel.dataio.protocols import DTYPES, read_protocol
from speechbrain_bilevel.evaluation.score_files import (
    align_scores,
    read_asv_scores,
    read_cm_scores,
    split_classes,
    write_cm_scores,
)
from speechbrain_bilevel.utils.errors import InputError

GOOD_CM = "b1 - bonafide 2.5\nb2 bonafide bonafide 3\ns1 A07 spoof -1e-3\n"
GOOD_ASV = "bonafide target 3\nbonafide nontarget 1\nA07 spoof 2\n"
TRIALS = pd.DataFrame(
    [
        ("b1", "b1.flac", "S1", "-", "bonafide", "eval"),
        ("s1", "s1.flac", "S1", "A07", "spoof", "eval"),
        ("b2", "b2.flac", "S2", "-", "bonafide", "eval"),
        ("s2", "s2.flac", "S2", "A08", "spoof", "progress"),
    ],
    columns=list(DTYPES),
).astype(DTYPES)
EVAL = TRIALS[:3]


def write(tmp_path, content, name="scores.txt"):
    path = tmp_path / name
    if isinstance(content, str):
        content = content.encode("utf-8")
    path.write_bytes(content)
    return path


# -------------------------------------------------------------- what is read


def test_cm_scores_are_a_table_in_the_order_of_the_file(tmp_path):
    path = write(tmp_path, GOOD_CM)
    scores = read_cm_scores(path)
    assert scores.utt.tolist() == ["b1", "b2", "s1"]
    assert scores.attack.tolist() == ["-", "-", "A07"]
    assert scores.label.tolist() == ["bonafide", "bonafide", "spoof"]
    assert scores.score.tolist() == [2.5, 3.0, -0.001]
    assert scores.attrs["path"] == str(path)
    assert "speaker" not in scores
    bonafide, spoof = split_classes(scores)
    assert (bonafide.tolist(), spoof.tolist()) == ([2.5, 3.0], [-0.001])


@pytest.mark.parametrize(
    "content",
    [
        GOOD_CM.replace("\n", "\r\n"),
        GOOD_CM.replace(" ", "\t"),
        GOOD_CM.rstrip("\n"),
        "\n" + GOOD_CM + "\n\n",
        b"\xef\xbb\xbf" + GOOD_CM.encode(),
        GOOD_CM.replace("- bonafide", "A00 Bona-Fide"),
    ],
    ids=["crlf", "tabs", "no last newline", "empty lines", "bom", "words"],
)
def test_harmless_differences_do_not_matter(tmp_path, content):
    scores = read_cm_scores(write(tmp_path, content))
    expected = read_cm_scores(write(tmp_path, GOOD_CM))
    pd.testing.assert_frame_equal(scores, expected)


@pytest.mark.parametrize(
    "text", ["0.1", "1e-300", "-0.30000000000000004", "12345678901234567890"]
)
def test_scores_are_exactly_what_python_reads(tmp_path, text):
    scores = read_cm_scores(
        write(tmp_path, f"b - bonafide 0\ns A1 spoof {text}")
    )
    assert scores.score[1].hex() == float(text).hex()


@pytest.mark.parametrize(
    "content",
    [
        "b2 3\nb1 2.5\ns1 -1\n",
        "b2\t3\nb1\t2.5\ns1\t-1\n",
        "filename\tcm-score\nb2\t3\nb1\t2.5\ns1\t-1\n",
        "filename\tcm-score\tasv-score\nb2\t3\t9\nb1\t2.5\t9\ns1\t-1\t9\n",
        "Score, Utt, note\n3, b2, x\n2.5, b1,\n-1, s1, y\n",
        "b2 - bonafide 3\nb1 bonafide bonafide 2.5\ns1 A99 spoof -1\n",
        "id,label,score\nb2,bonafide,3\nb1,real,2.5\ns1,fake,-1\n",
    ],
    ids=["two", "tabs", "asvspoof 5", "with asv", "csv", "four", "keys"],
)
def test_a_protocol_tells_labels_attacks_and_speakers(tmp_path, content):
    scores = read_cm_scores(write(tmp_path, content), EVAL)
    assert scores.utt.tolist() == ["b2", "b1", "s1"]
    assert scores.label.tolist() == ["bonafide", "bonafide", "spoof"]
    assert scores.attack.tolist() == ["-", "-", "A07"]
    assert scores.speaker.tolist() == ["S2", "S1", "S1"]
    assert scores.score.tolist() == [3.0, 2.5, -1.0]


def test_a_table_may_tell_the_keys_itself(tmp_path):
    content = (
        'path,attack,key,llr\n"a, b.wav",-,bonafide,1\nc d.wav,A 1,spoof,0'
    )
    scores = read_cm_scores(write(tmp_path, content))
    assert scores.utt.tolist() == ["a,_b.wav", "c_d.wav"]
    assert scores.attack.tolist() == ["-", "A_1"]
    assert scores.label.tolist() == ["bonafide", "spoof"]
    # Without a column of attacks, all spoofs are of one.
    scores = read_cm_scores(write(tmp_path, "id,key,llr\na,real,1\nb,fake,0\n"))
    assert scores.attack.tolist() == ["-", "spoof"]


def test_scores_of_other_partitions_are_skipped(tmp_path):
    path = write(tmp_path, "b1 1\nb2 2\ns1 0\ns2 -1\n")
    scores = read_cm_scores(path, TRIALS, "eval")
    assert scores.utt.tolist() == ["b1", "b2", "s1"]
    # They may be missing, too.
    fewer = write(tmp_path, "b1 1\nb2 2\ns1 0\n", "fewer.txt")
    assert len(read_cm_scores(fewer, TRIALS, "eval")) == 3
    # As in official figures, eval is what counts unless something else is said.
    assert len(read_cm_scores(path, TRIALS)) == 3
    assert len(read_cm_scores(path, TRIALS.assign(partition="dev"))) == 4
    message = "no trial of partition 'dev'; expected one of eval, progress"
    with pytest.raises(InputError, match=message):
        read_cm_scores(path, TRIALS, "dev")


def test_scores_without_keys_need_a_protocol(tmp_path):
    path = write(tmp_path, "b1 1\nb2 2\n")
    with pytest.raises(InputError, match=r"has no keys.*--protocol"):
        read_cm_scores(path)
    scores = read_cm_scores(path, need_keys=False)
    assert list(scores) == ["utt", "score"]
    assert scores.score.tolist() == [1.0, 2.0]


def test_official_protocol_and_published_scores_fit(shared):
    trials = read_protocol(shared / CM_PROTOCOL)
    path = shared / "data/scores/bilevel_E2E.txt"
    scores = read_cm_scores(path, trials)
    assert scores.attack.tolist() == trials.attack.tolist()
    wrong = trials.assign(utt=trials.utt.where(trials.index != 7, "x"))
    message = rf"missing trials: 1 \(x\); extra trials: 1 \({trials.utt[7]}\)"
    with pytest.raises(InputError, match=message):
        read_cm_scores(path, wrong)


# ----------------------------------------------------- what is refused, and how

BAD_CM = {
    "too few columns": (
        GOOD_CM + "s2 0.5\n",
        r"scores\.txt: 1 of 4 lines cannot be used:\n  line 4: expected the 4 "
        "columns `utt attack label score`, separated by whitespace, found 2",
    ),
    "too many columns": (GOOD_CM + "s2 A07 x spoof 1\n", "line 4: .*, found 5"),
    "unknown key": (
        GOOD_CM + "s2 A07 forged 1\n",
        r"line 4: unknown label 'forged'; expected bonafide or spoof",
    ),
    "two names": (
        "utt,score,score\nb1,1,1\n",
        "line 1: 'score' and 'score' may both be the score",
    ),
    "no number": (
        GOOD_CM + "s2 A07 spoof 1,5\n",
        "line 4: the score '1,5' is not a number",
    ),
    "underscore": (GOOD_CM + "s2 A07 spoof 1_0\n", "'1_0' is not a number"),
    "nan": (
        GOOD_CM + "\ns2 A07 spoof nan\n",
        "line 5: the score is 'nan', not a finite number",
    ),
    "infinite": (GOOD_CM + "s2 A07 spoof -inf\n", "the score is '-inf'"),
    "overflow": (GOOD_CM + "s2 A07 spoof 1e999\n", "the score is '1e999'"),
    "absurd": (GOOD_CM + "s2 A07 spoof -1e101\n", "not a .* of ordinary size"),
    "repeated": (
        GOOD_CM + "b1 - bonafide 1\ns1 A07 spoof 2\ns1 A07 spoof 2\n",
        r"scores\.txt: 3 of 6 lines .*\n  line 4: b1 is already on line 1\n"
        "  line 5: s1 is already on line 3",
    ),
    "empty": ("", r"scores\.txt: empty"),
    "only a header": ("utt,score\n", "nothing below its header"),
    "no spoof": (
        "b1 - bonafide 1\nb2 - bonafide 2\n",
        r"scores\.txt: no spoof trial \(found 0 spoof, 2 bonafide\)",
    ),
    "no bona fide": ("s1 A07 spoof 1\n", "no bonafide trial"),
    "latin-1": (
        GOOD_CM.encode() + b"s\xe9 A07 spoof 1\n",
        "line 4: not UTF-8 text",
    ),
}


@pytest.mark.parametrize("content, message", BAD_CM.values(), ids=BAD_CM)
def test_bad_cm_scores_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_cm_scores(write(tmp_path, content))


BAD_WITH_PROTOCOL = {
    "missing and extra": (
        "b1 1\ns1 0\nx1 0\nx2 0\n",
        r"missing trials: 1 \(b2\); extra trials: 2 \(x1, x2\). Expected exac"
        "tly the 3 of the protocol",
    ),
    "another key": (
        "b1 - bonafide 1\nb2 A07 spoof 1\ns1 A07 spoof 0\n",
        r"another key than in the protocol: 1 \(b2\)",
    ),
    "three columns": ("b1 x 1\n", "line 1: found 3 columns"),
    "ragged table": (
        "utt,score\nb1,1\nb2,1,9\ns1,0\n",
        "line 3: expected the 2 columns `utt score`, separated by commas, "
        "found 3",
    ),
    "unnamed": ("utt,score\n,1\n", "line 2: the trial has no name"),
}


@pytest.mark.parametrize(
    "content, message", BAD_WITH_PROTOCOL.values(), ids=BAD_WITH_PROTOCOL
)
def test_scores_that_do_not_fit_the_protocol(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_cm_scores(write(tmp_path, content), EVAL)


def test_all_bad_lines_are_counted_and_the_first_five_shown(tmp_path):
    lines = [f"s{n} A07 spoof nan{n}\n" for n in range(8)]
    with pytest.raises(InputError) as caught:
        read_cm_scores(write(tmp_path, GOOD_CM + "".join(lines)))
    message = str(caught.value)
    assert "8 of 11 lines cannot be used" in message
    assert [f"'nan{n}'" in message for n in range(6)] == [True] * 5 + [False]
    assert "and 3 more" in message


def test_a_long_cell_is_not_printed_in_full(tmp_path):
    path = write(tmp_path, f"u - {'k' * 3000} 1\n")
    with pytest.raises(InputError) as caught:
        read_cm_scores(path)
    assert "kkk..." in str(caught.value) and "k" * 70 not in str(caught.value)


@pytest.mark.parametrize("read", [read_cm_scores, read_asv_scores])
def test_unreadable_paths_are_refused(tmp_path, read):
    with pytest.raises(InputError, match=r"gone.txt: cannot be read \(No such"):
        read(tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"\(Is a directory\). Expected a|the"):
        read(tmp_path)


# ------------------------------------------------------------ writing, aligning


@pytest.mark.parametrize(
    "content",
    ["b1 - bonafide 2.5\ns1 A07 spoof -0.1\n", "b1 2.5\nb2 1e-30\n"],
)
def test_scores_are_written_as_they_are_read(tmp_path, content):
    path = write(tmp_path, content)
    written = tmp_path / "written.txt"
    write_cm_scores(written, read_cm_scores(path, need_keys=False))
    assert written.read_text() == content
    with pytest.raises(InputError, match=r"txt/scores.txt: cannot be written"):
        write_cm_scores(path / "scores.txt", EVAL.assign(score=0.0))


def test_systems_are_aligned_by_name(tmp_path):
    bare = read_cm_scores(
        write(tmp_path, "s1 0\nb2 2\nb1 1\n", "bare.txt"), need_keys=False
    )
    keyed = read_cm_scores(write(tmp_path, GOOD_CM, "keyed.txt"))
    trials, scores = align_scores([bare, keyed])
    assert trials.utt.tolist() == ["s1", "b2", "b1"]
    assert trials.label.tolist() == ["spoof", "bonafide", "bonafide"]
    assert scores.tolist() == [[0, -0.001], [2, 3], [1, 2.5]]
    message = r"keyed.txt: missing trials: 1 \(s1\); extra trials: 1 \(s9\)"
    other = keyed.assign(utt=["b1", "b2", "s9"])
    with pytest.raises(InputError, match=message):
        align_scores([bare, other])
    other = keyed.assign(label=keyed.label.tolist()[::-1])
    message = r"keyed.txt: trials with another key than in .*: 2 \(b1, s1\)"
    with pytest.raises(InputError, match=message):
        align_scores([keyed, other])


# --------------------------------------------------------------- ASV scores


def test_asv_scores_are_read_by_class(tmp_path):
    asv = read_asv_scores(write(tmp_path, GOOD_ASV + "A08 spoof -4\n"))
    assert asv.target.tolist() == [3.0]
    assert asv.nontarget.tolist() == [1.0]
    assert asv.spoof.tolist() == [2.0, -4.0]
    assert asv.attacks == {"A07", "A08"}
    assert asv.path == str(tmp_path / "scores.txt")


BAD_ASV = {
    "cm file": (
        GOOD_CM,
        "3 of 3 lines .*line 1: expected the 3 columns `source",
    ),
    "unknown key": (
        GOOD_ASV + "A07 bonafide 1\n",
        "line 4: unknown key 'bonafide'; expected one of target, nontarget, sp",
    ),
    "nan": (GOOD_ASV + "A07 spoof NaN\n", "line 4: the score is 'NaN'"),
    "no spoof": (
        "bonafide target 1\nbonafide nontarget 0\n",
        r"no spoof trial \(found 1 target, 1 nontarget, 0 spoof\)",
    ),
    "empty": ("\n", "empty"),
}


@pytest.mark.parametrize("content, message", BAD_ASV.values(), ids=BAD_ASV)
def test_bad_asv_scores_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_asv_scores(write(tmp_path, content))


ASV_TRIALS = """\
S1 u1 alaw ita_tx bonafide target notrim eval
S2 u1 alaw ita_tx bonafide nontarget notrim eval
S1 u2 alaw ita_tx A07 spoof notrim eval
S1 u3 none none bonafide target notrim progress
"""
ASV_SCORES = "S1 u3 9\nS1 u2 2\nS2 u1 1\nS1 u1 3\n"


def test_asv_scores_of_2021_find_their_keys_by_speaker_and_trial(tmp_path):
    protocol = write(tmp_path, ASV_TRIALS, "trial_metadata.txt")
    asv = read_asv_scores(write(tmp_path, ASV_SCORES), protocol)
    # The progress subset does not count.
    assert asv.target.tolist() == [3.0]
    assert asv.nontarget.tolist() == [1.0]
    assert asv.spoof.tolist() == [2.0]
    assert asv.attacks == set()


@pytest.mark.parametrize(
    "scores, trials, message",
    [
        (ASV_SCORES + "S3 u1 1\n", "", r"extra trials: 1 \(S3 u1\)"),
        (ASV_SCORES[:-8], "", r"missing trials: 1 \(S1 u1\)"),
        (ASV_SCORES + "S1 u1 1\n", "", "line 5: S1 u1 is already on line 4"),
        ("- target 1 2\n", "", "expected the 3 columns `speaker utt score`"),
        (
            ASV_SCORES,
            "S1 u1 alaw ita_tx bonafide nontarget notrim eval\n",
            "trial_metadata.txt: 1 of 5 lines .*S1 u1 is already on line 1",
        ),
    ],
    ids=["extra", "missing", "repeated", "another layout", "contradiction"],
)
def test_asv_scores_of_2021_that_do_not_fit(tmp_path, scores, trials, message):
    protocol = write(tmp_path, ASV_TRIALS + trials, "trial_metadata.txt")
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_asv_scores(write(tmp_path, scores), protocol)
