"""The toy corpus: layout, determinism, and no shortcut between the classes."""

import hashlib
import os
import time

import numpy as np
import pytest
import soundfile
from toy_corpus import corpus as toy
from toy_corpus.attacks import ATTACKS
from toy_corpus.layout import plan_trials, text_files

from speechbrain_bilevel.utils.errors import InputError

SIZES = {"clips_per_attack": 2, "bonafide": 6}
PROTOCOLS = {"train": "train.trn", "dev": "dev.trl", "eval": "eval.trl"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus, written once."""
    folder = tmp_path_factory.mktemp("toy") / "LA"
    toy.write_toy_corpus(folder, **SIZES)
    return folder


def read_protocol(corpus, split):
    """The rows of a protocol, split into columns."""
    name = f"ASVspoof2019.LA.cm.{PROTOCOLS[split]}.txt"
    text = (corpus / "ASVspoof2019_LA_cm_protocols" / name).read_text()
    return [line.split(" ") for line in text.splitlines()]


def digests(folder):
    """A checksum of every file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.md5(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def equal_error_rate(bonafide, spoof):
    """Where a threshold on one number errs as often in both classes, %."""
    thresholds = np.concatenate([bonafide, spoof])[:, None]
    misses = np.mean(bonafide < thresholds, axis=1)
    accepts = np.mean(spoof >= thresholds, axis=1)
    best = np.argmin(np.abs(misses - accepts))
    return 50 * (misses[best] + accepts[best])


@pytest.mark.parametrize(
    "split, attacks, spoof_each, bonafide",
    [
        ("train", [f"A{n:02d}" for n in range(1, 7)], 2, 6),
        ("dev", [f"A{n:02d}" for n in range(1, 7)], 1, 3),
        ("eval", [f"A{n:02d}" for n in range(7, 20)], 1, 4),
    ],
)
def test_protocol_names_exactly_the_audio(
    corpus, split, attacks, spoof_each, bonafide
):
    rows = read_protocol(corpus, split)
    assert all(len(row) == 5 and row[2] == "-" for row in rows)
    assert all((row[3] == "-") == (row[4] == "bonafide") for row in rows)
    sources = [row[3] for row in rows]
    assert sources.count("-") == bonafide
    assert {a: sources.count(a) for a in set(sources) - {"-"}} == dict.fromkeys(
        attacks, spoof_each
    )
    audio = os.listdir(corpus / f"ASVspoof2019_LA_{split}" / "flac")
    assert sorted(audio) == sorted(f"{row[1]}.flac" for row in rows)


def test_default_sizes():
    plan = plan_trials(clips_per_attack=16, bonafide=96, seed=0)
    spoofs = {s: sum(t.attack is not None for t in plan[s]) for s in plan}
    assert spoofs == {"train": 6 * 16, "dev": 6 * 8, "eval": 13 * 8}
    totals = {s: len(plan[s]) - spoofs[s] for s in plan}
    assert totals == {"train": 96, "dev": 48, "eval": 60}


def test_partitions_share_no_speaker_and_classes_share_all():
    plan = plan_trials(clips_per_attack=16, bonafide=96, seed=0)
    seen = set()
    for trials in plan.values():
        spoofed = {trial.speaker for trial in trials if trial.attack}
        genuine = {trial.speaker for trial in trials if not trial.attack}
        assert spoofed == genuine
        assert not spoofed & seen
        seen |= spoofed


def test_order_of_ids_says_nothing_of_the_class():
    trials = plan_trials(clips_per_attack=16, bonafide=96, seed=0)["train"]
    genuine = np.array([not trial.attack for trial in trials])
    places = np.arange(len(trials))
    assert 35 < equal_error_rate(places[genuine], places[~genuine]) < 65


def test_audio_format(corpus):
    for path in corpus.rglob("*.flac"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
        assert 1.19 < info.duration <= 2.5


def test_asv_scores_give_a_plausible_system():
    texts = text_files(plan_trials(16, 96, 0), 16, 96, 0)
    for split, attacks in (("dev", range(1, 7)), ("eval", range(7, 20))):
        name = f"ASVspoof2019.LA.asv.{split}.gi.trl.scores.txt"
        text = texts[f"ASVspoof2019_LA_asv_scores/{name}"]
        rows = [line.split() for line in text.splitlines()]
        scores = {
            key: np.array([float(r[2]) for r in rows if r[1] == key])
            for key in ("target", "nontarget", "spoof")
        }
        assert sum(map(len, scores.values())) == len(rows)
        sources = {r[0] for r in rows if r[1] == "spoof"}
        assert sources == {f"A{n:02d}" for n in attacks}
        assert {r[0] for r in rows if r[1] != "spoof"} == {"bonafide"}
        assert 1 < equal_error_rate(scores["target"], scores["nontarget"]) < 4
        assert 0.4 < np.mean(scores["spoof"] > 1) < 0.95


def test_same_seed_same_bytes_other_seed_other_bytes(corpus, tmp_path):
    toy.write_toy_corpus(tmp_path / "again", **SIZES)
    assert digests(tmp_path / "again") == digests(corpus)
    other = toy.make_clip("train", speaker=1, seed=1)
    assert not np.array_equal(other, toy.make_clip("train", speaker=1, seed=0))


def test_a_second_call_returns_at_once(corpus):
    before = digests(corpus)
    started = time.perf_counter()
    toy.write_toy_corpus(corpus, **SIZES)
    assert time.perf_counter() - started < 0.2
    assert digests(corpus) == before


def test_a_missing_file_is_written_again(tmp_path):
    small = {"clips_per_attack": 1, "bonafide": 1}
    toy.write_toy_corpus(tmp_path / "LA", **small)
    before = digests(tmp_path / "LA")
    next((tmp_path / "LA").rglob("*.flac")).unlink()
    toy.write_toy_corpus(tmp_path / "LA", **small)
    assert digests(tmp_path / "LA") == before


def test_other_settings_replace_a_toy_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "make_clip", lambda *_, **__: np.zeros(100))
    toy.write_toy_corpus(tmp_path / "LA", clips_per_attack=3, bonafide=3)
    toy.write_toy_corpus(tmp_path / "LA", clips_per_attack=1, bonafide=1)
    assert len(list((tmp_path / "LA").rglob("*.flac"))) == 7 + 7 + 14
    (tmp_path / "LA" / "my_scores.txt").write_text("worth keeping")
    with pytest.raises(InputError, match="my_scores.txt"):
        toy.write_toy_corpus(tmp_path / "LA", clips_per_attack=3, bonafide=3)
    assert os.listdir(tmp_path) == ["LA"]


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "README.txt").write_text("a thesis")
    with pytest.raises(InputError, match="README.txt"):
        toy.write_toy_corpus(tmp_path, **SIZES)
    with pytest.raises(InputError, match="file"):
        toy.write_toy_corpus(tmp_path / "README.txt", **SIZES)
    assert (tmp_path / "README.txt").read_text() == "a thesis"
    assert os.listdir(tmp_path) == ["README.txt"]


@pytest.mark.parametrize(
    "error", [OSError(28, "disk full"), KeyboardInterrupt()]
)
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, error):
    clips = iter([np.zeros(100)] * 3)

    def fail_later(*_, **__):
        for clip in clips:
            return clip
        raise error

    monkeypatch.setattr(toy, "make_clip", fail_later)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        toy.write_toy_corpus(tmp_path / "LA", **SIZES)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [{"clips_per_attack": 0}, {"bonafide": 0}, {"seed": -1}]
)
def test_impossible_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="at least"):
        toy.write_toy_corpus(tmp_path / "LA", **wrong)


def test_no_trivial_feature_separates_the_classes():
    def features(attack, take):
        clip = toy.make_clip("train", 1 + take % 12, attack, take, seed=0)
        pcm = np.round(clip * 2**15)
        loud = np.flatnonzero(np.abs(clip) > 0.02)
        return {
            "level": np.sqrt(np.mean(pcm**2)),
            "duration": len(pcm),
            "DC": pcm.mean(),
            "leading silence": loud[0],
            "trailing silence": len(pcm) - loud[-1],
        }

    genuine = [features(None, take) for take in range(40)]
    names = list(ATTACKS)
    spoofed = [features(names[take % 19], take) for take in range(40)]
    for name in genuine[0]:
        values = [
            np.array([row[name] for row in rows], dtype=float)
            for rows in (genuine, spoofed)
        ]
        assert 30 <= equal_error_rate(*values) <= 70, name


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_attacks_change_the_signal_and_keep_its_length(attack):
    clip = toy.make_clip("train", speaker=3, take=5)
    spoof = ATTACKS[attack](clip, np.random.default_rng(0))
    assert spoof.shape == clip.shape
    assert np.isfinite(spoof).all()
    # Far above what the common noise floor could hide, yet still about as
    # loud: neither a copy nor a failure.
    assert np.std(spoof - clip) > 0.05 * np.std(clip)
    assert 0.2 < np.std(spoof) / np.std(clip) < 2
    # Correlated loudness: the same utterance can be recognised.
    loudness = [
        np.convolve(x**2, np.ones(800), "same") ** 0.5 for x in (clip, spoof)
    ]
    assert np.corrcoef(loudness)[0, 1] > 0.7


def test_repeated_attacks_are_the_known_ones():
    clip = toy.make_clip("eval", speaker=21)
    for known, repeated in (("A04", "A16"), ("A06", "A19")):
        first, second = (
            ATTACKS[name](clip, np.random.default_rng(0))
            for name in (known, repeated)
        )
        assert np.array_equal(first, second)
