"""Speech for the toy corpus, from a source-filter synthesiser.

Glottal pulses with a moving fundamental frequency, and breath, go through
formants that glide along a random sequence of vowels and sonorants;
fricatives and plosives are bursts of shaped noise in between. What comes out
has the harmonics, formants, noise and pauses of speech, and no words.
"""

import numpy as np
from scipy import signal

from toy_corpus.signal import SAMPLE_RATE
from toy_corpus.voice import (
    FRAME,
    glide,
    glottal_source,
    vocal_tract,
)

# The first three formants of an average vocal tract, Hz.
_VOWELS = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
        [640, 1190, 2390],
        [490, 1350, 1690],
    ],
    dtype=float,
)
_SONORANTS = np.array([[250, 1050, 2200], [260, 1450, 2500], [360, 1150, 2700]])
# Lower and upper edge in Hz, and level, of the fricatives' noise.
_FRICATIVES = [(4500, 7600, 0.5), (2300, 6000, 0.5), (1200, 7500, 0.2)]
_ONSETS = ["none", "fricative", "plosive", "sonorant", "pause"]
_ONSET_ODDS = [0.18, 0.26, 0.2, 0.24, 0.12]


def speak(talker, duration, rng):
    """Says a random utterance.

    Arguments
    ---------
    talker : Talker
        Who speaks.
    duration : float
        Seconds, at least 1.
    rng : numpy.random.Generator
        Draws what is said and how.

    Returns
    -------
    samples : numpy.ndarray
        Dry speech at 16 kHz, at no particular level, [samples].

    Example
    -------
    >>> from toy_corpus.voice import Talker
    >>> rng = np.random.default_rng(0)
    >>> speak(Talker.draw(rng), 1.0, rng).shape
    (16000,)
    """
    length = int(duration * SAMPLE_RATE)
    frames = -(-length // FRAME)
    voicing, formants, bursts = _compose(talker, frames, rng)
    source = np.repeat(voicing, FRAME) * glottal_source(talker, frames, rng)
    speech = vocal_tract(source, formants, talker)
    speech /= np.sqrt(np.mean(speech**2)) + 1e-9
    for start, samples, low, high, level in bursts:
        noise = _noise_burst(samples, low, high, rng)
        speech[start : start + samples] += level * noise
    return speech[:length]


def record(speech, rng):
    """Puts dry speech into a small room and through a microphone.

    Arguments
    ---------
    speech : numpy.ndarray
        [samples]
    rng : numpy.random.Generator
        Draws the room and the microphone.

    Returns
    -------
    samples : numpy.ndarray
        [samples]

    Example
    -------
    >>> record(np.ones(1600), np.random.default_rng(0)).shape
    (1600,)
    """
    time = np.arange(int(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
    decay = rng.uniform(0.1, 0.3)
    room = rng.standard_normal(len(time)) * np.exp(-6.9 * time / decay)
    room *= rng.uniform(0.1, 0.35) / np.sqrt(np.sum(room**2))
    room[0] += 1
    tilt = rng.uniform(-0.4, 0.4)
    reverberant = signal.fftconvolve(speech, room)[: len(speech)]
    return signal.lfilter([1, tilt], [1], reverberant)


def _compose(talker, frames, rng):
    """Draws a sequence of speech sounds that fills the frames."""
    voicing = np.zeros(frames)
    formants = np.tile(_VOWELS[-2], (frames, 1))
    bursts = []

    def length(shortest, longest):
        """A duration in frames, drawn between two numbers of seconds."""
        return round(rng.uniform(shortest, longest) * SAMPLE_RATE / FRAME)

    def hold(target, frames_held, level):
        """Voices a sound; the formants stay there until the next one."""
        formants[now:] = target
        voicing[now : min(now + frames_held, end)] = level

    end = frames - length(0.05, 0.15)
    now = length(0.05, 0.15)
    while now < end - length(0.05, 0.1):
        onset = rng.choice(_ONSETS, p=_ONSET_ODDS)
        if onset == "fricative":
            lasting = length(0.06, 0.13)
            band = _FRICATIVES[rng.integers(len(_FRICATIVES))]
            bursts.append((now * FRAME, lasting * FRAME, *band))
            now += lasting
        elif onset == "plosive":
            now += length(0.04, 0.07)
            centre = rng.uniform(800, 4500)
            band = (centre / 1.5, centre * 1.5, 0.8)
            bursts.append((now * FRAME, 3 * FRAME, *band))
            now += length(0.01, 0.05)
        elif onset == "sonorant":
            lasting = length(0.045, 0.09)
            hold(_SONORANTS[rng.integers(len(_SONORANTS))], lasting, 0.35)
            now += lasting
        elif onset == "pause":
            now += length(0.08, 0.25)
        vowel = _VOWELS[rng.integers(len(_VOWELS))]
        # No talker hits a vowel's formants twice in the same place.
        vowel = vowel * (1 + 0.06 * rng.standard_normal(3))
        lasting = round(length(0.07, 0.19) * talker.rate)
        hold(vowel, lasting, rng.uniform(0.6, 1.0))
        now += lasting
    bursts = [burst for burst in bursts if sum(burst[:2]) <= end * FRAME]
    return glide(voicing, 5), glide(formants, 9), bursts


def _noise_burst(length, low, high, rng):
    """Band-limited noise of unit power that swells and fades."""
    edges = [low, high]
    band = signal.butter(2, edges, "bandpass", fs=SAMPLE_RATE, output="sos")
    noise = signal.sosfilt(band, rng.standard_normal(length))
    noise /= np.sqrt(np.mean(noise**2)) + 1e-9
    return noise * signal.get_window(("tukey", 0.7), length, fftbins=False)
