"""Short-time analysis and synthesis shared by the toy corpus's attacks.

Everything works on whole clips at once: a signal is a float array [samples],
a spectrum a complex array [frames, bins]. Frame ``k`` is centred on sample
``k * HOP - SIZE // 2``; the frames hang over both ends of the clip, so that
every sample is covered by the same number of windows.
"""

import numpy as np
from scipy import fft, ndimage, signal

SAMPLE_RATE = 16000
SIZE = 512
HOP = 128
_WINDOW = signal.get_window("hann", SIZE)
# At a hop of a quarter window the squared Hann windows add up to this.
_WINDOW_GAIN = 0.375 * SIZE / HOP
_TINY = 1e-10


def stft(samples):
    """Short-time Fourier transform, Hann window of 32 ms, hop of 8 ms.

    Arguments
    ---------
    samples : numpy.ndarray
        The signal, [samples].

    Returns
    -------
    spectrum : numpy.ndarray
        Complex, [frames, 257].

    Example
    -------
    >>> x = np.random.default_rng(0).standard_normal(4000)
    >>> bool(np.allclose(istft(stft(x), len(x)), x))
    True
    """
    padded = np.pad(samples, SIZE)
    frames = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP]
    return fft.rfft(frames * _WINDOW)


def istft(spectrum, length):
    """Least-squares inverse of `stft`, for changed spectra too.

    Arguments
    ---------
    spectrum : numpy.ndarray
        Complex, [frames, 257].
    length : int
        The number of samples wanted.

    Returns
    -------
    samples : numpy.ndarray
        The signal, [length].

    Example
    -------
    >>> istft(stft(np.ones(1000)), 1000).shape
    (1000,)
    """
    frames = fft.irfft(spectrum, SIZE) * _WINDOW
    return overlap_add(frames, HOP)[SIZE : SIZE + length] / _WINDOW_GAIN


def overlap_add(frames, hop):
    """Adds up frames that start ``hop`` samples apart.

    Arguments
    ---------
    frames : numpy.ndarray
        [frames, size], where ``hop`` divides ``size``.
    hop : int
        Samples from one frame's start to the next one's.

    Returns
    -------
    samples : numpy.ndarray
        [(frames - 1) * hop + size]

    Example
    -------
    >>> overlap_add(np.ones((3, 2)), 1)
    array([1., 2., 2., 1.])
    """
    count, size = frames.shape
    total = np.zeros((count + size // hop - 1, hop))
    for part in range(size // hop):
        total[part : part + count] += frames[:, part * hop : (part + 1) * hop]
    return total.ravel()


def griffin_lim(magnitude, length, iterations, rng):
    """A signal whose spectrum has about the given magnitudes.

    Griffin and Lim, "Signal estimation from modified short-time Fourier
    transform", 1984, started from random phases.

    Arguments
    ---------
    magnitude : numpy.ndarray
        [frames, 257]
    length : int
        The number of samples wanted.
    iterations : int
        How often the phases are made consistent.
    rng : numpy.random.Generator
        Draws the first phases.

    Returns
    -------
    samples : numpy.ndarray
        The signal, [length].

    Example
    -------
    >>> magnitude = np.abs(stft(np.sin(np.arange(2000))))
    >>> griffin_lim(magnitude, 2000, 2, np.random.default_rng(0)).shape
    (2000,)
    """
    spectrum = magnitude * np.exp(2j * np.pi * rng.random(magnitude.shape))
    for _ in range(iterations):
        consistent = stft(istft(spectrum, length))
        spectrum = magnitude * consistent / (np.abs(consistent) + _TINY)
    return istft(spectrum, length)


def linear_prediction(spectrum, order):
    """The all-pole model of every frame, by the Levinson-Durbin recursion.

    Arguments
    ---------
    spectrum : numpy.ndarray
        Complex, [frames, 257].
    order : int
        The number of poles.

    Returns
    -------
    predictor : numpy.ndarray
        Coefficients of the inverse filter, first one 1, [frames, order + 1].
    gain : numpy.ndarray
        Root of the prediction error's energy, [frames].

    Example
    -------
    >>> predictor, gain = linear_prediction(stft(np.ones(2000)), 4)
    >>> predictor.shape[1], predictor.shape[0] == gain.shape[0]
    (5, True)
    """
    lags = fft.irfft(np.abs(spectrum) ** 2)[:, : order + 1]
    # A white floor 50 dB down keeps the recursion stable in silence.
    error = lags[:, 0] * (1 + 1e-5) + _TINY
    predictor = np.zeros_like(lags)
    predictor[:, 0] = 1
    for step in range(1, order + 1):
        ahead = (predictor[:, :step] * lags[:, step:0:-1]).sum(axis=1)
        reflection = -ahead / error
        predictor[:, 1 : step + 1] += (
            reflection[:, None] * predictor[:, :step][:, ::-1]
        )
        error = error * (1 - reflection**2)
    return predictor, np.sqrt(error)


def cepstral_envelope(spectrum, quefrencies):
    """The log magnitude of every frame without its fine structure.

    Arguments
    ---------
    spectrum : numpy.ndarray
        Complex, [frames, 257].
    quefrencies : int
        How many cepstral coefficients are kept.

    Returns
    -------
    envelope : numpy.ndarray
        Natural logarithm of the smoothed magnitude, [frames, 257].

    Example
    -------
    >>> cepstral_envelope(stft(np.ones(1000)), 30).shape
    (12, 257)
    """
    cepstrum = fft.irfft(np.log(np.abs(spectrum) + 1e-6))
    cepstrum[:, quefrencies : SIZE - quefrencies + 1] = 0
    return fft.rfft(cepstrum).real


def track_pitch(samples):
    """Fundamental frequency and voicing from the autocorrelation.

    Arguments
    ---------
    samples : numpy.ndarray
        The signal, [samples].

    Returns
    -------
    pitch : numpy.ndarray
        Hz, one value a sample, carried over unvoiced stretches, [samples].
    voiced : numpy.ndarray
        True where the signal is voiced, [samples].

    Example
    -------
    >>> buzz = np.sign(np.sin(2 * np.pi * 125 * np.arange(8000) / SAMPLE_RATE))
    >>> pitch, voiced = track_pitch(buzz)
    >>> int(np.median(pitch).round()), bool(voiced[4000])
    (125, True)
    """
    shortest, longest = SAMPLE_RATE // 400, SAMPLE_RATE // 70
    spectrum = np.abs(stft(samples)) ** 2
    # Formants disturb the peak; the first few harmonics are enough.
    spectrum[:, 1000 * SIZE // SAMPLE_RATE :] = 0
    lags = fft.irfft(spectrum)
    # The window shrinks long lags: undo what it does to its own lags.
    taper = signal.correlate(_WINDOW, _WINDOW)[SIZE - 1 :]
    taper = (taper / taper[0])[shortest:longest]
    likeness = lags[:, shortest:longest] / (lags[:, :1] + _TINY) / taper
    # A period found twice over is as alike: prefer the shorter one.
    likeness -= 0.1 * np.linspace(0, 1, longest - shortest)
    pitch = SAMPLE_RATE / (shortest + likeness.argmax(axis=1))
    loud = lags[:, 0] > 1e-3 * lags[:, 0].max()
    periodic = (likeness.max(axis=1) > 0.45) & loud
    voiced = ndimage.median_filter(periodic, 5)
    if not voiced.any():
        voiced[:] = True
    centres = np.arange(len(pitch)) * HOP - SIZE // 2
    time = np.arange(len(samples))
    smooth = ndimage.median_filter(pitch[voiced], 5)
    per_sample = np.interp(time, centres[voiced], smooth)
    return per_sample, np.interp(time, centres, voiced) > 0.5
