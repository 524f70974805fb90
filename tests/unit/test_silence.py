"""Silence before and behind speech is found, wherever blocks begin."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from speechbrain_bilevel.dataio.audio import speech_bounds

RATES = [1000, 8000, 11025, 16000, 44100]


def noise(samples, decibels=0.0):
    """Gaussian noise with a power of so many decibels."""
    random = np.random.default_rng(samples)
    return random.normal(size=samples) * 10 ** (decibels / 20)


def tone(samples):
    """A tone with a power of about 0 dB, loud from its first sample on."""
    return np.sqrt(2) * np.cos(2 * np.pi * 0.1 * np.arange(samples))


def around(speech, before, behind, decibels=-np.inf):
    """Speech with noise before and behind it."""
    return np.concatenate(
        [noise(before, decibels), speech, noise(behind, decibels)]
    )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("decibels", [-np.inf, -60])
def test_a_sharp_beginning_and_end_are_found(rate, decibels):
    hop = round(rate / 100)
    # All the places that a beginning and an end can have between two frames.
    for shift in np.linspace(0, hop, 8, dtype=int):
        before, speech = rate // 2 + shift, rate // 3 + 2 * shift
        wav = around(tone(speech), before, rate // 4, decibels)
        start, stop = speech_bounds([wav], rate)
        assert before - hop < start <= before + 2
        assert before + speech - 2 <= stop < before + speech + hop


@pytest.mark.parametrize("decibels, cut", [(-41, True), (-39, False)])
def test_the_border_is_40_db_below_the_loudest_frame(decibels, cut):
    # Of tones, every frame has the same power.
    rate = 16000
    quiet = 10 ** (decibels / 20) * tone(rate)
    wav = np.concatenate([quiet, tone(rate), quiet])
    expected = (rate - 40, 2 * rate + 40) if cut else (0, len(wav))
    assert speech_bounds([wav], rate) == pytest.approx(expected, abs=160)
    # Relative to the loudest frame: how loud all of it is does not count.
    assert speech_bounds([1e-4 * wav], rate) == speech_bounds([wav], rate)


def test_background_noise_at_minus_30_db_is_no_silence():
    wav = around(noise(16000), 8000, 8000, decibels=-30)
    assert speech_bounds([wav], 16000) == (0, len(wav))


def test_pauses_inside_are_kept():
    speech = around(np.zeros(32000), 8000, 8000, decibels=0)
    start, stop = speech_bounds([around(speech, 4800, 4800)], 16000)
    assert (start, stop) == pytest.approx((4800, 4800 + 48000), abs=160)


@pytest.mark.parametrize("samples", [400, 560, 700, 701, 719, 720, 721])
def test_nothing_is_cut_without_silence(samples):
    assert speech_bounds([tone(samples)], 16000) == (0, samples)


@pytest.mark.parametrize("samples", [0, 1, 100, 399])
def test_less_than_a_frame_is_left_alone(samples):
    assert speech_bounds([noise(samples)], 16000) == (0, samples)
    assert speech_bounds([np.zeros(samples)], 16000) == (0, samples)


def test_digital_silence_is_left_alone():
    assert speech_bounds([np.zeros(16000)], 16000) == (0, 16000)


@pytest.mark.parametrize("at", [0, 100, 8000, 15850, 15999])
def test_a_click_of_one_sample_stays(at):
    wav = np.zeros(16000)
    wav[at] = 1.0
    start, stop = speech_bounds([wav], 16000)
    assert start <= at < stop
    assert stop - start <= 400


@pytest.mark.parametrize("size", [1, 159, 160, 400, 401, 7919])
def test_blocks_make_no_difference(size):
    wav = around(noise(5003), 3001, 2999, decibels=-60)
    blocks = (wav[at : at + size] for at in range(0, len(wav), size))
    assert speech_bounds(blocks, 16000) == speech_bounds([wav], 16000)


@pytest.mark.parametrize("rate", RATES)
def test_what_was_trimmed_stays_as_it_is(rate):
    wav = around(noise(rate), rate // 3, rate // 7, decibels=-60)
    start, stop = speech_bounds([wav], rate)
    trimmed = wav[start:stop]
    assert len(trimmed) < len(wav)
    again = speech_bounds([trimmed], rate)
    assert again == pytest.approx((0, len(trimmed)), abs=rate / 100)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_loud_is_cut(seed):
    # Bursts of all lengths and levels, for cuts that pass through a frame.
    random = np.random.default_rng(seed)
    levels = 10 ** random.uniform(-4, 0, 60)
    wav = np.concatenate(
        [level * noise(random.integers(1, 500)) for level in levels]
    )
    start, stop = speech_bounds([wav], 16000)
    assert 0 <= start < stop <= len(wav)
    loudest = sliding_window_view(wav**2, 400).mean(axis=1).max()
    for cut in (wav[:start], wav[stop:]):
        if len(cut) >= 400:
            # Any 25 ms of it lie in at most four silent frames.
            power = sliding_window_view(cut**2, 400).mean(axis=1).max()
            assert power < 4e-4 * loudest


@pytest.mark.parametrize("offset", [0.01, -0.5])
def test_an_offset_is_no_sound(offset):
    wav = around(0.05 * tone(16000), 8000, 8000)
    bounds = speech_bounds([wav], 16000)
    assert bounds != (0, len(wav))
    assert speech_bounds([wav + offset], 16000) == bounds
    silence = np.full(16000, offset)
    assert speech_bounds([silence], 16000) == (0, 16000)
    assert speech_bounds([silence.astype(np.float32)], 16000) == (0, 16000)
