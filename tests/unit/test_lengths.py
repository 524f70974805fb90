"""Lengths of recordings: known without decoding, and little is repeated."""

import numpy as np
import pytest
import soundfile

from speechbrain_bilevel.dataio.audio import SAMPLE_RATE, read_audio
from speechbrain_bilevel.dataio.protocols import Trial
from speechbrain_bilevel.inference import scoring as lengths_module
from speechbrain_bilevel.inference.scoring import (
    LONGEST,
    SHORTEST,
    bucket_lengths,
    measure_lengths,
    padding,
)


def trials_of(paths):
    """A trial for each path."""
    return [
        Trial(f"t{n}", str(path), "-", "-", "bonafide", "eval")
        for n, path in enumerate(paths)
    ]


@pytest.mark.parametrize("longest", [20, 90])
def test_little_of_what_a_network_sees_is_padding(longest):
    edges = np.log([SHORTEST, longest * SAMPLE_RATE])
    drawn = np.random.default_rng(0).uniform(*edges, size=20_000)
    lengths = np.minimum(np.exp(drawn), LONGEST).astype(np.int32)
    assert 0.005 < padding(lengths, samples=64600) < 0.05


def test_what_is_shorter_than_a_second_is_repeated_to_one():
    half = np.full(3, SHORTEST // 2)
    assert padding(half, samples=64600) == 0.5
    # A network that was trained on less sees less.
    assert padding(half, samples=SHORTEST // 2) == 0


@pytest.mark.parametrize("samples", [1, 20, 1600, 64600, LONGEST + 1])
def test_no_step_between_lengths_is_large(samples):
    buckets = bucket_lengths(samples)
    assert buckets[0] == min(samples, SHORTEST) and buckets[-1] == LONGEST
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
    found = measure_lengths(trials_of(paths), 8000)
    read = [len(read_audio(path, LONGEST)) for path in paths]
    assert found.tolist() == read


def test_streams_are_counted(tmp_path):
    # Their header says 0 samples, or more than anyone has.
    path = tmp_path / "stream.flac"
    soundfile.write(path, np.full(3000, 0.5), 16000)
    data = bytearray(path.read_bytes())
    # The number of samples is the last 36 of these bits.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert measure_lengths(trials_of([path]), 100).tolist() == [3000]


def test_of_a_long_recording_a_minute_is_seen(tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.full(61 * 8000, 0.5), 8000)
    assert measure_lengths(trials_of([path]), 8000).tolist() == [LONGEST]


def test_unreadable_files_have_no_length(tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "a.raw").write_bytes(bytes(100))
    soundfile.write(tmp_path / "empty.wav", [], 16000)
    names = ["text.wav", "a.raw", "empty.wav", "gone.wav"]
    paths = [tmp_path / name for name in names]
    assert measure_lengths(trials_of(paths), 100).tolist() == [0] * 4
    assert padding(np.zeros(4, np.int32), 100) == 0


def test_processes_share_the_files(tmp_path, monkeypatch):
    paths = [tmp_path / f"{n}.wav" for n in range(7)]
    for path in paths:
        soundfile.write(path, np.full(10 + int(path.stem), 0.5), 16000)
    monkeypatch.setattr(lengths_module, "world_size", lambda: 3)
    monkeypatch.setattr(lengths_module, "rank", lambda: 2)

    def gather(into, share):
        assert share.tolist() == [12, 15]
        into[:] = np.array([10, 13, 16]), np.array([11, 14]), share

    gathering = "torch.distributed.all_gather_object"
    monkeypatch.setattr(gathering, gather)
    found = measure_lengths(trials_of(paths), 5)
    assert found.tolist() == list(range(10, 17))
