"""Score files in all layouts, and whether they fit the protocol."""

from dataclasses import replace

import pytest

from speechbrain_bilevel.dataio.protocols import Trial
from speechbrain_bilevel.evaluation.score_files import (
    read_asv_scores,
    read_cm_scores,
    write_cm_scores,
)
from speechbrain_bilevel.utils.errors import InputError

TRIALS = [
    Trial("b1", "b1.flac", "S1", "-", "bonafide", "eval"),
    Trial("s1", "s1.flac", "S1", "A07", "spoof", "eval"),
    Trial("b2", "b2.flac", "S2", "-", "bonafide", "eval"),
    Trial("s2", "s2.flac", "S2", "A08", "spoof", "progress"),
]
EVAL = TRIALS[:3]


def write(tmp_path, content, name="scores.txt"):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        "b2 3\nb1 2.5\ns1 -1\n",
        "b2\t3\nb1\t2.5\ns1\t-1\n",
        "filename\tcm-score\nb2\t3\nb1\t2.5\ns1\t-1\n",
        "Score, Utt, note\n3, b2, x\n2.5, b1,\n-1, s1, y\n",
        "b2 - bonafide 3\nb1 bonafide bonafide 2.5\ns1 A99 spoof -1\n",
        "id,label,score\nb2,bonafide,3\nb1,bonafide,2.5\ns1,spoof,-1\n",
    ],
    ids=["two", "two, tabs", "asvspoof 5", "csv", "four", "csv with keys"],
)
def test_a_protocol_tells_keys_attacks_and_speakers(tmp_path, content):
    scores = read_cm_scores(write(tmp_path, content), EVAL)
    assert scores.utt.tolist() == ["b2", "b1", "s1"]
    assert scores.is_bonafide.tolist() == [True, True, False]
    assert scores.attack.tolist() == ["-", "-", "A07"]
    assert scores.speaker.tolist() == ["S2", "S1", "S1"]
    assert scores.score.tolist() == [3.0, 2.5, -1.0]


def test_a_table_may_tell_the_keys_itself(tmp_path):
    content = (
        'path,attack,key,llr\n"a, b.wav",-,bonafide,1\nc d.wav,A1,spoof,0\n'
    )
    scores = read_cm_scores(write(tmp_path, content))
    assert scores.utt.tolist() == ["a,_b.wav", "c_d.wav"]
    assert scores.attack.tolist() == ["-", "A1"]
    assert scores.is_bonafide.tolist() == [True, False]
    assert scores.speaker is None


def test_scores_of_other_partitions_are_passed_over(tmp_path):
    path = write(tmp_path, "b1 1\nb2 2\ns1 0\ns2 -1\n")
    scores = read_cm_scores(path, TRIALS, "eval")
    assert scores.utt.tolist() == ["b1", "b2", "s1"]
    # They may be missing, too.
    fewer = write(tmp_path, "b1 1\nb2 2\ns1 0\n", "fewer.txt")
    assert len(read_cm_scores(fewer, TRIALS, "eval").utt) == 3
    # As in official figures, eval is what counts unless something else is said.
    assert len(read_cm_scores(path, TRIALS).utt) == 3
    dev = [replace(trial, partition="dev") for trial in TRIALS]
    assert len(read_cm_scores(path, dev).utt) == 4
    with pytest.raises(
        InputError, match="no trial of partition 'dev'; expected one"
    ):
        read_cm_scores(path, TRIALS, "dev")


BAD_WITH_PROTOCOL = {
    "missing and extra": (
        "b1 1\ns1 0\nx1 0\nx2 0\n",
        r"missing trials: 1 \(b2\); extra trials: 2 \(x1, x2\)",
    ),
    "repeated": ("b1 1\nb2 1\ns1 0\nb1 2\n", r"more than once: 1 \(b1\)"),
    "nan": ("b1 nan\nb2 1\ns1 0\n", "line 1: the score is 'nan'; .* for 'b1'"),
    "another key": (
        "b1 - bonafide 1\nb2 A07 spoof 1\ns1 A07 spoof 0\n",
        r"another key than in the protocol: 1 \(b2\)",
    ),
    "three columns": ("b1 bonafide 1\n", "line 1: expected the 4 .* found 3"),
    "ragged table": (
        "utt,score\nb1,1\nb2,1,9\ns1,0\n",
        "line 3: expected the 2 columns of `utt score`, separated by commas, "
        "found 3",
    ),
    "unnamed": ("utt,score\n,1\n", "line 2: the utterance has no name"),
}


@pytest.mark.parametrize(
    "content, message", BAD_WITH_PROTOCOL.values(), ids=BAD_WITH_PROTOCOL
)
def test_scores_that_do_not_fit_the_protocol(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_cm_scores(write(tmp_path, content), EVAL)


def test_scores_without_keys_need_a_protocol(tmp_path):
    path = write(tmp_path, "b1 1\nb2 2\n")
    with pytest.raises(InputError, match=r"has no keys.*--protocol"):
        read_cm_scores(path)
    scores = read_cm_scores(path, need_keys=False)
    assert scores.is_bonafide is None and scores.attack is None
    assert scores.score.tolist() == [1.0, 2.0]


def test_all_bad_lines_are_counted_and_the_first_five_shown(tmp_path):
    lines = [f"s{n} nan\n" for n in range(8)]
    with pytest.raises(InputError) as caught:
        read_cm_scores(write(tmp_path, "b1 1\n" + "".join(lines)), EVAL)
    message = str(caught.value)
    assert "scores.txt: 8 lines cannot be used" in message
    assert [f"'s{n}'" in message for n in range(6)] == [True] * 5 + [False]
    assert message.endswith("and 3 more")


FOUR_COLUMNS = "b1 - bonafide 2.5\ns1 A07 spoof -1e-3\n"


@pytest.mark.parametrize("content", [FOUR_COLUMNS, "b1 2.5\nb2 1e-30\n"])
def test_written_scores_are_read_back(tmp_path, content):
    scores = read_cm_scores(write(tmp_path, content), need_keys=False)
    path = tmp_path / "written.txt"
    write_cm_scores(path, scores)
    again = read_cm_scores(path, need_keys=False)
    assert again.utt.tolist() == scores.utt.tolist()
    assert again.score.tolist() == scores.score.tolist()
    if scores.is_bonafide is not None:
        assert again.is_bonafide.tolist() == scores.is_bonafide.tolist()
        assert again.attack.tolist() == scores.attack.tolist()
    with pytest.raises(InputError, match="txt/scores.txt: cannot be written"):
        write_cm_scores(path / "scores.txt", scores)


ASV_TRIALS = """\
S1 u1 alaw ita_tx bonafide target notrim eval
S2 u1 alaw ita_tx bonafide nontarget notrim eval
S1 u2 alaw ita_tx A07 spoof notrim eval
S1 u3 none none bonafide target notrim progress
"""
ASV_SCORES = "S1 u3 9\nS1 u2 2\nS2 u1 1\nS1 u1 3\n"


def test_asv_scores_of_2021_find_their_keys_by_speaker_and_trial(tmp_path):
    protocol = write(tmp_path, ASV_TRIALS, "trial_metadata.txt")
    scores = read_asv_scores(write(tmp_path, ASV_SCORES), protocol)
    # The progress subset does not count.
    assert scores.target.tolist() == [3.0]
    assert scores.nontarget.tolist() == [1.0]
    assert scores.spoof.tolist() == [2.0]


@pytest.mark.parametrize(
    "scores, message",
    [
        (ASV_SCORES + "S3 u1 1\n", r"extra trials: 1 \(S3 u1\)"),
        (ASV_SCORES[:-8], r"missing trials: 1 \(S1 u1\)"),
        (ASV_SCORES + "S1 u1 1\n", r"more than once: 1 \(S1 u1\)"),
        ("bonafide target 1 2\n", "expected the 3 columns of `speaker utt sc"),
    ],
    ids=["extra", "missing", "repeated", "another layout"],
)
def test_asv_scores_of_2021_that_do_not_fit(tmp_path, scores, message):
    protocol = write(tmp_path, ASV_TRIALS, "trial_metadata.txt")
    with pytest.raises(InputError, match=message):
        read_asv_scores(write(tmp_path, scores), protocol)


def test_attacks_of_a_table_can_be_written_in_columns(tmp_path):
    table = "utt,attack,key,score\na,,bonafide,1\nb,voice conversion,spoof,0\n"
    path = tmp_path / "written.txt"
    write_cm_scores(path, read_cm_scores(write(tmp_path, table)))
    assert path.read_text() == (
        "a - bonafide 1.0\nb voice_conversion spoof 0.0\n"
    )


def test_keys_may_be_called_as_in_lists(tmp_path):
    table = "utt,label,score\na,bona-fide,2\nb,Real,1\nc,fake,0\n"
    scores = read_cm_scores(write(tmp_path, table))
    assert scores.is_bonafide.tolist() == [True, True, False]


@pytest.mark.parametrize(
    "content, message",
    [
        ("utt score\nb1 1\n", "line 1: 'utt score' looks like a header"),
        ("filename cm-score\nb1 1\n", "looks like a header; expected one on"),
        ("utt,score,score\na,1,2\n", "'score' names more than one column"),
        ('utt,score\n"a,1\nb,2\n', "line 2: the quotes .* do not pair"),
        ("b1 1\rb2 2\r", "line 1: its lines end with carriage returns alone"),
        ("b1 1e101\n", "finite number of ordinary size for 'b1'"),
        ("b1 -inf\n", "the score is '-inf'; expected a finite"),
    ],
)
def test_what_is_likely_meant_is_said(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_cm_scores(write(tmp_path, content), EVAL)


def test_the_score_of_the_countermeasure_is_taken_of_several(tmp_path):
    table = "filename\tcm-score\tasv-score\nb2\t3\t9\nb1\t2\t9\ns1\t1\t9\n"
    scores = read_cm_scores(write(tmp_path, table), EVAL)
    assert scores.score.tolist() == [3.0, 2.0, 1.0]


def test_an_asv_protocol_that_contradicts_itself_is_refused(tmp_path):
    twice = ASV_TRIALS + "S1 u1 alaw ita_tx bonafide nontarget notrim eval\n"
    protocol = write(tmp_path, twice, "trial_metadata.txt")
    message = r"trial_metadata.txt: utterances given more than once: 1 \(S1 u1"
    with pytest.raises(InputError, match=message):
        read_asv_scores(write(tmp_path, ASV_SCORES), protocol)
