"""How long recordings are, and to what lengths they are brought."""

import hashlib
import itertools
import json
import math
import operator
import os
import re
import sys
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from torch.utils.data import DataLoader
from tqdm import tqdm

from speechbrain_bilevel.dataio.audio import (
    NO_LENGTH,
    SAMPLE_RATE,
    fit_length,
    open_audio,
    read_audio,
    read_window,
    resampling_factors,
)
from speechbrain_bilevel.dataio.name_index import NameIndex
from speechbrain_bilevel.dataio.views import View
from speechbrain_bilevel.inference.verdicts import no_number
from speechbrain_bilevel.utils.distributed import rank, world_size
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.files import check_target, write_atomically

#: Samples that a network sees of a recording at most, 60 s. What attention
#: takes grows with the square of the length: 60 s take 225 times what 4 s do,
#: and a single file of an hour would take all memory.
LONGEST = 60 * SAMPLE_RATE


#: And at least, unless it was trained on fewer: 1 s; shorter ones are repeated.
SHORTEST = SAMPLE_RATE


# From one length to the next: at most 1 - 1 / 1.04, 3.8 %, is repetition.
_RATIO = 1.04


def bucket_lengths(samples):
    """The lengths that recordings are brought to.

    They depend on the network alone, so that a recording's score does not
    depend on the other recordings.

    Arguments
    ---------
    samples : int
        Which the network was trained on.

    Returns
    -------
    numpy.ndarray
        In samples, growing by 4 % from ``SHORTEST`` (or ``samples``, if they
        are fewer) to ``LONGEST``.

    Example
    -------
    >>> bucket_lengths(64600)[[0, 1, 2, -2, -1]]
    array([ 16000,  16640,  17305, 944662, 960000])
    """
    lengths = [min(samples, SHORTEST)]
    while lengths[-1] < LONGEST:
        following = max(lengths[-1] + 1, int(_RATIO * lengths[-1]))
        lengths.append(min(following, LONGEST))
    return np.array(lengths)


def measure_lengths(trials, samples):
    """How many samples there are to be seen of each trial's recording.

    Called by every process of a distributed run: each looks at a share of the
    files, and all learn of all. Headers tell it, but for streams, which are
    decoded.

    Arguments
    ---------
    trials : Sequence of Trial
    samples : int
        See ``bucket_lengths``; more than the longest of these is not seen.

    Returns
    -------
    numpy.ndarray
        [trials], of 32 bits, at 16 kHz; 0 where a file cannot be read.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_bilevel.dataio.protocols import Trial
    >>> path = str(getfixture("tmp_path") / "a.wav")
    >>> soundfile.write(path, np.zeros(4000), 8000)
    >>> trial = Trial("a", path, "-", "-", "bonafide", "eval")
    >>> measure_lengths([trial], samples=64600)
    array([8000], dtype=int32)
    """
    longest = int(bucket_lengths(samples)[-1])
    mine = tqdm(
        range(rank(), len(trials), world_size()),
        desc="Measuring",
        unit="file",
        disable=not if_main_process(),
    )
    share = np.fromiter(
        (_length(trials[index].path, longest) for index in mine), np.int32
    )
    shares = [share] * world_size()
    if world_size() > 1:
        torch.distributed.all_gather_object(shares, share)
    lengths = np.empty(len(trials), np.int32)
    for number, share in enumerate(shares):
        lengths[number :: world_size()] = share
    return lengths


def _length(path, longest):
    try:
        with open_audio(path) as file:
            frames, rate = file.frames, file.samplerate
        if frames >= NO_LENGTH:
            return len(read_audio(path, longest))
    except InputError:
        # Told of when it is to be scored, with all that cannot be.
        return 0
    up, down = resampling_factors(rate)
    return min(-(-frames * up // down), longest)


def padding(lengths, samples):
    """Which part of what a network computes is repetition.

    Arguments
    ---------
    lengths : numpy.ndarray
        See ``measure_lengths``.
    samples : int
        See ``bucket_lengths``.

    Returns
    -------
    float

    Example
    -------
    >>> round(padding(np.array([100, 103]), samples=100), 4)
    0.0049
    """
    lengths = lengths[lengths > 0]
    buckets = bucket_lengths(samples)
    seen = buckets[np.searchsorted(buckets, lengths)].sum()
    return float(1 - lengths.sum() / max(1, seen)) if len(lengths) else 0.0


class TrialBatches(torch.utils.data.Dataset):
    """This process's share of the batches with trials that have no score yet.

    Every trial of the list has its own row of its own batch, whatever was
    scored before and by how many processes: without lengths, the n-th has row
    ``n % batch_size`` of batch ``n // batch_size``. So what a network makes of
    a trial has the same bits in every run. The rows of trials that are not
    missing are 0.

    Arguments
    ---------
    trials : Sequence of Trial
        The whole list; it is not copied.
    missing : numpy.ndarray of int, or list of int
        Positions of the trials that have no score yet.
    batch_size : int
        Rows of a batch; all trials, if they are fewer. With ``lengths``, of a
        batch of ``samples`` samples: of longer ones there are as many fewer,
        and the last batch of a length has as many as trials are left.
    samples : int
        Length of a row at 16 kHz, of the shortest rows if there are
        ``lengths``; shorter audio is repeated.
    trim_silence : bool
        See ``dataio.audio.read_audio``.
    lengths : numpy.ndarray, optional
        [trials], samples of each recording. Each is then brought to the next
        of the ``bucket_lengths``, and a batch has recordings of one of these.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_bilevel.dataio.protocols import Trial
    >>> paths = [str(getfixture("tmp_path") / f"{n}.wav") for n in range(3)]
    >>> soundfile.write(paths[1], [0.25, 0.5], 16000)
    >>> trials = [
    ...     Trial(f"utt_{n}", path, "-", "-", "bonafide", "eval")
    ...     for n, path in enumerate(paths)
    ... ]
    >>> batches = TrialBatches(trials, [1], 2, samples=3)
    >>> len(batches)
    1
    >>> (trial,), rows, wavs, faults = batches[0]
    >>> trial.utt, rows, wavs.tolist(), faults
    ('utt_1', [1], [[0.0, 0.0, 0.0], [0.25, 0.5, 0.25]], [])
    """

    def __init__(
        self,
        trials,
        missing,
        batch_size,
        samples,
        trim_silence=False,
        lengths=None,
    ):
        self.trials = trials
        self.trim_silence = trim_silence
        self._order, self._first, self._samples = _arrange(
            len(trials), batch_size, samples, lengths
        )
        # Batches of one length are filled up to one size: in one of few rows,
        # the last bits depend on the number of threads the sooner.
        one_size = min(batch_size, len(trials))
        self._least_rows = one_size if lengths is None else 0
        self._todo = np.zeros(len(trials), bool)
        self._todo[missing] = True
        counts = np.add.reduceat(
            self._todo[self._order], self._first[:-1], dtype=np.int64
        )
        self._share = np.flatnonzero(counts)[rank() :: world_size()]
        self.n_trials = int(counts[self._share].sum())

    def __len__(self):
        """Batches of this process's share."""
        return len(self._share)

    def __getitem__(self, number):
        """Reads a batch.

        Arguments
        ---------
        number : int

        Returns
        -------
        trials : list of Trial
            The trials that could be read.
        rows : list of int
            Where each of them is in the batch.
        wavs : torch.Tensor
            [batch, time]
        faults : list of str
            What is wrong with each of the others.
        """
        batch = self._share[number]
        order = self._order[self._first[batch] : self._first[batch + 1]]
        samples = int(self._samples[batch])
        wavs = torch.zeros(max(len(order), self._least_rows), samples)
        trials, rows, faults = [], [], []
        for row, index in enumerate(order.tolist()):
            if not self._todo[index]:
                continue
            trial = self.trials[index]
            try:
                wav = read_window(trial.path, samples, self.trim_silence)
            except InputError as fault:
                faults.append(str(fault))
                continue
            wavs[row] = fit_length(wav, samples)
            trials.append(trial)
            rows.append(row)
        return trials, rows, wavs, faults


def _arrange(n_trials, batch_size, samples, lengths):
    """The positions in the order of the batches; where in it each batch begins,
    and the last one ends; and the samples of each batch's rows."""
    dtype = np.min_scalar_type(n_trials)
    if lengths is None:
        buckets, counts = np.array([samples]), [n_trials]
        order = np.arange(n_trials, dtype=dtype)
    else:
        # The longest first: where memory ends, it does so at once.
        buckets = bucket_lengths(samples)
        bucket = len(buckets) - 1 - np.searchsorted(buckets, lengths)
        buckets = buckets[::-1]
        bucket = bucket.astype(np.min_scalar_type(len(buckets)))
        counts = np.bincount(bucket, minlength=len(buckets)).tolist()
        order = np.argsort(bucket, kind="stable").astype(dtype)
    first, begin, sizes = [], 0, []
    for length, count in zip(buckets.tolist(), counts):
        rows = max(1, batch_size * samples // length)
        first.append(np.arange(begin, begin + count, rows))
        sizes.append(np.full(len(first[-1]), length))
        begin += count
    return order, np.concatenate([*first, [n_trials]]), np.concatenate(sizes)


# Lines of a part file that are read at once.
_LINES = 1 << 12


class ScoreFile:
    """Collects scores as they come; ``utt source key score`` when complete.

    Each process appends to a part file of its own beside ``path``, named by a
    fingerprint of the network, the settings and the trials. A later run with
    the same ones goes on where this one stopped, any other starts anew.
    ``finish`` puts the parts together in the order of the trials.

    Arguments
    ---------
    path : str or Path
        The score file.
    trials : Sequence of tuple
        (utt, source, key) of each trial; looked at as needed and not copied.
    network : torch.nn.Module
        What computes the scores.
    settings : object
        Whatever else the scores depend on; its ``repr`` must tell it.

    Raises
    ------
    InputError
        If two trials have the same name.

    Example
    -------
    >>> trials = [("utt_1", "A07", "spoof"), ("utt_2", "-", "bonafide")]
    >>> path = Path(getfixture("tmpdir")) / "scores.txt"
    >>> scores = ScoreFile(path, trials, torch.nn.Linear(1, 1))
    >>> scores.missing
    ['utt_1', 'utt_2']
    >>> scores.add(["utt_2", "utt_1"], [0.5, -1.0])
    >>> scores.finish()
    True
    >>> print(path.read_text().strip())
    utt_1 A07 spoof -1.0
    utt_2 - bonafide 0.5
    """

    def __init__(self, path, trials, network, settings=None):
        self.path = Path(path)
        self.trials = trials
        self._index = NameIndex(View(trials, operator.itemgetter(0)))
        if repeats := self._index.repeats():
            raise InputError(
                f"{len(repeats)} names stand for more than one trial, first of "
                f"all {next(iter(repeats))}; score lists with the same names "
                "one by one"
            )
        self.fingerprint = _fingerprint(trials, network, settings)
        self.stamp = self.path.with_name(self.path.name + ".json")
        self.part = self.path.with_name(
            f"{self.path.name}.{self.fingerprint}.part{rank()}"
        )
        self.complete = self._is_complete()
        _cut_torn_line(self.part)
        self.scores = self._read_parts()
        # No process adds scores before every one has read the same parts.
        ddp_barrier()

    @property
    def missing(self):
        """The utts that have no score yet, in the order of the trials."""
        places = self.missing_positions.tolist()
        return [self.trials[place][0] for place in places]

    @property
    def missing_positions(self):
        """Where these trials stand, as an array."""
        if self.complete:
            return np.empty(0, int)
        return np.flatnonzero(np.isnan(self.scores))

    def add(self, utts, scores):
        """Appends scores to this process's part file.

        Arguments
        ---------
        utts : list of str
        scores : list of float

        Raises
        ------
        InputError
            If one is NaN, or they cannot be written, e.g. on a full disk.
        """
        for utt, score in zip(utts, scores):
            if math.isnan(score):
                raise InputError(no_number(utt, score))
        lines = [f"{utt} {score!r}\n" for utt, score in zip(utts, scores)]
        try:
            with open(self.part, "a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise _not_written(self.part, error) from error

    def finish(self):
        """Writes the score file if every trial has its score.

        Called by one process, after all have added theirs.

        Returns
        -------
        bool
            Whether the score file is complete.

        Raises
        ------
        InputError
            If it cannot be written, e.g. on a full disk.
        """
        if not self.complete:
            self.scores = self._read_parts()
            if len(self.missing_positions):
                return False
            _write(
                self.path,
                (
                    f"{utt} {source} {key} {float(score)!r}\n"
                    for (utt, source, key), score in zip(
                        self.trials, self.scores
                    )
                ),
            )
            _write(self.stamp, json.dumps(self._stamp()))
            self.complete = True
        for part in self._parts("[0-9a-f]{16}"):
            part.unlink()
        return True

    def _stamp(self):
        with open(self.path, "rb") as file:
            scores = hashlib.file_digest(file, "sha256").hexdigest()
        return {"fingerprint": self.fingerprint, "sha256": scores}

    def _is_complete(self):
        try:
            return json.loads(self.stamp.read_text()) == self._stamp()
        except (OSError, ValueError):
            return False

    def _parts(self, fingerprint):
        """Part files of all processes, none that only look alike."""
        name = rf"{re.escape(self.path.name)}\.{fingerprint}\.part\d+"
        try:
            files = sorted(os.scandir(self.path.parent), key=lambda f: f.name)
        except OSError:
            return []
        return [
            Path(file.path)
            for file in files
            if re.fullmatch(name, file.name) and file.is_file()
        ]

    def _read_parts(self):
        """The score of each trial, NaN where there is none yet."""
        scores = np.full(len(self.trials), np.nan)
        for part in self._parts(self.fingerprint):
            with open(part, "rb") as file:
                lines = _whole_lines(file)
                while some := list(itertools.islice(lines, _LINES)):
                    utts, values = zip(*map(_parse, some))
                    places, values = self._index.find(utts), np.array(values)
                    good = (places >= 0) & ~np.isnan(values)
                    scores[places[good]] = values[good]
        return scores


def _whole_lines(file):
    """Not a last line that is torn: by a kill, or because another process is
    just writing it."""
    return itertools.takewhile(lambda line: line.endswith(b"\n"), file)


def _parse(line):
    """A line's utt and score, NaN if it is spoilt."""
    utt, _, score = line.decode(errors="replace").partition(" ")
    try:
        return utt, float(score)
    except ValueError:
        return utt, math.nan


def _cut_torn_line(part):
    """So that the next score does not grow onto it."""
    if part.is_file():
        with open(part, "rb") as file:
            whole = sum(map(len, _whole_lines(file)))
        os.truncate(part, whole)


def _fingerprint(trials, network, settings):
    # As of the repr of the pair of both, which it once was: scores of then are
    # kept.
    digest = hashlib.sha256(b"([")
    for number, trial in enumerate(trials):
        digest.update(f"{', ' if number else ''}{trial!r}".encode())
    digest.update(f"], {settings!r})".encode())
    for name, module in network.named_modules():
        # Two networks may have the same weights and another number of heads.
        sizes = {
            key: value
            for key, value in sorted(vars(module).items())
            if isinstance(value, (bool, int, float, str, tuple))
            and not key.startswith("_")
            and key != "training"
        }
        digest.update(repr((name, type(module).__name__, sizes)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _write(path, content):
    try:
        write_atomically(path.parent, {path.name: content})
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path, error):
    return InputError(
        f"{path}: the scores could not be written ({error.strerror}); see to "
        "it and start again: scoring goes on from what is there"
    )


_SHOWN = 20


def score_trials(
    detector,
    trials,
    path,
    batch_size=16,
    num_workers=0,
    trim_silence=False,
    whole=False,
):
    """Scores a list of trials; goes on where an earlier run stopped.

    Called by every process of a distributed run, each scores a share. Every
    trial has its own place in its own batch, so its score has the same bits
    however many processes there are, if each has as many threads (torchrun
    gives each one, unless OMP_NUM_THREADS says otherwise), and wherever a run
    was stopped. It takes under 100 bytes of memory a trial, beside the trials.

    Arguments
    ---------
    detector : SpoofDetector
        What scores them; the same on every process.
    trials : Sequence of Trial
        Their paths are absolute, or relative to the working directory.
    path : str or Path
        The score file, ``utt source key score``; see ``ScoreFile``. It appears
        when every trial has its score.
    batch_size : int
        Trials that the network sees at once; of whole recordings that last
        longer, as many fewer. Another size may change the last bits of the
        scores; those that are there already are kept.
    num_workers : int
        Processes that read audio, for each process that scores; with 0, that
        one reads.
    trim_silence : bool
        Whether the network sees the recordings without the silence around
        them; see ``dataio.silence.speech_bounds``.
    whole : bool
        Whether the network sees recordings up to ``dataio.lengths.LONGEST``,
        each repeated to the next of ``dataio.lengths.bucket_lengths``, instead of their first
        ``hparams.samples`` samples. Only of networks with an attribute
        ``any_length`` that is true, and not with ``trim_silence``.

    Raises
    ------
    InputError
        If two trials have the same name, the score file cannot be written,
        whole recordings cannot be scored, or some trials have no score because
        of their audio. These are named at the end, on the main process, when
        the others have been scored.

    Example
    -------
    >>> import soundfile
    >>> from types import SimpleNamespace
    >>> from speechbrain_bilevel.dataio.protocols import Trial
    >>> class Loudness:  # instead of a SpoofDetector
    ...     windows = SimpleNamespace(samples=4)
    ...     mods = SimpleNamespace(network=torch.nn.Identity())
    ...     hparams = SimpleNamespace(samples=4, as_published=False)
    ...     precision = "fp32"
    ...
    ...     def classify_batch(self, wavs):
    ...         return None, wavs.square().sum(1), None, None
    >>> folder = Path(getfixture("tmpdir"))
    >>> audio = str(folder / "utt_1.wav")
    >>> soundfile.write(audio, [0.5, -0.5], 16000)
    >>> trials = [Trial("utt_1", audio, "p1", "A07", "spoof", "eval")]
    >>> score_trials(Loudness(), trials, folder / "scores.txt")
    >>> print((folder / "scores.txt").read_text().strip())
    utt_1 A07 spoof 1.0
    """
    path = Path(path)
    if whole:
        _check_whole(detector.mods.network, trim_silence)
    check_target(path)
    samples = detector.hparams.samples
    settings = {
        "samples": samples,
        "as_published": detector.hparams.as_published,
        "calibration": getattr(detector.hparams, "calibration", None),
        "bonafide_logit": getattr(detector.hparams, "bonafide_logit", False),
        "precision": detector.precision,
        "trim_silence": trim_silence,
        "whole": whole,
        "audio": _digest(os.path.abspath(trial.path) for trial in trials),
    }
    rows = View(trials, operator.attrgetter("utt", "attack", "label"))
    scores = ScoreFile(path, rows, detector.mods.network, settings)
    missing, lengths = scores.missing_positions, None
    if len(missing) and path.exists():
        raise InputError(
            f"{path}: is there already, and not with these trials' scores by "
            "this network and these settings; give another name, or delete it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if whole and len(missing):
        lengths = measure_lengths(trials, samples)
    batches = TrialBatches(
        trials, missing, batch_size, samples, trim_silence, lengths
    )
    # Also waits until every process has added its scores.
    shares = _from_all(_score_share(detector, batches, scores, num_workers))
    if not if_main_process():
        return
    if lengths is not None:
        _tell_padding(lengths, samples)
    n_faults = sum(share[0] for share in shares)
    if n_faults:
        shown = sum((share[1] for share in shares), [])[:_SHOWN]
        raise InputError(_list_faults(n_faults, shown, len(trials)))
    if not scores.finish():
        raise InputError(
            f"{path}: {len(scores.missing_positions)} trials have no score, "
            "although all were scored. Start again, and only one run at a "
            "time; if several machines score, they need a shared folder"
        )


def _check_whole(network, trim_silence):
    if trim_silence:
        raise InputError(
            "whole recordings without the silence around the speech: how long "
            "they are is not known before they are decoded; expected one of "
            "both, or audio that was cut before"
        )
    if not getattr(network, "any_length", False):
        raise InputError(
            f"{type(network).__name__}: takes recordings of one length only, "
            "so it cannot hear whole ones; score the beginnings of the "
            "recordings, or with AASIST, SSLAASIST or MelCNN"
        )


def _score_share(detector, batches, scores, num_workers):
    """Adds this process's scores; returns how many other trials there are, and
    what is wrong with the first of them."""
    loader = DataLoader(batches, batch_size=None, num_workers=num_workers)
    progress = tqdm(
        desc="Scoring",
        total=batches.n_trials,
        unit="trial",
        disable=not if_main_process() or not len(batches),
    )
    n_faults, shown = 0, []
    with progress:
        for trials, rows, wavs, faults in loader:
            n_trials = len(trials) + len(faults)
            if trials:
                found = _classify(detector, wavs)[rows].tolist()
                pairs = list(zip(trials, found))
                good = [(t.utt, s) for t, s in pairs if math.isfinite(s)]
                scores.add([utt for utt, _ in good], [s for _, s in good])
                faults += [
                    no_number(trial.path, score)
                    for trial, score in pairs
                    if not math.isfinite(score)
                ]
            n_faults += len(faults)
            shown = (shown + faults)[:_SHOWN]
            progress.update(n_trials)
    return n_faults, shown


@torch.no_grad()
def _classify(detector, wavs):
    """The score of each row, of which the network sees all."""
    windows = detector.windows
    usual, windows.samples = windows.samples, wavs.shape[1]
    try:
        return detector.classify_batch(wavs)[1]
    finally:
        windows.samples = usual


def _tell_padding(lengths, samples):
    share = 100 * padding(lengths, samples)
    text = f"padding: {share:.1f} % of what the network saw"
    tqdm.write(text, file=sys.stderr)


def _from_all(value):
    """A value of every process, as a list on every process."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _digest(paths):
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
    return digest.hexdigest()


def _list_faults(n_faults, shown, n_trials):
    if n_faults > len(shown):
        shown = [*shown, f"and {n_faults - len(shown)} more"]
    return (
        f"{n_faults} of {n_trials} trials have no score:\n  "
        + "\n  ".join(shown)
        + "\nThe scores of all others are kept. Mend these files and start "
        "again: only they are tried"
    )
