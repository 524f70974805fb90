"""Writes a small synthetic corpus in the layout of ASVspoof2019 LA.

It is there to try out and to test the software without a download: the
talkers are synthesised (``speech``), the spoofs are made from other
utterances of theirs by signal processing (``attacks``). Results on it
mean nothing.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from scipy import signal
from tqdm import tqdm

from toy_corpus.attacks import ATTACKS
from toy_corpus.layout import (
    SPLITS,
    STAMP,
    audio_place,
    generator,
    plan_trials,
    text_files,
)
from toy_corpus.signal import SAMPLE_RATE
from toy_corpus.speech import record, speak
from toy_corpus.voice import Talker
from speechbrain_bilevel.utils.errors import InputError

LEVEL_DB = -26  # dBFS, of every clip's root mean square
BAND_LIMIT = (3000, 4000)  # Hz, of every attack
SECONDS = (1.2, 2.5)  # shortest and longest clip


def write_toy_corpus(folder, clips_per_attack=16, bonafide=96, seed=0):
    """Writes the toy corpus, or returns at once where it already is.

    The clips are FLAC files, 16 kHz, mono, 16 bits, 1.2 to 2.5 s long, all at
    the same level. train and dev have attacks A01 to A06, eval has A07 to A19;
    no two partitions share a speaker. The same arguments give the same bytes.
    The corpus appears under its name only when it is complete.

    Arguments
    ---------
    folder : str
        Where to write. It may be missing, empty or another toy corpus, which
        is replaced.
    clips_per_attack : int
        Clips of every attack in train; dev and eval have half as many.
    bonafide : int
        Bona fide clips in train; dev has half, eval five eighths as many.
    seed : int
        Another seed gives other talkers, utterances and scores; at least 0.

    Raises
    ------
    InputError
        If the folder holds anything but a toy corpus, cannot be written, or a
        number is too small.

    Example
    -------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_toy_corpus(folder, clips_per_attack=1, bonafide=1)
    ...     print(*sorted(os.listdir(folder)), sep="\\n")
    ASVspoof2019_LA_asv_scores
    ASVspoof2019_LA_cm_protocols
    ASVspoof2019_LA_dev
    ASVspoof2019_LA_eval
    ASVspoof2019_LA_train
    README.txt
    toy_corpus.json
    """
    if clips_per_attack < 1 or bonafide < 1 or seed < 0:
        raise InputError(
            "toy corpus: expected clips_per_attack and bonafide of at least 1 "
            f"and a seed of at least 0, not {clips_per_attack}, {bonafide} "
            f"and {seed}"
        )
    # A link to a folder elsewhere is followed, not replaced.
    folder = Path(os.path.realpath(folder))
    plan = plan_trials(clips_per_attack, bonafide, seed)
    texts = text_files(plan, clips_per_attack, bonafide, seed)
    try:
        if not _is_complete(folder, plan, texts):
            _check_replaceable(folder, texts)
            _build(folder, plan, texts, seed)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(
            f"{folder}: the toy corpus cannot be written ({error}); make room "
            "for it or choose another folder"
        ) from error


def make_clip(split, speaker, attack=None, take=0, seed=0):
    """Synthesises one clip of the corpus.

    Arguments
    ---------
    split : str
        "train", "dev" or "eval".
    speaker : int
        The talker's number; the seed and it make the talker.
    attack : str
        "A01" to "A19", or None for bona fide speech.
    take : int
        Another take is another utterance.
    seed : int
        The corpus's seed.

    Returns
    -------
    samples : numpy.ndarray
        16 kHz, full scale 1, float64, [samples].

    Example
    -------
    >>> samples = make_clip("train", speaker=1, attack="A04")
    >>> 1.2 <= len(samples) / SAMPLE_RATE <= 2.5
    True
    """
    part = list(SPLITS).index(split)
    kind = 0 if attack is None else 1 + list(ATTACKS).index(attack)
    talker = Talker.draw(generator(seed, 2, speaker))
    rng = generator(seed, 3, part, speaker, kind, take)
    # Attacks keep the length, so that it says nothing of the class.
    duration = rng.uniform(*SECONDS)
    speech = record(speak(talker, duration, rng), rng)
    if attack is not None:
        speech = _limit_band(ATTACKS[attack](speech, rng), rng)
    return _finish(speech, rng)


def _limit_band(speech, rng):
    """Leaves what a narrow-band synthesiser would: the one trace that all
    attacks share, plain enough for a small network to learn in a minute."""
    cutoff = rng.uniform(*BAND_LIMIT)
    low_pass = signal.butter(8, cutoff, fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(low_pass, speech)


def _finish(speech, rng):
    """Gives both classes the same level and noise floor, and no DC."""
    blocker = signal.butter(2, 50, "highpass", fs=SAMPLE_RATE, output="sos")
    speech = signal.sosfilt(blocker, speech)
    speech /= np.sqrt(np.mean(speech**2))
    colour = rng.uniform(0, 0.8)
    hiss = rng.standard_normal(len(speech))
    hiss = signal.lfilter([1 - colour], [1, -colour], hiss)
    clip = speech + 10 ** (rng.uniform(-60, -42) / 20) * hiss
    clip -= clip.mean()
    clip *= 10 ** (LEVEL_DB / 20) / np.sqrt(np.mean(clip**2))
    # Peaks lie well below full scale; a freak one must not wrap around.
    return np.clip(clip, -0.99, 0.99)


def _is_complete(folder, plan, texts):
    """Whether this very corpus is there, with all of its files."""
    stamp = folder / STAMP
    if not stamp.is_file() or stamp.read_text() != texts[STAMP]:
        return False
    audio = [audio_place(name, trial) for name in plan for trial in plan[name]]
    return all((folder / place).is_file() for place in [*texts, *audio])


def _check_replaceable(folder, texts):
    """Refuses to replace what this module has not written."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder for the toy corpus, but this is a "
            "file; choose another name"
        )
    own = {Path(place).parts[0] for place in texts}
    own |= {f"ASVspoof2019_LA_{name}" for name in SPLITS}
    found = set(os.listdir(folder))
    if found and (STAMP not in found or found - own):
        raise InputError(
            f"{folder}: expected a missing or empty folder, or a toy corpus "
            f"and nothing else, but it holds {sorted(found - own or found)[0]}"
            "; choose another folder for the toy corpus"
        )


def _build(folder, plan, texts, seed):
    """Writes the corpus beside the folder, then renames it into place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}.partial-"
    ) as workplace:
        new = Path(workplace, "new")
        for place, text in texts.items():
            (new / place).parent.mkdir(parents=True, exist_ok=True)
            (new / place).write_text(text)
        trials = [(name, trial) for name in plan for trial in plan[name]]
        # disable=None: no progress bar in a log file.
        bar = tqdm(trials, "toy corpus", unit="clip", disable=None)
        for name, trial in bar:
            _write_clip(new / audio_place(name, trial), name, trial, seed)
        if folder.exists():
            os.rename(folder, Path(workplace, "old"))
        os.rename(new, folder)


def _write_clip(path, split_name, trial, seed):
    """Synthesises a trial's audio into a FLAC file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clip = make_clip(split_name, *trial[1:], seed=seed)
    pcm = np.round(clip * 2**15).astype(np.int16)
    soundfile.write(path, pcm, SAMPLE_RATE, subtype="PCM_16")
