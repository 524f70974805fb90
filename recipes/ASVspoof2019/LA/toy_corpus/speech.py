"""Synthetic speech for the toy corpus.

Pulses and noise are filtered frame by frame, with formants that glide along a
random sequence of speech sounds. What comes out has the harmonics, formants,
noise and pauses of speech, and no words.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage, signal

from speechbrain_bilevel.dataio import SAMPLE_RATE

#: Length and distance of the frames in samples, 32 ms and 8 ms.
SIZE, HOP = 512, 128
_FREQUENCIES = np.fft.rfftfreq(SIZE, 1 / SAMPLE_RATE)[:, None]
# Of a sound: levels of voice and noise; in Hz, the lowest three formants of an
# average vocal tract and the center of the noise.
_VOWELS = np.array(
    [
        [1.0, 0.0, 270, 2290, 3010, 4000],
        [1.0, 0.0, 390, 1990, 2550, 4000],
        [1.0, 0.0, 530, 1840, 2480, 4000],
        [1.0, 0.0, 730, 1090, 2440, 4000],
        [1.0, 0.0, 570, 840, 2410, 4000],
        [1.0, 0.0, 300, 870, 2240, 4000],
        [1.0, 0.0, 490, 1350, 2200, 4000],
    ]
)
_CONSONANTS = np.array(
    [
        [0.3, 0.0, 250, 1050, 2200, 4000],
        [0.3, 0.0, 360, 1450, 2600, 4000],
        [0.0, 0.4, 300, 1600, 2600, 6200],
        [0.0, 0.4, 300, 1800, 2500, 3800],
        [0.0, 0.2, 400, 1200, 2300, 2200],
        [0.2, 0.2, 300, 1500, 2500, 5500],
        [0.0, 0.0, 490, 1350, 2400, 4000],
    ]
)
_UPPER_FORMANTS = (3650, 4500, 5400, 6300, 7200)


class Talker(NamedTuple):
    """What stays the same in all that a synthetic talker says."""

    pitch: float  # mean, Hz
    tract: float  # factor on the formants
    breath: float  # level of the noise in the voice
    brightness: float  # Hz, above which the voice falls by 6 dB per octave

    @classmethod
    def draw(cls, rng):
        """Draw a talker; high voices have short vocal tracts."""
        height = rng.uniform()
        return cls(
            pitch=90 * 2.5**height,
            tract=0.9 + 0.24 * height + rng.uniform(0, 0.04),
            breath=rng.uniform(0.03, 0.15),
            brightness=rng.uniform(700, 2000),
        )


def speak(talker, length, rng):
    """Say a random utterance.

    Arguments
    ---------
    talker : Talker
    length : int
        Samples at 16 kHz.
    rng : numpy.random.Generator
        Draws what is said, and how.

    Returns
    -------
    numpy.ndarray
        [length]

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speak(Talker.draw(rng), 16000, rng).shape
    (16000,)
    """
    pulses = pulse_train(_intonation(talker, length, rng))
    breath = talker.breath * rng.standard_normal(length)
    source = stft(pulses + breath)
    noise = stft(rng.standard_normal(length))
    voiced, noisy, *formants, center = _sounds(source.shape[1], rng)
    squares = _FREQUENCIES**2
    power = 1 / (1 + squares / talker.brightness**2)
    for number, formant in enumerate([*formants, *_UPPER_FORMANTS]):
        peak = (formant * talker.tract) ** 2
        width = (60 + 45 * number) ** 2 / peak
        power = power / ((1 - squares / peak) ** 2 + width * squares / peak)
    band = np.exp(-(((_FREQUENCIES - center) / 1500) ** 2))
    spectrum = voiced * source * unit_power(np.sqrt(power))
    return istft(spectrum + noisy * noise * unit_power(band), length)


def record(clip, rng):
    """Draw a microphone and its noise; make all clips equally loud.

    Arguments
    ---------
    clip : numpy.ndarray
        [samples]
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        [samples], a root mean square of -26 dB at a full scale of 1.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> clip = record(rng.standard_normal(16000), rng)
    >>> round(20 * np.log10(clip.std()))
    -26
    """
    clip = signal.lfilter([1, rng.uniform(-0.4, 0.4)], [1], clip)
    # Neither rumble nor a constant offset may tell the classes apart.
    highpass = signal.butter(2, 50, "highpass", fs=SAMPLE_RATE, output="sos")
    clip = signal.sosfilt(highpass, clip)
    noise = 10 ** (rng.uniform(-60, -42) / 20) * rng.standard_normal(len(clip))
    clip = clip / clip.std() + noise
    clip = 10 ** (-26 / 20) * (clip - clip.mean()) / clip.std()
    return np.clip(clip, -0.99, 0.99)


def _sounds(frames, rng):
    """Draw a sequence of sounds: the columns of their tables, by frame."""
    rows = []
    while len(rows) < frames:
        for table, shortest, longest in (
            (_CONSONANTS, 5, 15),
            (_VOWELS, 9, 25),
        ):
            # No talker makes a sound twice in the same way.
            sound = rng.choice(table) * rng.uniform(0.9, 1.1, 6)
            rows += [sound] * rng.integers(shortest, longest)
    track = np.array(rows[:frames])
    before, after = rng.integers(6, 19, 2)
    track[:before, :2] = track[-after:, :2] = 0
    return ndimage.gaussian_filter1d(track, 1.5, axis=0).T


def _intonation(talker, length, rng):
    """Declining pitch with random accents every 150 ms, Hz, [length]."""
    count = length // 2400 + 2
    accents = np.linspace(1.5, -1.5, count) + rng.normal(0, 2, count)
    places = np.linspace(0, count - 1, length)
    semitones = np.interp(places, np.arange(count), accents)
    return talker.pitch * 2 ** (semitones / 12)


def pulse_train(pitch):
    """Pulses of unit power at a pitch in Hz, [samples] -> [samples]."""
    cycles = np.floor(np.cumsum(pitch / SAMPLE_RATE))
    return np.diff(cycles, prepend=0) * np.sqrt(SAMPLE_RATE / pitch)


def unit_power(spectrum):
    """Scale every frame to a mean square of 1, [257, frames]."""
    return spectrum / np.sqrt(np.mean(np.abs(spectrum) ** 2, axis=0) + 1e-9)


def stft(samples):
    """Short-time spectrum of a signal, [257, frames]."""
    return signal.stft(samples, nperseg=SIZE, noverlap=SIZE - HOP)[2]


def istft(spectrum, length):
    """Signal with about the given short-time spectrum, [length]."""
    samples = signal.istft(spectrum, nperseg=SIZE, noverlap=SIZE - HOP)[1]
    return samples[:length]
