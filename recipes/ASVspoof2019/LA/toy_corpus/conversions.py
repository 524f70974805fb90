"""Toy attacks that change a recording and keep part of its waveform.

Every function takes a signal [samples] and a generator and returns a signal
of the same length. ``attacks`` says which attack is which.
"""

import numpy as np
from scipy import fft, ndimage, signal

from toy_corpus.signal import (
    HOP,
    SAMPLE_RATE,
    SIZE,
    cepstral_envelope,
    istft,
    linear_prediction,
    overlap_add,
    stft,
)


def randomise_phase(samples, rng, spread=0.7):
    """Adds noise of up to ``spread`` times pi to every phase."""
    spectrum = stft(samples)
    noise = rng.uniform(-spread, spread, spectrum.shape)
    return istft(spectrum * np.exp(1j * np.pi * noise), len(samples))


def concatenate_units(samples, rng, fade=32):
    """Joins units taken from slightly wrong places at wrong speeds."""
    output = np.zeros(len(samples))
    start = 0
    while start < len(samples):
        length = int(rng.uniform(0.04, 0.1) * SAMPLE_RATE)
        shift = rng.uniform(-0.02, 0.02) * SAMPLE_RATE
        grid = np.arange(length + fade)
        source = start + shift + grid * rng.uniform(0.92, 1.08)
        unit = np.interp(source, np.arange(len(samples)), samples)
        ramp = np.clip((grid + 0.5) / fade, 0, 1)
        unit *= ramp * ramp[::-1] * rng.uniform(0.8, 1.25)
        place = slice(start, start + len(unit))
        output[place] += unit[: len(output[place])]
        start += length
    return output


def warp_envelope(samples, rng, quefrencies=30):
    """Stretches the cepstral envelope, as for another vocal tract."""
    spectrum = stft(samples)
    envelope = cepstral_envelope(spectrum, quefrencies)
    factor = _away_from_one(rng, 1.15, 1.35)
    places = np.minimum(np.arange(SIZE // 2 + 1) / factor, SIZE // 2)
    warped = _sample_bins(envelope, places)
    return istft(spectrum * np.exp(warped - envelope), len(samples))


def hold_envelope(samples, rng, order=16, frames=6):
    """Sends the residual through all-pole filters held for 48 ms."""
    spectrum = stft(samples)
    predictor, gain = linear_prediction(spectrum, order)
    residual = spectrum * fft.rfft(predictor, SIZE) / gain[:, None]
    held = np.arange(len(spectrum)) // frames * frames
    # Poles pulled inwards: the wide formants of averaged envelopes.
    wide = predictor[held] * 0.97 ** np.arange(order + 1)
    filters = gain[held, None] / fft.rfft(wide, SIZE)
    return istft(residual * filters, len(samples))


def repeat_samples(samples, rng, factor=2):
    """Halves the sampling rate and comes back by repeating samples."""
    low = signal.resample_poly(samples, 1, factor)
    return np.repeat(low, factor)[: len(samples)]


def bin_locked_phase(samples, rng, frames=4):
    """Holds magnitudes for 32 ms; phases advance at bin centres."""
    spectrum = stft(samples)
    index = np.arange(len(spectrum))
    since = (index % frames)[:, None]
    advance = 2 * np.pi * HOP / SIZE * np.arange(SIZE // 2 + 1)
    held = spectrum[index // frames * frames]
    return istft(held * np.exp(1j * since * advance), len(samples))


def coarse_mu_law(samples, rng, bits=5):
    """Quantises the pre-emphasised waveform in few mu-law steps."""
    sharp = signal.lfilter([1, -0.9], [1], samples)
    peak = np.abs(sharp).max() + 1e-9
    squeezed = np.sign(sharp) * np.log1p(255 * np.abs(sharp) / peak)
    squeezed /= np.log(256)
    # Half a step of dither: otherwise silence sticks to one level.
    steps = 2 ** (bits - 1)
    dither = rng.uniform(-0.5, 0.5, len(samples))
    coarse = np.round(squeezed * steps + dither) / steps
    opened = np.sign(coarse) * np.expm1(np.abs(coarse) * np.log(256)) / 255
    return signal.lfilter([1], [1, -0.9], peak * opened)


def stretch_and_back(samples, rng, factor=0.75):
    """Shortens and lengthens again by overlap-add without alignment."""
    short = _overlap_add_stretch(samples, int(len(samples) * factor))
    return _overlap_add_stretch(short, len(samples))


def smooth_trajectories(samples, rng, quefrencies=30, frames=9, contrast=0.8):
    """Averages the envelope over time and flattens it; phases stay."""
    spectrum = stft(samples)
    envelope = cepstral_envelope(spectrum, quefrencies)
    smooth = ndimage.uniform_filter1d(envelope, frames, axis=0)
    level = smooth.mean(axis=1, keepdims=True)
    target = level + contrast * (smooth - level)
    return istft(spectrum * np.exp(target - envelope), len(samples))


def bilinear_warp(samples, rng, order=20):
    """Moves all-pole formants by a bilinear map under the residual."""
    spectrum = stft(samples)
    predictor, _ = linear_prediction(spectrum, order)
    log_inverse = np.log(np.abs(fft.rfft(predictor, SIZE)) + 1e-6)
    bend = rng.uniform(0.06, 0.12) * rng.choice([-1, 1])
    omega = np.linspace(0, np.pi, SIZE // 2 + 1)
    mapped = omega + 2 * np.arctan2(
        bend * np.sin(omega), 1 - bend * np.cos(omega)
    )
    places = mapped * (SIZE // 2) / np.pi
    change = log_inverse - _sample_bins(log_inverse, places)
    return istft(spectrum * np.exp(change), len(samples))


def _away_from_one(rng, low, high):
    """A factor between ``low`` and ``high``, or its inverse."""
    return rng.uniform(low, high) ** rng.choice([-1, 1])


def _sample_bins(frames, places):
    """Reads every row at fractional bins, by linear interpolation."""
    left = np.minimum(places.astype(int), frames.shape[1] - 2)
    part = places - left
    return (1 - part) * frames[:, left] + part * frames[:, left + 1]


def _overlap_add_stretch(samples, length):
    """Spreads windowed frames of 32 ms over ``length`` samples."""
    window = signal.get_window("hann", SIZE)
    hop = SIZE // 2
    count = length // hop + 2
    ratio = len(samples) / length
    padded = np.pad(samples, (hop, 2 * SIZE))
    starts = (np.arange(count) * hop * ratio).astype(int)
    frames = padded[starts[:, None] + np.arange(SIZE)] * window
    return overlap_add(frames, hop)[hop : hop + length]
