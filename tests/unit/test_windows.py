"""Recordings as a stream of windows: all of it, and in little memory."""

import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_bilevel.dataio.audio import (
    open_audio,
    read_audio,
    read_windows,
)
from speechbrain_bilevel.utils.errors import InputError


def save(path, frames, rate, *channels, subtype="FLOAT"):
    """Writes noise in -0.5..0.5."""
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, (frames, *channels))
    soundfile.write(path, wav, rate, subtype=subtype)
    return path


def windows_of(path, num_samples, hop):
    with open_audio(path) as audio:
        yield from read_windows(audio, num_samples, hop)


@pytest.mark.parametrize("channels", [(), (8,)])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 16001, 44100, 192000])
def test_the_blocks_are_what_is_read_at_once(tmp_path, rate, channels):
    # Such that there are several, and the last one is short.
    frames = 3 * 2**17 + 77
    path = save(tmp_path / "a.wav", frames, rate, *channels)
    with open_audio(path) as audio:
        blocks = list(audio.blocks())
    assert len(blocks) > 2 or rate in (16000, 16001)
    expected = read_audio(path, 10**6).numpy()
    assert all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)


@pytest.mark.parametrize("hop", [1, 300, 500, 1000])
@pytest.mark.parametrize("frames", [1, 999, 1000, 1001, 1500, 4000, 4321])
def test_windows_cover_every_sample_in_order(tmp_path, frames, hop):
    path = save(tmp_path / "a.wav", frames, 16000)
    whole = read_audio(path, frames).numpy()
    covered = np.zeros(frames, dtype=int)
    starts = []
    for start, window in windows_of(path, 1000, hop):
        assert len(window) == min(frames, 1000)
        np.testing.assert_array_equal(window, whole[start : start + 1000])
        covered[start : start + 1000] += 1
        starts.append(start)
    assert covered.all()
    steps = np.diff(starts)
    # All as far apart, but for the last, which ends where the file ends.
    assert (steps[:-1] == hop).all() and (steps > 0).all()
    assert (steps <= hop).all()
    assert starts[-1] + min(frames, 1000) == frames


def test_windows_of_a_long_file_take_little_memory(tmp_path):
    path = tmp_path / "a.flac"
    minute = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * 44100)
    with soundfile.SoundFile(path, "w", 44100, 1, "PCM_16") as file:
        for _ in range(10):
            file.write(minute)
    tracemalloc.start()
    n_windows = sum(1 for _ in windows_of(path, 64600, 32300))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_windows == -(-(600 * 16000 - 64600) // 32300) + 1
    # At 16 kHz, it has 38 MB.
    assert peak < 12e6


def test_faults_are_told_when_they_are_reached(tmp_path):
    wav = np.append(np.ones(300000), np.nan)
    soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
    found = windows_of(tmp_path / "a.wav", 1000, 1000)
    assert next(found)[0] == 0
    with pytest.raises(InputError, match="a.wav: holds NaN"):
        list(found)
    soundfile.write(tmp_path / "b.wav", np.empty(0), 16000)
    with pytest.raises(InputError, match="b.wav: no audio can be"):
        list(windows_of(tmp_path / "b.wav", 1000, 1000))
    with pytest.raises(InputError, match="c.wav: does not exist"):
        list(windows_of(tmp_path / "c.wav", 1000, 1000))


def test_the_first_window_is_what_a_file_is_scored_by(tmp_path):
    path = save(tmp_path / "a.ogg", 3 * 44100, 44100, 2, subtype="VORBIS")
    start, window = next(windows_of(path, 16000, 8000))
    assert start == 0
    expected = read_audio(path, 16000)
    torch.testing.assert_close(
        torch.from_numpy(window), expected, atol=1e-6, rtol=0
    )
