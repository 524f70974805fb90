"""The voices of the toy corpus: talkers, their glottis and vocal tract.

A voice moves in frames of 8 ms: pitch and formants are drawn for every frame,
and the sound is put together by overlap-add.
"""

import dataclasses

import numpy as np
from scipy import fft, signal

from toy_corpus.signal import SAMPLE_RATE, overlap_add

FRAME = 128  # samples, 8 ms: how often the controls move
_UPPER_FORMANTS = np.array([3650, 4500, 5400, 6300, 7200])
_BANDWIDTHS = np.array([60, 90, 140, 200, 260, 320, 380, 450])
_OVERSAMPLING = 3
_RINGING = 1024  # samples, 64 ms: a frame and what rings after it


@dataclasses.dataclass
class Talker:
    """What stays the same in everything a synthetic talker says.

    Arguments
    ---------
    pitch : float
        Mean fundamental frequency, Hz.
    liveliness : float
        How far the pitch moves, semitones.
    tract : float
        Factor on all formant frequencies: above 1 for a short vocal tract.
    bandwidth : float
        Factor on all formant bandwidths.
    breathiness : float
        Level of the breath noise relative to the pulses.
    jitter : float
        Relative standard deviation of the length of a period.
    shimmer : float
        Relative standard deviation of the height of a pulse.
    open_quotient : float
        Part of a period in which the glottis is open.
    brightness : float
        Hz from which the pulses' spectrum falls by another 6 dB an octave.
    rate : float
        Factor on the length of all speech sounds.

    Example
    -------
    >>> Talker.draw(np.random.default_rng(0)).pitch > 80
    True
    """

    pitch: float
    liveliness: float
    tract: float
    bandwidth: float
    breathiness: float
    jitter: float
    shimmer: float
    open_quotient: float
    brightness: float
    rate: float

    @classmethod
    def draw(cls, rng):
        """Draws a talker; high voices tend to have short vocal tracts."""
        height = rng.uniform(0, 1)
        return cls(
            pitch=90 * 2.5 ** (height + rng.uniform(-0.1, 0.1)),
            liveliness=rng.uniform(1.0, 3.0),
            tract=0.92 + 0.24 * height + rng.uniform(-0.04, 0.04),
            bandwidth=rng.uniform(0.8, 1.4),
            breathiness=rng.uniform(0.03, 0.15),
            jitter=rng.uniform(0.004, 0.015),
            shimmer=rng.uniform(0.03, 0.10),
            open_quotient=rng.uniform(0.5, 0.75),
            brightness=rng.uniform(700, 2000),
            rate=rng.uniform(0.85, 1.2),
        )


def glide(track, frames):
    """Smooths a control over time, holding its value at both ends.

    Arguments
    ---------
    track : numpy.ndarray
        [frames] or [frames, controls]
    frames : int
        How many frames are averaged; odd.

    Returns
    -------
    smooth : numpy.ndarray
        As long as ``track``.

    Example
    -------
    >>> glide(np.array([0.0, 0.0, 4.0, 4.0, 4.0]), 3)
    array([0., 1., 3., 4., 4.])
    """
    window = signal.get_window("hann", frames + 2, fftbins=False)[1:-1]
    window = window.reshape((-1,) + (1,) * (track.ndim - 1)) / window.sum()
    widths = [(frames // 2, frames // 2)] + [(0, 0)] * (track.ndim - 1)
    padded = np.pad(track, widths, mode="edge")
    return signal.convolve(padded, window, mode="valid")


def _pitch_contour(talker, frames, rng):
    """Declination and a random intonation, Hz, one value a frame."""
    accents = rng.standard_normal(max(frames // 19, 2))
    places = np.linspace(0, frames, len(accents))
    tune = glide(np.interp(np.arange(frames), places, accents), 13)
    decline = np.linspace(1.5, -1.5, frames)
    return talker.pitch * 2 ** ((talker.liveliness * tune + decline) / 12)


def glottal_source(talker, frames, rng):
    """The derivative of the glottal flow, with breath.

    Arguments
    ---------
    talker : Talker
        Whose glottis it is.
    frames : int
        How long it vibrates, in frames of 8 ms.
    rng : numpy.random.Generator
        Draws intonation, jitter, shimmer and breath.

    Returns
    -------
    source : numpy.ndarray
        16 kHz, [frames * 128].

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> glottal_source(Talker.draw(rng), 10, rng).shape
    (1280,)
    """
    contour = _pitch_contour(talker, frames, rng)
    step = FRAME / SAMPLE_RATE
    closures = [0.0]
    while closures[-1] < frames * step:
        period = 1 / contour[min(int(closures[-1] / step), frames - 1)]
        wobble = 1 + talker.jitter * rng.standard_normal()
        closures.append(closures[-1] + period * wobble)
    heights = 1 + talker.shimmer * rng.standard_normal(len(closures))
    # Pulses are sharper than 16 kHz can hold: draw them finer, then resample.
    fine = np.arange(frames * FRAME * _OVERSAMPLING)
    fine = fine / (SAMPLE_RATE * _OVERSAMPLING)
    cycles = np.interp(fine, closures, np.arange(len(closures)))
    opening = (cycles % 1) / talker.open_quotient
    is_open = opening < 1
    flow = np.where(is_open, 2 * opening - 3 * opening**2, 0)
    flow *= heights[cycles.astype(int)]
    breath = talker.breathiness * rng.standard_normal(len(fine))
    flow += breath * np.where(is_open, 1, 0.3)
    corner = -2 * np.pi * talker.brightness / (SAMPLE_RATE * _OVERSAMPLING)
    flow = signal.lfilter([1 - np.exp(corner)], [1, -np.exp(corner)], flow)
    return signal.resample_poly(flow, 1, _OVERSAMPLING)


def vocal_tract(source, formants, talker):
    """Filters with a cascade of resonances that move from frame to frame.

    Arguments
    ---------
    source : numpy.ndarray
        16 kHz, [frames * 128].
    formants : numpy.ndarray
        The lowest three resonances of an average tract in Hz, [frames, 3].
    talker : Talker
        Scales the resonances and their bandwidths.

    Returns
    -------
    speech : numpy.ndarray
        [frames * 128]

    Example
    -------
    >>> talker = Talker.draw(np.random.default_rng(0))
    >>> vocal_tract(np.ones(256), np.full((2, 3), 500.0), talker).shape
    (256,)
    """
    upper = np.tile(_UPPER_FORMANTS, (len(formants), 1))
    centres = np.hstack([formants, upper]) * talker.tract
    centres = np.minimum(centres, 0.48 * SAMPLE_RATE)
    radius = np.exp(-np.pi * _BANDWIDTHS * talker.bandwidth / SAMPLE_RATE)
    middle = -2 * radius * np.cos(2 * np.pi * centres / SAMPLE_RATE)
    poles = np.ones((len(formants), 1))
    for column in range(centres.shape[1]):
        longer = np.pad(poles, ((0, 0), (0, 2)))
        longer[:, 1:-1] += middle[:, column, None] * poles
        longer[:, 2:] += radius[column] ** 2 * poles
        poles = longer
    # Every frame rings out through its own filter: changing one filter's
    # coefficients under way would click.
    window = signal.get_window("hann", 2 * FRAME)
    padded = np.pad(source, FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * FRAME)
    spectrum = fft.rfft(frames[::FRAME] * window, _RINGING)
    spectrum *= poles.sum(axis=1, keepdims=True) / fft.rfft(poles, _RINGING)
    speech = overlap_add(fft.irfft(spectrum), FRAME)
    return speech[FRAME // 2 :][: len(source)]
