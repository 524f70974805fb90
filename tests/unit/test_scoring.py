"""Score files: whole or absent, and never a trial scored twice or lost."""

import os

import numpy as np
import pytest
import torch
from full_disk import disk_full_after

from speechbrain_bilevel import scoring
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.metrics.scores import read_cm_scores
from speechbrain_bilevel.scoring import ScoreFile

TRIALS = [("b1", "-", "bonafide"), ("s1", "A07", "spoof")]
TRIALS += [("b2", "-", "bonafide"), ("s2", "A19", "spoof")]
SCORES = {"b1": 1.5, "s1": -2.25, "b2": 1 / 3, "s2": -1e-07}
TEXT = (
    "b1 - bonafide 1.5\n"
    "s1 A07 spoof -2.25\n"
    "b2 - bonafide 0.3333333333333333\n"
    "s2 A19 spoof -1e-07\n"
)


@pytest.fixture
def path(tmp_path):
    """Where the score file goes."""
    return tmp_path / "scores.txt"


@pytest.fixture
def network():
    """What fingerprints the scores."""
    return torch.nn.Linear(2, 1)


def add(scores, *utts):
    """Adds the scores of some utts."""
    scores.add(utts, [SCORES[utt] for utt in utts])


def complete(path, network):
    """Writes the whole score file."""
    scores = ScoreFile(path, TRIALS, network)
    add(scores, *SCORES)
    assert scores.finish()


def names(path):
    """The files beside the score file, itself included."""
    return sorted(os.listdir(path.parent))


def test_all_scores_are_written_in_the_order_of_the_trials(path, network):
    scores = ScoreFile(path, TRIALS, network)
    add(scores, "s2", "b1", "b2")
    assert not scores.finish()
    assert names(path) == ["scores.txt.part0"]
    add(scores, "s1")
    assert scores.finish()
    assert path.read_text() == TEXT
    assert names(path) == ["scores.txt", "scores.txt.json"]


LAST = "b2 0.3333333333333333\n"


@pytest.mark.parametrize("kept", range(len(LAST) + 1))
def test_a_torn_last_line_is_scored_again(path, network, kept):
    scores = ScoreFile(path, TRIALS, network)
    add(scores, "b1", "s1", "b2")
    size = scores.part.stat().st_size
    assert scores.part.read_text().endswith("\n" + LAST)
    os.truncate(scores.part, size - len(LAST) + kept)

    again = ScoreFile(path, TRIALS, network)
    assert again.missing == (["b2", "s2"] if kept < len(LAST) else ["s2"])
    add(again, *again.missing)
    assert again.finish()
    assert path.read_text() == TEXT


@pytest.mark.parametrize("kept", [0, 1, 63, 64])
def test_a_torn_first_line_starts_anew(path, network, kept):
    scores = ScoreFile(path, TRIALS, network)
    add(scores, "b1")
    os.truncate(scores.part, kept)
    again = ScoreFile(path, TRIALS, network)
    assert again.missing == list(SCORES)
    add(again, *SCORES)
    assert again.finish()
    assert path.read_text() == TEXT


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("other", ["weights", "trials", "order", "key"])
def test_scores_of_something_else_are_not_kept(path, network, other, finished):
    scores = ScoreFile(path, TRIALS, network)
    add(scores, *SCORES)
    assert not finished or scores.finish()
    trials = {
        "trials": TRIALS[:3],
        "order": TRIALS[::-1],
        "key": [("b1", "-", "spoof"), *TRIALS[1:]],
    }.get(other, TRIALS)
    if other == "weights":
        network.weight.data[0, 0] += 1e-6
    again = ScoreFile(path, trials, network)
    assert again.missing == [utt for utt, _, _ in trials]
    again.add(again.missing, [0.0] * len(trials))
    assert again.finish()
    assert read_cm_scores(path).score.tolist() == [0.0] * len(trials)
    assert names(path) == ["scores.txt", "scores.txt.json"]


def test_a_complete_file_is_left_alone(path, network):
    complete(path, network)
    os.utime(path, (0, 0))
    again = ScoreFile(path, TRIALS, network)
    assert again.missing == []
    assert again.finish()
    assert path.stat().st_mtime == 0


@pytest.mark.parametrize("damage", ["edited", "removed", "stamp"])
def test_a_complete_file_that_was_changed_is_noticed(path, network, damage):
    complete(path, network)
    if damage == "edited":
        path.write_text(TEXT.replace("-2.25", "+2.25"))
    elif damage == "removed":
        path.unlink()
    else:
        os.truncate(path.with_name("scores.txt.json"), 20)
    assert ScoreFile(path, TRIALS, network).missing == list(SCORES)
    complete(path, network)
    assert path.read_text() == TEXT


def test_a_kill_between_the_scores_and_their_stamp(path, network, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ScoreFile, "_stamp", killed)
    with pytest.raises(KeyboardInterrupt):
        complete(path, network)
    monkeypatch.undo()
    assert names(path) == ["scores.txt", "scores.txt.part0"]
    again = ScoreFile(path, TRIALS, network)
    assert again.missing == []
    assert again.finish()
    assert path.read_text() == TEXT
    assert names(path) == ["scores.txt", "scores.txt.json"]


@pytest.fixture
def ranks(path, network, monkeypatch):
    """The score file as each of three processes has it, all done."""
    ranks = []
    for n in range(3):
        monkeypatch.setattr(scoring, "rank", lambda n=n: n)
        ranks.append(ScoreFile(path, TRIALS, network))
    monkeypatch.undo()
    for n, scores in enumerate(ranks):
        add(scores, *scores.missing[n::3])
    return ranks


def test_the_parts_of_all_ranks_are_merged(path, ranks):
    assert names(path) == [f"scores.txt.part{n}" for n in range(3)]
    assert ranks[0].finish()
    assert path.read_text() == TEXT
    assert names(path) == ["scores.txt", "scores.txt.json"]


def test_fewer_ranks_go_on_where_more_stopped(path, network, ranks):
    os.truncate(ranks[2].part, ranks[2].part.stat().st_size - 1)
    single = ScoreFile(path, TRIALS, network)
    assert single.missing == ["b2"]
    add(single, "b2")
    assert single.finish()
    assert path.read_text() == TEXT


def test_ranks_wait_for_each_other_before_they_add(path, network, monkeypatch):
    # Else the fast one's first scores would change what the slow one finds
    # missing, and each takes its share of that list.
    done = []
    monkeypatch.setattr(scoring, "ddp_barrier", lambda: done.append("wait"))
    monkeypatch.setattr(ScoreFile, "_read_parts", lambda _: done.append("read"))
    ScoreFile(path, TRIALS, network)
    assert done == ["read", "wait"]


def test_scores_keep_every_bit(path, network):
    values = [0.1 + 0.2, 5e-324, -1.7976931348623157e308, -0.0]
    scores = ScoreFile(path, TRIALS, network)
    scores.add(["b1", "s1"], values[:2])
    again = ScoreFile(path, TRIALS, network)
    again.add(["b2", "s2"], values[2:])
    assert again.finish()
    read = read_cm_scores(path).score
    # Compared as bytes, as -0.0 == 0.0.
    assert read.tobytes() == np.array(values).tobytes()


def test_a_full_disk_costs_no_score_that_was_written(path, network):
    trials = [(f"utt_{n:04d}", "A07", "spoof") for n in range(2000)]
    utts = [utt for utt, _, _ in trials]
    scores = ScoreFile(path, trials, network)
    scores.add(utts[:500], [0.5] * 500)
    size = scores.part.stat().st_size
    with disk_full_after(size + 1001):
        with pytest.raises(InputError, match=r"part0: .* \(File too large\)"):
            scores.add(utts[500:], [0.25] * 1500)
    again = ScoreFile(path, trials, network)
    assert again.missing == utts[500 + 1001 // len("utt_0500 0.25\n") :]
    again.add(again.missing, [0.25] * len(again.missing))
    with disk_full_after(size), pytest.raises(InputError, match="start again"):
        again.finish()
    assert names(path) == ["scores.txt.part0"]
    assert again.finish()
    columns = [line.split() for line in path.read_text().splitlines()]
    assert [column[0] for column in columns] == utts
    assert [column[3] for column in columns] == 500 * ["0.5"] + 1500 * ["0.25"]


def test_a_place_that_cannot_be_written_is_told(path, network):
    scores = ScoreFile(path, TRIALS, network)
    add(scores, *SCORES)
    path.mkdir()
    with pytest.raises(InputError, match=r"scores\.txt: the scores could not"):
        scores.finish()
    assert names(path) == ["scores.txt", "scores.txt.part0"]
    gone = path.parent / "gone" / "scores.txt"
    with pytest.raises(InputError, match="No such file or directory"):
        add(ScoreFile(gone, TRIALS, network), "b1")
