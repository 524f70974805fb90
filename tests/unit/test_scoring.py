"""Score files: whole or absent, and never a trial scored twice or lost."""

import collections.abc
import dataclasses
import os
import re
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from full_disk import disk_full_after

from speechbrain_bilevel.dataio.protocols import Trial
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference import scoring as score_collection
from speechbrain_bilevel.inference import scoring as trial_batches
from speechbrain_bilevel.inference.scoring import (
    ScoreFile,
    TrialBatches,
    score_trials,
)
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.mel_cnn import MelCNN
from speechbrain_bilevel.lobes.ssl import SSLAASIST
from speechbrain_bilevel.lobes.v2 import V2
from speechbrain_bilevel.nnet.transformer import SelfAttention
from speechbrain_bilevel.utils.errors import InputError

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
    found = sorted(os.listdir(path.parent))
    return [re.sub(r"\.[0-9a-f]{16}\.part", ".part", name) for name in found]


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
        monkeypatch.setattr(score_collection, "rank", lambda n=n: n)
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
    monkeypatch.setattr(
        score_collection, "ddp_barrier", lambda: done.append("wait")
    )
    monkeypatch.setattr(ScoreFile, "_read_parts", lambda _: done.append("read"))
    ScoreFile(path, TRIALS, network)
    assert done == ["read", "wait"]


def test_scores_keep_every_bit(path, network):
    values = [0.1 + 0.2, 5e-324, -9.999999999999999e99, -0.0]
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


@pytest.mark.parametrize("name", ["scores[1].txt", "a*?.txt", "-"])
def test_a_name_is_no_pattern(tmp_path, network, name):
    path = tmp_path / name
    scores = ScoreFile(path, TRIALS, network)
    add(scores, "b1")
    again = ScoreFile(path, TRIALS, network)
    add(again, *again.missing)
    assert again.finish() and path.read_text() == TEXT


def test_files_that_look_like_parts_are_left_alone(path, network):
    scores = ScoreFile(path, TRIALS, network)
    others = [".part0", ".part1.csv", ".partners.md", ".0123456789abcdef.part"]
    for ending in others:
        path.with_name(f"scores.txt{ending}").write_text("b1 9.0\n")
    scores.part.with_name(scores.part.name[:-1] + "7").mkdir()
    add(scores, *SCORES)
    assert scores.finish()
    assert path.read_text() == TEXT
    assert len(names(path)) == 2 + len(others) + 1


def test_a_part_that_a_power_cut_has_spoilt_is_read_as_far_as_it_can_be(
    path, network
):
    scores = ScoreFile(path, TRIALS, network)
    add(scores, "b1", "s1")
    with open(scores.part, "ab") as file:
        file.write(b"\0" * 30 + b"\n\xff\xfe zz\nb2\n")
    again = ScoreFile(path, TRIALS, network)
    assert again.missing == ["b2", "s2"]
    add(again, *again.missing)
    assert again.finish() and path.read_text() == TEXT


def test_a_kill_before_the_parts_are_gone(path, network, monkeypatch):
    scores = ScoreFile(path, TRIALS, network)
    add(scores, *SCORES)
    read = scores._read_parts()
    monkeypatch.setattr(scores, "_parts", lambda _: 1 / 0)
    monkeypatch.setattr(scores, "_read_parts", lambda: read)
    with pytest.raises(ZeroDivisionError):
        scores.finish()
    assert len(names(path)) == 3
    again = ScoreFile(path, TRIALS, network)
    assert again.missing == [] and again.finish()
    assert names(path) == ["scores.txt", "scores.txt.json"]


def test_a_score_that_is_no_number_is_refused(path, network):
    # It would count as missing, and a recipe would ask to start again.
    with pytest.raises(InputError, match="^s1: its score is nan"):
        ScoreFile(path, TRIALS, network).add(["b1", "s1"], [1.5, np.nan])
    assert names(path) == []


def test_networks_of_equal_weights_are_told_apart(path):
    two, four = (SelfAttention(size=8, heads=heads) for heads in (2, 4))
    four.load_state_dict(two.state_dict())
    add(ScoreFile(path, TRIALS, two), "b1")
    assert ScoreFile(path, TRIALS, two).missing == ["s1", "b2", "s2"]
    assert ScoreFile(path, TRIALS, four).missing == list(SCORES)


def test_weights_of_half_precision(path, network):
    before = ScoreFile(path, TRIALS, network).fingerprint
    assert ScoreFile(path, TRIALS, network.bfloat16()).fingerprint != before


class Listener:
    """Scores the first sample of what it is shown, and remembers it all."""

    def __init__(self, **changed):
        settings = {"samples": 4, "as_published": False, "precision": "fp32"}
        settings |= changed
        self.precision = settings.pop("precision")
        self.hparams = SimpleNamespace(**settings)
        self.windows = SimpleNamespace(samples=settings["samples"])
        self.mods = SimpleNamespace(network=torch.nn.Identity())
        self.heard = []

    def classify_batch(self, wavs):
        self.heard.append(wavs)
        return None, wavs[:, 0].double(), None, None

    def scored(self):
        """The scores it gave to trials, in the order that it did."""
        return [row[0].item() for wavs in self.heard for row in wavs if row[0]]


@pytest.fixture
def recordings(tmp_path):
    """Ten trials; the n-th has the score (n + 1) / 16."""
    trials = []
    (tmp_path / "audio").mkdir()
    for n in range(10):
        path = str(tmp_path / "audio" / f"{n}.wav")
        soundfile.write(path, np.full(4, (n + 1) / 16), 16000)
        trials.append(Trial(f"t{n}", path, "p1", "A07", "spoof", "eval"))
    return trials


def text_of(*numbers):
    """The score file of these recordings."""
    return "".join(f"t{n} A07 spoof {(n + 1) / 16}\n" for n in numbers)


def test_a_list_of_trials_is_scored(path, recordings):
    score_trials(Listener(), recordings, path, batch_size=4)
    assert path.read_text() == text_of(*range(10))
    assert names(path) == ["audio", "scores.txt", "scores.txt.json"]
    again = Listener()
    score_trials(again, recordings, path, batch_size=4)
    assert again.heard == []


def test_every_trial_has_its_own_place_in_batches_of_one_size(recordings):
    # Else its last bits would tell what was scored beside it.
    everything = TrialBatches(recordings, range(10), 4, 6)
    assert len(everything) == 3 and everything.n_trials == 10
    some = TrialBatches(recordings, [5, 6, 9], 4, 6)
    assert len(some) == 2 and some.n_trials == 3
    for batch, (n, utts, rows) in zip(
        some, [(1, ["t5", "t6"], [1, 2]), (2, ["t9"], [1])], strict=True
    ):
        assert [trial.utt for trial in batch[0]] == utts
        assert (batch[1], batch[3]) == (rows, [])
        expected = torch.zeros(4, 6)
        expected[rows] = everything[n][2][rows]
        assert torch.equal(batch[2], expected)
    few = TrialBatches(recordings[:2], [1], 4, 6)
    assert few[0][2].shape == (2, 6)


@pytest.mark.parametrize("lengths", [None, np.arange(10) * 2])
def test_processes_share_the_batches(recordings, monkeypatch, lengths):
    monkeypatch.setattr(trial_batches, "world_size", lambda: 3)
    utts = []
    for n in range(3):
        monkeypatch.setattr(trial_batches, "rank", lambda n=n: n)
        share = TrialBatches(recordings, range(10), 2, 4, lengths=lengths)
        assert share.n_trials in (2, 3, 4)
        utts += [trial.utt for batch in share for trial in batch[0]]
    assert sorted(utts) == [trial.utt for trial in recordings]


def test_batches_of_whole_recordings_have_one_length_each(recordings):
    # 100, 104, 108 and 205 are among the lengths; 0 is unreadable.
    lengths = np.array([50, 104, 101, 200, 100, 108, 0, 102, 199, 103])
    where = {}
    for missing in (range(10), [2, 3, 6]):
        batches = TrialBatches(recordings, missing, 4, 100, lengths=lengths)
        for trials, rows, wavs, _ in batches:
            for trial, row in zip(trials, rows):
                place = row, *wavs.shape
                assert where.setdefault(trial.utt, place) == place
    assert where == {
        **{"t3": (0, 1, 205), "t8": (0, 1, 205)},
        "t5": (0, 1, 108),
        **{"t1": (0, 3, 104), "t2": (1, 3, 104), "t7": (2, 3, 104)},
        "t9": (0, 1, 104),
        **{"t0": (0, 3, 100), "t4": (1, 3, 100), "t6": (2, 3, 100)},
    }


def test_bad_files_are_named_when_all_others_are_scored(path, recordings):
    gone, broken = recordings[3], recordings[6]
    os.rename(gone.path, gone.path + ".away")
    with open(broken.path, "r+b") as file:
        whole = file.read()
        file.truncate(20)
    with pytest.raises(InputError) as error:
        score_trials(Listener(), recordings, path, batch_size=4)
    lines = str(error.value).splitlines()
    assert lines[0] == "2 of 10 trials have no score:"
    assert lines[1].startswith(f"  {gone.path}: does not exist")
    assert lines[2].startswith(f"  {broken.path}: cannot be read as audio")
    assert "only they are tried" in lines[3] and len(lines) == 4
    assert names(path) == ["audio", "scores.txt.part0"]

    os.rename(gone.path + ".away", gone.path)
    again = Listener()
    with pytest.raises(InputError, match="^1 of 10 trials have no score:"):
        score_trials(again, recordings, path, batch_size=4)
    assert again.scored() == [4 / 16]
    with open(broken.path, "wb") as file:
        file.write(whole)
    # Of another size, too: what is there does not depend on it.
    again = Listener()
    score_trials(again, recordings, path, batch_size=3)
    assert again.scored() == [7 / 16]
    assert path.read_text() == text_of(*range(10))


def test_of_many_bad_files_the_first_are_named(path, recordings):
    gone = [
        dataclasses.replace(recordings[0], utt=f"g{n}", path=f"/gone/{n}.wav")
        for n in range(21)
    ]
    with pytest.raises(InputError) as error:
        score_trials(Listener(), recordings + gone, path)
    assert "/gone/19.wav" in str(error.value)
    assert "/gone/20.wav" not in str(error.value)
    assert "\n  and 1 more\n" in str(error.value)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_none_is_named(path, recordings, score):
    class Broken(Listener):
        def classify_batch(self, wavs):
            scores = super().classify_batch(wavs)[1]
            scores[scores == 2 / 16] = score
            return None, scores, None, None

    with pytest.raises(
        InputError, match=f"(?s)^1 of .*/1.wav: its score is {score}"
    ):
        score_trials(Broken(), recordings, path)
    again = Listener()
    score_trials(again, recordings, path)
    assert again.scored() == [2 / 16]
    assert path.read_text() == text_of(*range(10))


def score_two_of_ten(recordings, path):
    """A run that was stopped, by a bad file, with two scores."""
    for trial in recordings[2:]:
        os.rename(trial.path, trial.path + ".away")
    with pytest.raises(InputError, match="^8 of 10 trials have no score"):
        score_trials(Listener(), recordings, path)
    for trial in recordings[2:]:
        os.rename(trial.path + ".away", trial.path)


@pytest.mark.parametrize(
    "other", ["nothing", "samples", "as_published", "precision", "trimmed"]
)
def test_other_settings_start_anew(path, recordings, other):
    score_two_of_ten(recordings, path)
    settings = {"samples": 5, "as_published": True, "precision": "bf16"}
    changed = {other: settings[other]} if other in settings else {}
    detector = Listener(**changed)
    score_trials(detector, recordings, path, trim_silence=other == "trimmed")
    assert len(detector.scored()) == (8 if other == "nothing" else 10)
    assert names(path) == ["audio", "scores.txt", "scores.txt.json"]


def test_other_audio_starts_anew(path, recordings, tmp_path):
    score_two_of_ten(recordings, path)
    codec = tmp_path / "codec"
    os.rename(tmp_path / "audio", codec)
    recordings = [
        dataclasses.replace(t, path=str(codec / os.path.basename(t.path)))
        for t in recordings
    ]
    detector = Listener()
    score_trials(detector, recordings, path)
    assert len(detector.scored()) == 10


@pytest.mark.parametrize("there", ["other scores", "something else"])
def test_what_is_there_already_is_not_replaced(path, recordings, there):
    if there == "other scores":
        score_trials(Listener(), recordings, path)
    else:
        path.write_text("precious")
    before = path.read_bytes()
    detector = Listener(precision="bf16")
    with pytest.raises(InputError, match="is there already, and not with the"):
        score_trials(detector, recordings, path)
    assert detector.heard == [] and path.read_bytes() == before


def test_one_file_is_the_same_from_another_folder(
    path, recordings, tmp_path, monkeypatch
):
    score_trials(Listener(), recordings, path)
    monkeypatch.chdir(tmp_path)
    relative = [
        dataclasses.replace(t, path=os.path.relpath(t.path)) for t in recordings
    ]
    again = Listener()
    score_trials(again, relative, "scores.txt")
    assert again.heard == []


@pytest.mark.parametrize("whole", [False, True])
def test_no_trials_make_an_empty_file(path, whole):
    detector = Listener()
    detector.mods.network.any_length = True
    score_trials(detector, [], path, whole=whole)
    assert path.read_text() == "" and detector.heard == []
    assert len(TrialBatches([], [], 4, 6, lengths=np.zeros(0, int))) == 0


def test_one_name_for_two_trials_is_refused(path, recordings):
    with pytest.raises(InputError, match="^1 names stand .* first of all t2;"):
        score_trials(Listener(), recordings + recordings[2:3], path)


@pytest.mark.parametrize("place", ["folder", "file/a.txt", "file/b/a.txt"])
def test_an_unwritable_place_is_found_before_the_work(
    tmp_path, recordings, place
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    detector = Listener()
    with pytest.raises(InputError, match=f"{place}: cannot be written"):
        score_trials(detector, recordings, tmp_path / place)
    assert detector.heard == []


def test_whole_recordings_without_silence_are_refused(path, recordings):
    detector = Listener()
    detector.mods.network.any_length = True
    with pytest.raises(InputError, match="^whole recordings without the sil"):
        score_trials(detector, recordings, path, trim_silence=True, whole=True)


@pytest.mark.parametrize("kind", [AASIST, SSLAASIST, MelCNN])
def test_networks_of_any_length_say_so(kind):
    assert kind.any_length and not hasattr(V2, "any_length")


class Corpus(collections.abc.Sequence):
    """So many trials, none of which is kept."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, n):
        if not 0 <= n < self.size:
            raise IndexError(n)
        return Trial(f"u{n:07d}", f"/a/{n}", "s", "A07", "spoof", "eval")


def test_millions_of_trials_take_little_memory(path, network, monkeypatch):
    # A dict or a list of tuples would take more than 100 bytes a trial.
    trials, batches = Corpus(20_000), []
    monkeypatch.setattr(
        "speechbrain_bilevel.inference.scoring._score_share",
        lambda _, share, scores, __: batches.append((share, scores)) or (0, []),
    )
    tracemalloc.start()
    try:
        # To be scored, but for nothing: all are missing at the end.
        with pytest.raises(InputError, match="20000 trials have no score"):
            score_trials(Listener(), trials, path)
        _, peak = tracemalloc.get_traced_memory()
        kept, _ = tracemalloc.get_traced_memory()
        share, scores = batches.pop()
        scores.add([trial.utt for trial in trials], [0.5] * len(trials))
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        assert scores.finish()
        _, finishing = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert share.n_trials == len(trials)
    assert peak < 80 * len(trials) and kept < 50 * len(trials)
    assert finishing - before < 200 * len(trials)
    with open(path) as file:
        assert sum(line.endswith(" A07 spoof 0.5\n") for line in file) == 20_000
