"""What a detector says of files, many of them, and of long ones."""

import math

import numpy as np
import pytest
import soundfile
import torch
from tiny_detector import SAMPLES, export, tiny_network

from speechbrain_bilevel.dataio.audio import find_audio
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.verdicts import (
    LongVerdict,
    Segment,
    Verdict,
    likelihood_ratio_text,
)
from speechbrain_bilevel.utils.errors import InputError

CALIBRATION = {"weight": 2.0, "bias": -1.0}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A detector that was calibrated."""
    folder = tmp_path_factory.mktemp("verdicts") / "tiny"
    export(folder, tiny_network(), calibration=CALIBRATION)
    return SpoofDetector.from_hparams(folder)


class Level(torch.nn.Module):
    """Takes a waveform for bona fide by its mean."""

    def forward(self, wavs):
        """Logits whose difference is the mean."""
        mean = wavs.mean(dim=1)
        return torch.stack([torch.zeros_like(mean), mean], dim=1)


@pytest.fixture
def by_level():
    """A detector whose score is the mean of the waveform; windows of 1000."""
    hparams = {"num_samples": 1000, "score": "logit_difference"}
    return SpoofDetector({"network": Level()}, hparams)


def save(path, *levels, frames=1000):
    """Writes stretches of a mean, and of a tone of half that."""
    wav = np.repeat(np.array(levels, dtype=np.float32), frames)
    wav[::2] *= 1.5
    wav[1::2] *= 0.5
    soundfile.write(path, wav, 16000, subtype="FLOAT")
    return path


def noise(path, frames, seed=0):
    """Writes noise."""
    wav = np.random.default_rng(seed).uniform(-0.5, 0.5, frames)
    soundfile.write(path, wav, 16000, subtype="FLOAT")
    return path


def test_calibration_applies_to_every_door(detector, tmp_path):
    wavs = torch.randn(6, SAMPLES)
    with torch.no_grad():
        logits = detector.mods.network(wavs).double()
    expected = 2 * (logits[:, 1] - logits[:, 0]) - 1
    log_posteriors, score, index, label = detector.classify_batch(wavs)
    assert torch.equal(score, expected)
    # Posteriors of equally frequent classes have the ratio as their odds.
    odds = log_posteriors[:, 1] - log_posteriors[:, 0]
    torch.testing.assert_close(odds.double(), score, atol=1e-5, rtol=0)
    assert index.tolist() == (score > 0).long().tolist()
    path = noise(tmp_path / "a.wav", SAMPLES)
    _, score, _, (label,) = detector.classify_file(path)
    seconds = SAMPLES / 16000
    verdict = Verdict(str(path), label, score.item(), 0.0, True, seconds)
    assert detector.score_file(path) == verdict
    assert detector.classify_files(path) == [verdict]
    whole = detector.segments(path)
    assert whole.score == pytest.approx(verdict.score, abs=1e-5)
    assert whole.calibrated


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_many_files_in_their_order(detector, tmp_path, batch_size):
    lengths = [400, 5000, SAMPLES, 800, 3000]
    paths = [noise(tmp_path / f"{n}.wav", n, n) for n in lengths]
    found = detector.classify_files(paths, batch_size)
    assert [verdict.path for verdict in found] == [str(p) for p in paths]
    for path, verdict in zip(paths, found):
        alone = detector.score_file(path)
        assert verdict.score == pytest.approx(alone.score, abs=1e-5)
        assert verdict.label == alone.label


def test_a_bad_file_stops_no_other(by_level, tmp_path):
    good = save(tmp_path / "a.wav", 0.5)
    silent = save(tmp_path / "b.wav", 0.0)
    loud = save(tmp_path / "c.wav", 1e30)
    missing = tmp_path / "d.wav"
    found = by_level.classify_files([silent, good, missing, loud, good])
    assert [verdict.score for verdict in found] == [None, 0.5, None, None, 0.5]
    for verdict, message in zip(
        (found[0], found[2], found[3]),
        ("nothing to hear", "does not exist", "its samples reach"),
    ):
        assert verdict.label is None
        assert verdict.error.startswith(f"{verdict.path}: ")
        assert message in verdict.error
        assert verdict.meaning.startswith("no verdict: ")


def test_folders_and_patterns(tmp_path):
    for name in ("b/x.FLAC", "a.wav", "b/c/y.m4a", "b/.z.wav", "b/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    names = ["a.wav", "b/c/y.m4a", "b/x.FLAC"]
    assert find_audio(tmp_path) == [str(tmp_path / name) for name in names]
    assert find_audio(str(tmp_path / "?.wav")) == [str(tmp_path / "a.wav")]
    assert find_audio([tmp_path / "**/*.txt"]) == [str(tmp_path / "b/n.txt")]
    # Kept, for whoever opens it to report.
    for path in ("empty", "gone.wav", "gone/*.wav"):
        assert find_audio(tmp_path / path) == [str(tmp_path / path)]
    # A file whose name looks like a pattern is that file.
    (tmp_path / "[a].wav").touch()
    assert find_audio(tmp_path / "[a].wav") == [str(tmp_path / "[a].wav")]


def test_segments_of_a_recording(by_level, tmp_path):
    path = save(tmp_path / "a.wav", 0.5, 0.5, -0.25, 0.0, 0.0, 0.5)
    verdict = by_level.segments(path, step=0.0625)
    assert verdict.segments == tuple(
        Segment(n / 16, (n + 1) / 16, score)
        for n, score in enumerate([0.5, 0.5, -0.25, None, None, 0.5])
    )
    # Silence has no say.
    assert verdict.score == pytest.approx((3 * 0.5 - 0.25) / 4)
    assert verdict.label == "bonafide" and not verdict.calibrated
    assert verdict.suspicious == [Segment(2 / 16, 3 / 16, -0.25)]
    half = by_level.segments(path)
    assert len(half.segments) == 11
    assert half.segments[3] == Segment(1.5 / 16, 2.5 / 16, 0.125)
    for batch_size in (1, 3, 100):
        found = by_level.segments(path, batch_size=batch_size)
        scores = [part.score for part in found.segments]
        assert scores == pytest.approx([part.score for part in half.segments])


def test_windows_that_touch_are_one_span():
    def spans(*scores):
        parts = (Segment(n, n + 2, score) for n, score in enumerate(scores))
        return LongVerdict("a", segments=tuple(parts)).suspicious

    assert spans(1, 1) == []
    assert spans(-1, -3, -2) == [Segment(0, 4, -3)]
    assert spans(-1, 2, 2, -3) == [Segment(0, 2, -1), Segment(3, 5, -3)]
    assert spans(-1, None, -2) == [Segment(0, 4, -2)]
    # The threshold itself is taken for spoof.
    assert spans(0.0) == [Segment(0, 2, 0.0)]


def test_a_short_recording_is_one_window(by_level, tmp_path):
    path = save(tmp_path / "a.wav", 0.5, frames=400)
    assert by_level.segments(path).segments == (Segment(0, 0.025, 0.5),)
    assert by_level.score_file(path).score == 0.5


def test_a_click_is_no_speech(by_level, tmp_path):
    path = save(tmp_path / "a.wav", 0.5, frames=399)
    for score in (by_level.score_file, by_level.segments):
        with pytest.raises(InputError, match=r"a.wav: lasts 24.9 ms; expected"):
            score(path)


@pytest.mark.parametrize("step", [-0.1, 0, 0.07, math.nan])
def test_an_impossible_step_is_refused(by_level, tmp_path, step):
    path = save(tmp_path / "a.wav", 0.5)
    with pytest.raises(InputError, match="0, and at most a window's 0.0625"):
        by_level.segments(path, step=step)


@pytest.mark.parametrize("window", [0.01, 0.1, math.inf])
def test_a_window_that_the_network_cannot_take_is_refused(
    by_level, tmp_path, window
):
    path = save(tmp_path / "a.wav", 0.5)
    with pytest.raises(InputError, match="takes windows of 0.0625 s only"):
        by_level.segments(path, window)


def test_windows_of_any_length(by_level, tmp_path):
    by_level.mods.network.any_length = True
    path = save(tmp_path / "a.wav", 0.5, 0.25)
    (segment,) = by_level.segments(path, 0.125).segments
    assert segment == Segment(0, 0.125, 0.375)
    found = by_level.segments(path, 0.03125, 0.03125).segments
    assert [part.score for part in found] == [0.5, 0.5, 0.25, 0.25]


def test_each_channel_has_a_verdict_and_the_lowest_decides(by_level, tmp_path):
    quiet = [save(tmp_path / f"{n}.wav", n) for n in (0.5, -0.25, 0.0)]
    wavs = np.stack([soundfile.read(path)[0] for path in quiet], axis=1)
    path = tmp_path / "three.wav"
    soundfile.write(path, wavs, 16000, subtype="FLOAT")
    mix = by_level.score_file(path)
    assert mix.score == pytest.approx(1 / 12) and mix.channel is None
    (note,) = mix.notes
    assert note.startswith("its channels differ (3), and their mix was heard")
    for score in (by_level.score_file, by_level.segments):
        assert score(path, channels=2).score == -0.25
        verdict = score(path, channels="each")
        assert (verdict.score, verdict.label) == (-0.25, "spoof")
        assert verdict.channel == 2
        (note,) = verdict.notes
        assert note.startswith("channel 3: nothing to hear: no sound above")
        scores = [part.score for part in verdict.channels]
        assert scores == [0.5, -0.25, None]
        assert "nothing to hear" in verdict.channels[2].error
        for channels, message in (
            (4, "has no channel 4; expected one of 1 to 3"),
            ("left", 'channels "left": expected mix, each or a number'),
        ):
            with pytest.raises(InputError, match=message):
                score(path, channels=channels)
    # A mono file has one channel.
    assert by_level.score_file(quiet[0], "each").channels == ()


def test_pauses_are_neither_judged_nor_suspicious(by_level, tmp_path):
    by_level.hparams.num_samples = 64600
    parts = np.array([0.5, 0, 0, 0, 0, 0, 0.5, 0.5, 0, 0])
    path = save(tmp_path / "a.wav", *parts, frames=16000)
    verdict = by_level.segments(path)
    assert verdict.suspicious == [] and verdict.score == pytest.approx(
        0.5, 0.02
    )
    heard = [part for part in verdict.segments if part.score is not None]
    # In whole frames of 25 ms.
    assert all(part.end < 1.03 or part.start > 5.9 for part in heard)
    assert verdict.heard == pytest.approx(3, abs=0.1)


def test_a_recording_that_cannot_be_scored(by_level, tmp_path):
    silent = save(tmp_path / "a.wav", 0.0, 0.0, 0.0)
    with pytest.raises(InputError, match=r"a.wav: nothing to hear"):
        by_level.segments(silent)
    late = save(tmp_path / "b.wav", 0.5, math.nan)
    with pytest.raises(InputError, match=r"b.wav: holds NaN"):
        by_level.segments(late)
    loud = save(tmp_path / "c.wav", 1e30)
    with pytest.raises(InputError, match=r"c.wav: its samples reach"):
        by_level.segments(loud)


@pytest.mark.parametrize(
    "score, words",
    [
        (0.0, "1.0"),
        (math.log(2), "2.0"),
        (-math.log(9.94), "9.9"),
        (math.log(9.96), "10"),
        (-math.log(123456), "123,456"),
        (math.log(1.1e6), "more than a million"),
        (1e300, "more than a million"),
    ],
)
def test_factors_in_words(score, words):
    assert likelihood_ratio_text(score) == words


def test_meanings():
    high = Verdict("a", "bonafide", math.log(20), calibrated=True)
    assert "20 times as probable from bona fide as from spoof" in high.meaning
    low = Verdict("a", "spoof", -math.log(20), calibrated=True)
    assert "20 times as probable from spoof as from bona fide" in low.meaning
    raw = Verdict("a", "spoof", 0.2, threshold=0.5)
    assert "above 0.5 is bona fide" in raw.meaning
    assert "not calibrated" in raw.meaning


def test_gradients_reach_those_who_fine_tune(tmp_path):
    folder = export(tmp_path / "tiny", tiny_network())
    detector = SpoofDetector.from_hparams(folder, freeze_params=False)
    detector.classify_batch(torch.randn(2, SAMPLES))[1].sum().backward()
    grads = [p.grad for p in detector.mods.network.classifier.parameters()]
    assert all(grad is not None for grad in grads)
    # But a file is only scored.
    path = noise(tmp_path / "a.wav", SAMPLES)
    assert not detector.classify_file(path)[1].requires_grad


def test_a_progress_bar_is_for_terminals(detector, tmp_path, capsys):
    path = noise(tmp_path / "a.wav", SAMPLES)
    detector.classify_files(path)
    detector.segments(path)
    assert tuple(capsys.readouterr()) == ("", "")
