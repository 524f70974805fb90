"""Score files: whole or absent, and never a trial scored twice or lost."""

import os
import re
import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from full_disk import disk_full_after

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.dataio.audio import read_audio
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference import scoring
from speechbrain_bilevel.inference.scoring import (
    LONGEST,
    SHORTEST,
    ResumableScoreFile,
    TrialBatches,
    bucket_lengths,
    measure_lengths,
    padding,
    score_trials,
)
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.mel_cnn import MelCNN
from speechbrain_bilevel.lobes.ssl import SSLAASIST
from speechbrain_bilevel.lobes.v2 import V2
from speechbrain_bilevel.nnet.transformer import SelfAttention
from speechbrain_bilevel.utils.errors import InputError

COLUMNS = ["utt", "path", "attack", "label"]
TRIALS = pd.DataFrame(
    [
        ("b1", "b1.wav", "-", "bonafide"),
        ("s1", "s1.wav", "A07", "spoof"),
        ("b2", "b2.wav", "-", "bonafide"),
        ("s2", "s2.wav", "A19", "spoof"),
    ],
    columns=COLUMNS,
)
SCORES = [1.5, -2.25, 1 / 3, -1e-07]
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


def score_file(path, network, trials=TRIALS):
    """The score file of some trials."""
    return ResumableScoreFile(path, trials, network, {})


def add(scores, *positions):
    """Adds the scores of some trials."""
    scores.add(positions, [SCORES[position] for position in positions])


def missing(scores):
    """Which trials have no score, as a list."""
    return scores.missing.tolist()


def complete(path, network):
    """Writes the whole score file."""
    scores = score_file(path, network)
    add(scores, *range(4))
    assert scores.finish()


def names(path):
    """The files beside the score file, itself included."""
    found = set(os.listdir(path.parent)) - {f".{path.name}.lock"}
    found = sorted(found)
    return [re.sub(r"\.[0-9a-f]{16}\.part", ".part", name) for name in found]


def test_all_scores_are_written_in_the_order_of_the_trials(path, network):
    scores = score_file(path, network)
    add(scores, 3, 0, 2)
    assert not scores.finish()
    assert names(path) == ["scores.txt.part0"]
    add(scores, 1)
    assert scores.finish()
    assert path.read_text() == TEXT
    assert names(path) == ["scores.txt", "scores.txt.json"]


LAST = "b2 0.3333333333333333 0\n"


@pytest.mark.parametrize("kept", range(len(LAST) + 1))
def test_an_incomplete_last_line_is_scored_again(path, network, kept):
    scores = score_file(path, network)
    add(scores, 0, 1, 2)
    size = scores.part.stat().st_size
    assert scores.part.read_text().endswith("\n" + LAST)
    os.truncate(scores.part, size - len(LAST) + kept)

    again = score_file(path, network)
    assert missing(again) == ([2, 3] if kept < len(LAST) else [3])
    add(again, *missing(again))
    assert again.finish()
    assert path.read_text() == TEXT


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("other", ["weights", "trials", "order", "key", "path"])
def test_scores_of_something_else_are_not_kept(path, network, other, finished):
    scores = score_file(path, network)
    add(scores, *range(4))
    assert not finished or scores.finish()
    trials = {
        "trials": TRIALS[:3],
        "order": TRIALS[::-1].reset_index(drop=True),
        "key": TRIALS.assign(label=["spoof", "spoof", "bonafide", "spoof"]),
        "path": TRIALS.assign(path="other/" + TRIALS.path),
    }.get(other, TRIALS)
    if other == "weights":
        network.weight.data[0, 0] += 1e-6
    again = score_file(path, network, trials)
    assert missing(again) == list(range(len(trials)))
    again.add(missing(again), [0.0] * len(trials))
    assert again.finish()
    lines = path.read_text().splitlines()
    assert [line.split()[3] for line in lines] == ["0.0"] * len(trials)
    assert names(path) == ["scores.txt", "scores.txt.json"]


def test_a_complete_file_is_left_alone(path, network):
    complete(path, network)
    os.utime(path, (0, 0))
    again = score_file(path, network)
    assert missing(again) == []
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
    assert missing(score_file(path, network)) == [0, 1, 2, 3]
    complete(path, network)
    assert path.read_text() == TEXT


@pytest.mark.parametrize("stamped", [False, True])
def test_a_kill_while_it_finishes(path, network, stamped):
    """Before the stamp is written, or before the parts are gone."""
    scores = score_file(path, network)
    add(scores, *range(4))
    part = scores.part.read_bytes()
    assert scores.finish()
    scores.part.write_bytes(part)
    if not stamped:
        scores.stamp.unlink()
    again = score_file(path, network)
    assert missing(again) == []
    assert again.finish()
    assert path.read_text() == TEXT
    assert names(path) == ["scores.txt", "scores.txt.json"]


@pytest.fixture
def ranks(path, network, monkeypatch):
    """The score file as each of three processes has it, all done."""
    ranks = []
    for n in range(3):
        monkeypatch.setattr(scoring, "rank", lambda n=n: n)
        ranks.append(score_file(path, network))
    monkeypatch.undo()
    for n, scores in enumerate(ranks):
        add(scores, *missing(scores)[n::3])
    return ranks


def test_the_parts_of_all_ranks_are_merged(path, ranks):
    assert names(path) == [f"scores.txt.part{n}" for n in range(3)]
    assert ranks[0].finish()
    assert path.read_text() == TEXT
    assert names(path) == ["scores.txt", "scores.txt.json"]


def test_fewer_ranks_resume_where_more_stopped(path, network, ranks):
    os.truncate(ranks[2].part, ranks[2].part.stat().st_size - 1)
    single = score_file(path, network)
    assert missing(single) == [2]
    add(single, 2)
    assert single.finish()
    assert path.read_text() == TEXT


def test_ranks_read_before_any_of_them_adds(path, network, monkeypatch):
    # Else the fast one's first scores would change what the slow one finds
    # missing, and each takes its share of that list.
    fast = score_file(path, network)
    barriers = iter([lambda: None, lambda: add(fast, 0)])
    monkeypatch.setattr(scoring, "ddp_barrier", lambda: next(barriers)())
    assert missing(score_file(path, network)) == [0, 1, 2, 3]


def test_scores_keep_every_bit(path, network):
    values = [0.1 + 0.2, 5e-324, -9.999999999999999e99, -0.0]
    scores = score_file(path, network)
    scores.add([0, 1], values[:2])
    again = score_file(path, network)
    again.add([2, 3], values[2:])
    assert again.finish()
    read = read_cm_scores(path).score.to_numpy()
    # Compared as bytes, as -0.0 == 0.0.
    assert read.tobytes() == np.array(values).tobytes()


def test_a_full_disk_costs_no_score_that_was_written(path, network):
    utts = [f"utt_{n:04d}" for n in range(2000)]
    trials = pd.DataFrame({"utt": utts, "path": utts})
    trials = trials.assign(attack="A07", label="spoof")
    scores = score_file(path, network, trials)
    scores.add(range(500), [0.5] * 500)
    size = scores.part.stat().st_size
    with disk_full_after(size + 1001):
        with pytest.raises(InputError, match=r"part0: .* \(File too large\)"):
            scores.add(range(500, 2000), [0.25] * 1500)
    again = score_file(path, network, trials)
    first = 500 + 1001 // len("utt_0500 0.25 0\n")
    assert missing(again) == list(range(first, 2000))
    again.add(missing(again), [0.25] * (2000 - first))
    with disk_full_after(size), pytest.raises(InputError, match="too large"):
        again.finish()
    assert names(path) == ["scores.txt.part0"]
    assert again.finish()
    columns = [line.split() for line in path.read_text().splitlines()]
    assert [column[0] for column in columns] == utts
    assert [column[3] for column in columns] == 500 * ["0.5"] + 1500 * ["0.25"]


def test_a_place_that_cannot_be_written_is_reported(path, network):
    scores = score_file(path, network)
    add(scores, *range(4))
    path.mkdir()
    with pytest.raises(InputError, match=r"scores\.txt: cannot be written"):
        scores.finish()
    assert names(path) == ["scores.txt", "scores.txt.part0"]
    gone = path.parent / "gone" / "scores.txt"
    scores = score_file(gone, network)
    shutil.rmtree(gone.parent)
    with pytest.raises(InputError, match="No such file or directory"):
        add(scores, 0)


@pytest.mark.parametrize("name", ["scores[1].txt", "a*?.txt", "-"])
def test_a_name_is_no_pattern(tmp_path, network, name):
    path = tmp_path / name
    add(score_file(path, network), 0)
    again = score_file(path, network)
    add(again, *missing(again))
    assert again.finish() and path.read_text() == TEXT


def test_files_that_look_like_parts_are_left_alone(path, network):
    scores = score_file(path, network)
    others = [".part0", ".part1.csv", ".partners.md", ".0123456789abcdef.part"]
    for ending in others:
        path.with_name(f"scores.txt{ending}").write_text("b1 9.0\n")
    scores.part.with_name(scores.part.name[:-1] + "7").mkdir()
    add(scores, *range(4))
    assert scores.finish()
    assert path.read_text() == TEXT
    assert len(names(path)) == 2 + len(others) + 1


def test_a_damaged_part_is_read_as_far_as_it_can_be(path, network):
    """As a power cut leaves it."""
    scores = score_file(path, network)
    add(scores, 0, 1)
    with open(scores.part, "ab") as file:
        file.write(b"\0" * 30 + b"\n\xff\xfe zz\nb2\n")
    again = score_file(path, network)
    assert missing(again) == [2, 3]
    add(again, *missing(again))
    assert again.finish() and path.read_text() == TEXT


def test_networks_of_equal_weights_are_told_apart(path):
    two, four = (SelfAttention(8, nhead) for nhead in (2, 4))
    four.load_state_dict(two.state_dict())
    add(score_file(path, two), 0)
    assert missing(score_file(path, two)) == [1, 2, 3]
    assert missing(score_file(path, four)) == [0, 1, 2, 3]


def test_weights_of_half_precision(path, network):
    before = score_file(path, network).fingerprint
    assert score_file(path, network.bfloat16()).fingerprint != before


class Listener:
    """Scores the first sample of what it is shown, and remembers it all."""

    def __init__(self, num_samples=4, **settings):
        self.hparams = SimpleNamespace(num_samples=num_samples)
        self.settings = {"num_samples": num_samples, **settings}
        self.mods = SimpleNamespace(network=torch.nn.Identity())
        self.heard = []
        self.any_length, self.network_name = False, "Listener"

    def classify_batch(self, wavs, wav_lens=None, num_samples=None):
        self.heard.append(wavs)
        return None, wavs[:, 0].double(), None, None

    def scored(self):
        """The scores it gave to trials, in the order that it did."""
        return [row[0].item() for wavs in self.heard for row in wavs if row[0]]


@pytest.fixture
def recordings(tmp_path):
    """Ten trials; the n-th has the score (n + 1) / 16."""
    rows = []
    (tmp_path / "audio").mkdir()
    for n in range(10):
        path = str(tmp_path / "audio" / f"{n}.wav")
        soundfile.write(path, np.full(4, (n + 1) / 16), 16000)
        rows.append((f"t{n}", path, "A07", "spoof"))
    return pd.DataFrame(rows, columns=COLUMNS)


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
    # Else its last bits would depend on what was scored beside it.
    everything = TrialBatches(recordings, range(10), 4, 6)
    assert len(everything) == 3 and everything.n_trials == 10
    some = TrialBatches(recordings, [5, 6, 9], 4, 6)
    assert len(some) == 2 and some.n_trials == 3
    for batch, (n, positions, rows) in zip(
        some, [(1, [5, 6], [1, 2]), (2, [9], [1])], strict=True
    ):
        assert (batch[0], batch[1], batch[3]) == (positions, rows, [])
        expected = torch.zeros(4, 6)
        expected[rows] = everything[n][2][rows]
        assert torch.equal(batch[2], expected)
    few = TrialBatches(recordings[:2], [1], 4, 6)
    assert few[0][2].shape == (2, 6)


@pytest.mark.parametrize("lengths", [None, np.arange(10) * 2])
def test_processes_share_the_batches(recordings, monkeypatch, lengths):
    monkeypatch.setattr(scoring, "world_size", lambda: 3)
    positions = []
    for n in range(3):
        monkeypatch.setattr(scoring, "rank", lambda n=n: n)
        share = TrialBatches(recordings, range(10), 2, 4, lengths=lengths)
        assert share.n_trials in (2, 3, 4)
        positions += [position for batch in share for position in batch[0]]
    assert sorted(positions) == list(range(10))


def test_batches_in_full_length_have_one_length_each(recordings):
    # 100, 104, 108 and 205 are among the lengths; 0 is unreadable.
    lengths = np.array([50, 104, 101, 200, 100, 108, 0, 102, 199, 103])
    where = {}
    for missing in (range(10), [2, 3, 6]):
        batches = TrialBatches(recordings, missing, 4, 100, lengths=lengths)
        for positions, rows, wavs, *_ in batches:
            for position, row in zip(positions, rows):
                place = row, *wavs.shape
                assert where.setdefault(position, place) == place
    assert where == {
        3: (0, 1, 205),
        8: (0, 1, 205),
        5: (0, 1, 108),
        1: (0, 3, 104),
        2: (1, 3, 104),
        7: (2, 3, 104),
        9: (0, 1, 104),
        0: (0, 3, 100),
        4: (1, 3, 100),
        6: (2, 3, 100),
    }


def test_bad_files_are_named_when_all_others_are_scored(path, recordings):
    gone, broken = recordings.path[3], recordings.path[6]
    os.rename(gone, gone + ".away")
    with open(broken, "r+b") as file:
        whole = file.read()
        file.truncate(20)
    with pytest.raises(InputError) as error:
        score_trials(Listener(), recordings, path, batch_size=4)
    lines = str(error.value).splitlines()
    assert lines[0] == "2 of 10 trials have no score:"
    assert lines[1].startswith(f"  {gone}: does not exist")
    assert lines[2].startswith(f"  {broken}: cannot be read as audio")
    assert "only they are tried" in lines[3] and len(lines) == 4
    assert names(path) == ["audio", "scores.txt.part0"]

    os.rename(gone + ".away", gone)
    again = Listener()
    with pytest.raises(InputError, match="^1 of 10 trials have no score:"):
        score_trials(again, recordings, path, batch_size=4)
    assert again.scored() == [4 / 16]
    with open(broken, "wb") as file:
        file.write(whole)
    # In batches of another size, too: existing scores do not depend on it.
    again = Listener()
    score_trials(again, recordings, path, batch_size=3)
    assert again.scored() == [7 / 16]
    assert path.read_text() == text_of(*range(10))


def test_of_many_bad_files_the_first_are_named(path, recordings):
    gone = pd.DataFrame(
        [(f"g{n}", f"/gone/{n}.wav", "A07", "spoof") for n in range(21)],
        columns=COLUMNS,
    )
    trials = pd.concat([recordings, gone], ignore_index=True)
    with pytest.raises(InputError) as error:
        score_trials(Listener(), trials, path)
    assert "/gone/19.wav" in str(error.value)
    assert "/gone/20.wav" not in str(error.value)
    assert "\n  and 1 more\n" in str(error.value)


def test_a_silent_beginning_is_skipped(path, recordings):
    """As at every other door, see ``dataio.audio.read_audio``."""
    wav = np.append(np.zeros(9), np.full(4, 1 / 16))
    soundfile.write(recordings.path[0], wav, 16000)
    score_trials(Listener(), recordings, path)
    assert path.read_text() == text_of(*range(10))


def test_audio_that_was_replaced_is_scored_again(path, recordings, capsys):
    score_two_of_ten(recordings, path)
    assert "2 scores made, 0 kept" in capsys.readouterr().err
    replaced = recordings.path[0]
    soundfile.write(replaced, soundfile.read(replaced)[0], 16000)
    os.utime(replaced, (1, 1))
    again = Listener()
    score_trials(again, recordings, path)
    assert len(again.scored()) == 9
    assert "9 scores made, 1 kept" in capsys.readouterr().err
    score_trials(again, recordings, path)
    assert "0 scores made, 10 kept" in capsys.readouterr().err
    os.utime(replaced, (2, 2))
    with pytest.raises(InputError, match="or of audio that has changed since"):
        score_trials(again, recordings, path)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_none_is_named(path, recordings, score):
    class Broken(Listener):
        def classify_batch(self, wavs, wav_lens=None, num_samples=None):
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
    for audio in recordings.path[2:]:
        os.rename(audio, audio + ".away")
    with pytest.raises(InputError, match="^8 of 10 trials have no score"):
        score_trials(Listener(), recordings, path)
    for audio in recordings.path[2:]:
        os.rename(audio + ".away", audio)


@pytest.mark.parametrize("other", ["nothing", "settings", "trimmed"])
def test_other_settings_start_anew(path, recordings, other):
    score_two_of_ten(recordings, path)
    changed = {"score": "softmax"} if other == "settings" else {}
    detector = Listener(**changed)
    score_trials(detector, recordings, path, trim_silence=other == "trimmed")
    assert len(detector.scored()) == (8 if other == "nothing" else 10)
    assert names(path) == ["audio", "scores.txt", "scores.txt.json"]


def test_other_audio_starts_anew(path, recordings, tmp_path):
    score_two_of_ten(recordings, path)
    codec = tmp_path / "codec"
    os.rename(tmp_path / "audio", codec)
    moved = [str(codec / os.path.basename(audio)) for audio in recordings.path]
    recordings = recordings.assign(path=moved)
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
    with pytest.raises(InputError, match="exists but holds scores of another"):
        score_trials(detector, recordings, path)
    assert detector.heard == [] and path.read_bytes() == before


def test_no_trials_make_an_empty_file(path):
    detector = Listener()
    score_trials(detector, TRIALS[:0], path)
    assert path.read_text() == "" and detector.heard == []


def test_one_name_for_two_trials_is_refused(path, recordings):
    with pytest.raises(InputError, match="^1 names stand .* first of all t2;"):
        trials = pd.concat([recordings, recordings[2:3]], ignore_index=True)
        score_trials(Listener(), trials, path)


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


def test_full_length_and_trimmed_silence_exclude_each_other(path, recordings):
    detector = Listener()
    detector.any_length = True
    with pytest.raises(InputError, match="^full length and trimmed silence"):
        score_trials(
            detector, recordings, path, trim_silence=True, full_length=True
        )


def test_full_length_is_for_networks_of_any_length(path, recordings):
    with pytest.raises(InputError, match="^Listener: takes recordings of one"):
        score_trials(Listener(), recordings, path, full_length=True)
    for kind in (AASIST, SSLAASIST, MelCNN):
        assert kind.any_length
    assert not getattr(V2, "any_length", False)


def test_recordings_in_full_length(path, recordings):
    """Each alone is repeated to a length of the series, whatever the others."""
    detector = Listener()
    detector.any_length = True
    wav = np.full(70, 11 / 16)
    soundfile.write(recordings.path[9], wav, 16000)
    score_trials(detector, recordings, path, full_length=True)
    assert sorted(wavs.shape[1] for wavs in detector.heard) == [4, 70]
    assert path.read_text() == text_of(*range(9)) + "t9 A07 spoof 0.6875\n"


def test_a_million_trials_take_little_memory(path, network):
    n = 20_000
    trials = pd.DataFrame({"utt": [f"u{k:07d}" for k in range(n)]})
    trials = trials.assign(path="/a/" + trials.utt, attack="A07", label="spoof")
    tracemalloc.start()
    try:
        scores = score_file(path, network, trials)
        batches = TrialBatches(trials, scores.missing, 16, 4)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert batches.n_trials == n
    assert kept < 50 * n and peak < 400 * n
    scores.add(range(n), [0.5] * n)
    assert scores.finish()
    with open(path) as file:
        assert sum(line.endswith(" A07 spoof 0.5\n") for line in file) == n


# ---------------------------------------------------------------------- lengths
def lengths_of(paths, num_samples):
    return measure_lengths(pd.Series(list(map(str, paths))), num_samples)


@pytest.mark.parametrize("longest", [20, 90])
def test_little_of_what_a_network_sees_is_padding(longest):
    edges = np.log([SHORTEST, longest * SAMPLE_RATE])
    drawn = np.random.default_rng(0).uniform(*edges, size=20_000)
    lengths = np.minimum(np.exp(drawn), LONGEST).astype(np.int32)
    assert 0.005 < padding(lengths, num_samples=64600) < 0.05


def test_what_is_shorter_than_a_second_is_repeated_to_one():
    half = np.full(3, SHORTEST // 2)
    assert padding(half, num_samples=64600) == 0.5
    # A network that was trained on less sees less.
    assert padding(half, num_samples=SHORTEST // 2) == 0


@pytest.mark.parametrize("num_samples", [1, 20, 1600, 64600, LONGEST + 1])
def test_no_step_between_lengths_is_large(num_samples):
    buckets = bucket_lengths(num_samples)
    assert buckets[0] == min(num_samples, SHORTEST) and buckets[-1] == LONGEST
    steps = np.diff(buckets)
    assert (steps > 0).all()
    assert (steps <= np.maximum(1, 0.04 * buckets[:-1])).all()


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_the_header_tells_what_is_read(tmp_path, form, rate):
    paths = [tmp_path / f"{n}.{form}" for n in (1, 4999, 70_001)]
    random = np.random.default_rng(0)
    for path in paths:
        wav = random.uniform(-0.5, 0.5, (int(path.stem), 2))
        soundfile.write(path, wav, rate)
    read = [len(read_audio(path, LONGEST)) for path in paths]
    assert lengths_of(paths, 8000).tolist() == read


def test_streams_are_counted(tmp_path):
    # Their header says 0 samples, or more than anyone has.
    path = tmp_path / "stream.flac"
    soundfile.write(path, 0.5 * (-1.0) ** np.arange(3000), 16000)
    data = bytearray(path.read_bytes())
    # The number of samples is the last 36 of these bits.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert lengths_of([path], 100).tolist() == [3000]


def test_of_a_long_recording_a_minute_is_seen(tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.full(61 * 8000, 0.5), 8000)
    assert lengths_of([path], 8000).tolist() == [LONGEST]


def test_unreadable_files_have_no_length(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "a.raw").write_bytes(bytes(100))
    soundfile.write(tmp_path / "empty.wav", [], 16000)
    names = ["text.wav", "a.raw", "empty.wav", "gone.wav"]
    paths = [tmp_path / name for name in names]
    assert lengths_of(paths, 100).tolist() == [0] * 4
    assert padding(np.zeros(4, np.int32), 100) == 0


def test_processes_share_the_files(tmp_path, monkeypatch):
    paths = [tmp_path / f"{n}.wav" for n in range(7)]
    for path in paths:
        soundfile.write(path, np.full(10 + int(path.stem), 0.5), 16000)
    monkeypatch.setattr(scoring, "world_size", lambda: 3)
    monkeypatch.setattr(scoring, "rank", lambda: 2)

    def gather(share):
        assert share.tolist() == [12, 15]
        return [np.array([10, 13, 16]), np.array([11, 14]), share]

    monkeypatch.setattr(scoring, "all_gather", gather)
    assert lengths_of(paths, 5).tolist() == list(range(10, 17))


def test_unedited_scores_are_replaced_if_asked_for(path, recordings):
    score_trials(Listener(), recordings, path)
    other = Listener(other="setting")
    with pytest.raises(InputError, match="holds scores of another network"):
        score_trials(other, recordings, path)
    score_trials(other, recordings, path, replace=True)
    assert len(other.scored()) == 10
    path.write_text(path.read_text() + "mine 1 - 2\n")
    with pytest.raises(InputError, match="holds scores of another network"):
        score_trials(Listener(), recordings, path, replace=True)
