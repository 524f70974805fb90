"""The toy corpus: layout, determinism, and no shortcut between the classes."""

import os
import runpy
import sys

import numpy as np
import pytest
import soundfile
from toy_corpus.attacks import ATTACKS
from toy_corpus.corpus import make_clip, plan_trials, write_toy_corpus
from toy_corpus.speech import stft

from speechbrain_bilevel.dataio import NO_ATTACK
from speechbrain_bilevel.dataio.protocols import read_asvspoof2019_protocol
from speechbrain_bilevel.evaluation.score_files import read_asv_scores
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.utils.errors import InputError

SIZES = {"clips_per_attack": 2, "bonafide": 6}
SMALLEST = {"clips_per_attack": 1, "bonafide": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small corpus, written once."""
    folder = tmp_path_factory.mktemp("toy") / "LA"
    write_toy_corpus(folder, **SIZES)
    return folder


def contents(folder):
    """The bytes of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "partition, attacks, spoof_each, bonafide",
    [
        ("train", range(1, 7), 2, 6),
        ("dev", range(1, 7), 1, 3),
        ("eval", range(7, 20), 1, 4),
    ],
)
def test_protocol_names_exactly_the_audio(
    corpus, partition, attacks, spoof_each, bonafide
):
    trials = read_asvspoof2019_protocol(corpus, partition)
    expected = {f"A{n:02d}": spoof_each for n in attacks} | {"-": bonafide}
    assert trials.attack.value_counts().to_dict() == expected
    audio = (corpus / f"ASVspoof2019_LA_{partition}").rglob("*.flac")
    found = sorted(str(path.relative_to(corpus)) for path in audio)
    assert sorted(trials.path) == found


def test_audio_is_flac_at_16_khz_and_equally_loud(corpus):
    for path in corpus.rglob("*.flac"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
        assert 1.19 < info.duration < 2.51
        level = 20 * np.log10(soundfile.read(path)[0].std())
        assert level == pytest.approx(-26, abs=0.1)


def test_readme_says_what_the_corpus_is(corpus):
    text = (corpus / "README.txt").read_text()
    assert "SYNTHETIC" in text and "mean nothing" in text


def test_partitions_share_no_speaker_and_classes_share_all():
    seen = set()
    for trials in plan_trials(16, 96, seed=0).values():
        attacked = [trial.attack != NO_ATTACK for trial in trials]
        speakers = [
            {
                t.speaker
                for t, is_spoof in zip(trials, attacked)
                if is_spoof == k
            }
            for k in (True, False)
        ]
        assert speakers[0] == speakers[1]
        assert not speakers[0] & seen
        seen |= speakers[0]


def test_order_of_ids_says_nothing_of_the_class():
    trials = plan_trials(16, 96, seed=0)["train"]
    spoof = np.array([trial.attack != NO_ATTACK for trial in trials])
    places = np.arange(len(trials))
    assert 0.35 < eer(places[~spoof], places[spoof])[0] < 0.65


@pytest.mark.parametrize("partition", ["dev", "eval"])
def test_asv_scores_give_a_plausible_system(corpus, partition):
    name = f"ASVspoof2019.LA.asv.{partition}.gi.trl.scores.txt"
    asv = read_asv_scores(corpus / "ASVspoof2019_LA_asv_scores" / name)
    assert 0.01 < eer(asv.target, asv.nontarget)[0] < 0.04
    assert 0.4 < np.mean(asv.spoof > 1) < 0.95


def test_same_seed_same_bytes_other_seed_other_bytes(corpus, tmp_path):
    write_toy_corpus(tmp_path, **SIZES)
    assert contents(tmp_path) == contents(corpus)
    clips = [make_clip("train", speaker=1, seed=seed) for seed in (0, 1)]
    assert not np.array_equal(*clips)


def test_a_second_call_writes_nothing(corpus):
    files = [path for path in corpus.rglob("*") if path.is_file()]
    before = [path.stat() for path in files]
    write_toy_corpus(corpus, **SIZES)
    assert [path.stat().st_ino for path in files] == [s.st_ino for s in before]


def test_a_missing_file_is_written_again(tmp_path):
    write_toy_corpus(tmp_path / "LA", **SMALLEST)
    before = contents(tmp_path / "LA")
    next((tmp_path / "LA").rglob("*.flac")).unlink()
    write_toy_corpus(tmp_path / "LA", **SMALLEST)
    assert contents(tmp_path / "LA") == before


def test_other_settings_replace_a_toy_corpus_and_nothing_else(tmp_path):
    folder = tmp_path / "LA"
    write_toy_corpus(folder, **SMALLEST)
    write_toy_corpus(folder, clips_per_attack=1, bonafide=2)
    assert len(list(folder.rglob("*.flac"))) == 8 + 7 + 15
    (folder / "my_scores.txt").write_text("worth keeping")
    with pytest.raises(InputError, match=r"my_scores\.txt"):
        write_toy_corpus(folder, **SMALLEST)
    assert os.listdir(tmp_path) == ["LA"]


def test_a_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "README.txt").write_text("a thesis")
    with pytest.raises(InputError, match=r"README\.txt"):
        write_toy_corpus(tmp_path, **SMALLEST)
    with pytest.raises(InputError, match="file"):
        write_toy_corpus(tmp_path / "README.txt", **SMALLEST)
    assert (tmp_path / "README.txt").read_text() == "a thesis"
    assert os.listdir(tmp_path) == ["README.txt"]


@pytest.mark.parametrize(
    "error, expected",
    [
        (OSError(28, "disk full"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_interrupted_run_leaves_nothing(
    tmp_path, monkeypatch, error, expected
):
    write, written = soundfile.write, []

    def fail_at_the_third_file(path, *args, **kwargs):
        if len(written) == 2:
            raise error
        written.append(path)
        write(path, *args, **kwargs)

    monkeypatch.setattr(soundfile, "write", fail_at_the_third_file)
    with pytest.raises(expected):
        write_toy_corpus(tmp_path / "LA", **SMALLEST)
    assert len(written) == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [{"clips_per_attack": 0}, {"bonafide": 0}, {"seed": -1}]
)
def test_impossible_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="at least"):
        write_toy_corpus(tmp_path / "LA", **wrong)


def test_the_command_writes_it_and_says_what_is_wrong(
    tmp_path, monkeypatch, capsys
):
    def run(bonafide):
        arguments = [tmp_path / "LA", "--clips_per_attack", 1, "--bonafide"]
        monkeypatch.setattr(sys, "argv", ["", *map(str, arguments), bonafide])
        runpy.run_module("toy_corpus", run_name="__main__")

    run("1")
    assert len(list((tmp_path / "LA").rglob("*.flac"))) == 7 + 7 + 14
    with pytest.raises(SystemExit, match="2"):
        run("0")
    assert capsys.readouterr().err.startswith("error: toy corpus: expected")


def test_no_trivial_feature_separates_the_classes():
    def features(attack, take):
        clip = make_clip("train", 1 + take % 12, attack, take)
        pcm = np.round(clip * 2**15)
        loud = np.flatnonzero(np.abs(clip) > 0.02)
        power = np.abs(np.fft.rfft(clip)) ** 2
        low = np.log(np.abs(stft(clip)[:32]) + 1e-6)
        return {
            "level": np.sqrt(np.mean(pcm**2)),
            "duration": len(pcm),
            "DC": pcm.mean(),
            "leading silence": loud[0],
            "trailing silence": len(pcm) - loud[-1],
            "zero crossings": np.mean(np.diff(np.sign(clip)) != 0),
            "above 4 kHz": power[len(power) // 2 :].sum() / power.sum(),
            # The trace that all attacks have; not enough by itself.
            "roughness": np.abs(np.diff(low, axis=0)).mean(),
        }

    attacks = list(ATTACKS)
    bonafide = [features(NO_ATTACK, take) for take in range(57)]
    spoof = [features(attacks[take % 19], take) for take in range(57)]
    for name in bonafide[0]:
        values = ([row[name] for row in rows] for rows in (bonafide, spoof))
        lowest = 0.15 if name == "roughness" else 0.3
        assert lowest < eer(*values)[0] < 0.7, name


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_attacks_change_the_signal_and_keep_its_length(attack):
    clip = make_clip("train", speaker=3, take=5)
    spoof = ATTACKS[attack](clip, np.random.default_rng(0))
    assert spoof.shape == clip.shape
    assert np.isfinite(spoof).all()
    # Far above what the noise could hide, yet about as loud: neither a copy
    # nor a failure.
    assert np.std(spoof - clip) > 0.05 * np.std(clip)
    assert 0.2 < np.std(spoof) / np.std(clip) < 2
    # Correlated loudness: the same utterance can be recognized.
    loudness = [
        np.convolve(x**2, np.ones(800), "same") ** 0.5 for x in (clip, spoof)
    ]
    assert np.corrcoef(loudness)[0, 1] > 0.7


@pytest.mark.parametrize("known, repeated", [("A04", "A16"), ("A06", "A19")])
def test_repeated_attacks_are_the_known_ones(known, repeated):
    clip = make_clip("eval", speaker=21)
    spoofs = [
        ATTACKS[name](clip, np.random.default_rng(0))
        for name in (known, repeated)
    ]
    assert np.array_equal(*spoofs)
