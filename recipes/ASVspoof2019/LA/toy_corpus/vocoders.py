"""Toy attacks that take speech apart and build it anew, as vocoders do.

Every function takes a signal [samples] and a generator and returns a signal
of the same length. ``attacks`` says which attack is which.
"""

import numpy as np
from scipy import fft, ndimage

from toy_corpus.signal import (
    SAMPLE_RATE,
    SIZE,
    cepstral_envelope,
    griffin_lim,
    istft,
    linear_prediction,
    stft,
    track_pitch,
)


def mel_griffin_lim(samples, rng, bands=48, iterations=10):
    """Keeps mel band magnitudes only; phases by Griffin-Lim."""
    filters = _mel_filters(bands)
    mel = np.abs(stft(samples)) @ filters.T / filters.sum(axis=1)
    magnitude = mel @ (filters / (filters.sum(axis=0) + 1e-9))
    return griffin_lim(magnitude, len(samples), iterations, rng)


def smoothed_griffin_lim(samples, rng, frames=3, iterations=20):
    """Averages linear magnitudes over time; phases by Griffin-Lim."""
    magnitude = ndimage.uniform_filter1d(np.abs(stft(samples)), frames, axis=0)
    return griffin_lim(magnitude, len(samples), iterations, rng)


def pulse_noise_lpc(samples, rng, order=18):
    """All-pole vocoder: pulses where voiced, white noise elsewhere."""
    pitch, voiced = track_pitch(samples)
    noise = rng.standard_normal(len(samples))
    excitation = np.where(voiced, _pulses(pitch), noise)
    predictor, gain = linear_prediction(stft(samples), order)
    return _shape(excitation, gain[:, None] / fft.rfft(predictor, SIZE))


def quantised_pitch_lpc(samples, rng, order=20, semitones=2, split=3000):
    """All-pole vocoder, pitch in steps, noise above ``split`` Hz."""
    pitch, voiced = track_pitch(samples)
    steps = np.round(12 * np.log2(pitch / 55) / semitones) * semitones
    noise = rng.standard_normal(len(samples))
    pulses = stft(np.where(voiced, _pulses(55 * 2 ** (steps / 12)), noise))
    cut = split * SIZE // SAMPLE_RATE
    pulses[:, cut:] = stft(noise)[:, cut:]
    predictor, gain = linear_prediction(stft(samples), order)
    filters = gain[:, None] / fft.rfft(predictor, SIZE)
    return istft(_unit_power(pulses) * filters, len(samples))


def cepstral_vocoder(samples, rng, quefrencies=28, frames=5):
    """Minimum-phase cepstral filters, smoothed over time, on pulses."""
    pitch, voiced = track_pitch(samples)
    noise = rng.standard_normal(len(samples))
    excitation = np.where(voiced, _pulses(pitch) + 0.2 * noise, noise)
    envelope = cepstral_envelope(stft(samples), quefrencies)
    envelope = ndimage.uniform_filter1d(envelope, frames, axis=0)
    # Folding the cepstrum onto positive time makes the phase minimal.
    cepstrum = fft.irfft(envelope)
    cepstrum[:, 1 : SIZE // 2] *= 2
    cepstrum[:, SIZE // 2 + 1 :] = 0
    return _shape(excitation, np.exp(fft.rfft(cepstrum)))


def channel_vocoder(samples, rng, bands=20):
    """One gain for each of a few mel bands, on pulses or noise."""
    pitch, voiced = track_pitch(samples)
    noise = rng.standard_normal(len(samples))
    filters = _mel_filters(bands)
    mel = (np.abs(stft(samples)) ** 2) @ filters.T / filters.sum(axis=1)
    gains = np.sqrt(mel @ (filters / (filters.sum(axis=0) + 1e-9)))
    return _shape(np.where(voiced, _pulses(pitch), noise), gains)


def sinusoidal_model(samples, rng, partials=40):
    """Keeps the strongest spectral peaks of every frame, no noise."""
    spectrum = stft(samples)
    magnitude = np.abs(spectrum)
    peak = magnitude == ndimage.maximum_filter1d(magnitude, 3, axis=1)
    heights = np.where(peak, magnitude, 0)
    weakest = np.sort(heights, axis=1)[:, -partials, None]
    kept = ndimage.binary_dilation(
        peak & (heights >= weakest), np.ones((1, 3), bool)
    )
    return istft(spectrum * kept, len(samples))


def _pulses(pitch):
    """A train of pulses of unit power at the given Hz, [samples]."""
    cycles = np.cumsum(pitch / SAMPLE_RATE)
    starts = np.diff(np.floor(cycles), prepend=0) > 0
    return starts * np.sqrt(SAMPLE_RATE / pitch)


def _shape(excitation, filters):
    """Gives an excitation the spectral shape of the filters."""
    spectrum = _unit_power(stft(excitation))
    return istft(spectrum * filters, len(excitation))


def _unit_power(spectrum):
    """Scales every frame to a mean squared magnitude of one."""
    power = np.mean(np.abs(spectrum) ** 2, axis=1, keepdims=True)
    return spectrum / np.sqrt(power + 1e-9)


def _mel_filters(bands):
    """Triangles evenly spaced in mel up to 8 kHz, [bands, 257]."""
    top = np.log1p(SAMPLE_RATE / 2 / 700)
    edges = 700 * np.expm1(np.linspace(0, top, bands + 2))
    # Low bands narrower than a bin would be empty: widen them to one bin.
    bins = edges * SIZE / SAMPLE_RATE
    for number in range(1, len(bins)):
        bins[number] = max(bins[number], bins[number - 1] + 1)
    bins *= (SIZE / 2) / bins[-1]
    grid = np.arange(SIZE // 2 + 1)
    rise = (grid - bins[:-2, None]) / np.diff(bins)[:-1, None]
    fall = (bins[2:, None] - grid) / np.diff(bins)[1:, None]
    return np.clip(np.minimum(rise, fall), 0, None)
