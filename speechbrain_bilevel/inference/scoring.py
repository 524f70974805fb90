"""Score a list of trials, in one or several processes; resumable."""

import hashlib
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from torch.utils.data import DataLoader
from tqdm import tqdm

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.dataio.audio import fit_length, hear
from speechbrain_bilevel.dataio.decoding import SoundFileSource, open_source
from speechbrain_bilevel.dataio.parquet import file_version
from speechbrain_bilevel.dataio.protocols import NO_LABEL
from speechbrain_bilevel.evaluation.score_files import WRITTEN, score_lines
from speechbrain_bilevel.inference.verdicts import nonfinite_score_message
from speechbrain_bilevel.utils.distributed import all_gather, rank, world_size
from speechbrain_bilevel.utils.errors import InputError, printable
from speechbrain_bilevel.utils.files import (
    check_target,
    lock_for,
    read_stamp,
    sha256,
    write_atomically,
)
from speechbrain_bilevel.utils.tables import repeated

#: Longest and shortest input for scoring in full length, in samples: 60 s and
#: 1 s. The memory for attention grows with the square of the length, so that a
#: single file of an hour would not fit; shorter recordings are repeated.
LONGEST, SHORTEST = 60 * SAMPLE_RATE, SAMPLE_RATE
# Ratio of successive lengths: at most 1 - 1 / 1.04, 3.8 %, is repetition.
_RATIO = 1.04
# Errors to show.
_SHOWN = 20
# Lines to write at once.
_LINES = 1 << 14


def score_trials(
    detector,
    trials,
    path,
    batch_size=16,
    num_workers=0,
    trim_silence=False,
    full_length=False,
    layout=None,
    replace=False,
):
    """Score a list of trials; resume where an earlier run stopped.

    Each process of a distributed run calls this and scores a share. A trial
    always has the same place in the same batch, so its score has the same bits
    wherever a run was stopped and whatever the number of processes, provided
    that all have the same number of threads (torchrun gives each process one
    thread, unless OMP_NUM_THREADS is set).

    Arguments
    ---------
    detector : SpoofDetector
        The same on every process.
    trials : pandas.DataFrame
        A table of trials (see ``dataio.protocols``); paths are absolute, or
        relative to the working directory.
    path : str or Path
        The score file; it appears when every trial has its score.
    batch_size : int
        Trials that the network sees at once; with ``full_length``, those of
        ``num_samples`` samples, proportionally fewer of longer and more of
        shorter ones. Another size may change the last bits of new scores;
        existing ones are kept.
    num_workers : int
        Processes that read audio, for each one that scores; 0: it reads itself.
    trim_silence : bool
        Cut the silence around the speech; see ``dataio.audio``.
    full_length : bool
        Score recordings of up to ``LONGEST``, each repeated to the next of
        ``bucket_lengths``, instead of their first ``num_samples`` samples. Only
        for networks with a true ``any_length``, and not with ``trim_silence``.
    layout : str, optional
        A key of ``score_files.WRITTEN``, such as that of a challenge's
        submissions; by default ``utt source key score`` or, where labels are
        unknown, ``utt score``.
    replace : bool
        Whether a score file of another network may be replaced, if it is as
        this function wrote it.

    Raises
    ------
    InputError
        If two trials have the same name, the score file cannot be written,
        recordings cannot be scored in full length, or the audio of some trials
        cannot be scored: the main process lists these at the end, when all
        others have their scores.
    """
    path = Path(path)
    num_samples = detector.hparams.num_samples
    if full_length:
        _check_full_length(detector, trim_silence)
    if if_main_process():
        # An existing score file is dealt with below.
        check_target(path, b"")
        check_target(path.with_name(f"{path.name}.json"), b'{"fingerprint"')
    settings = {
        **detector.settings,
        "trim_silence": trim_silence,
        "full_length": full_length,
        "layout": layout,
    }
    scores = ResumableScoreFile(path, trials, detector.mods.network, settings)
    missing, lengths = scores.missing, None
    may_replace = not path.exists() or (replace and scores.is_unedited())
    if len(missing) and not may_replace:
        raise InputError(
            f"{path}: exists but holds scores of another network, trial list "
            "or settings, or of audio that has changed since; choose another "
            "path or delete it"
        )
    if full_length and len(missing):
        lengths = measure_lengths(trials.path, num_samples)
    batches = TrialBatches(
        trials, missing, batch_size, num_samples, trim_silence, lengths
    )
    # Also waits until every process has added its scores.
    shares = all_gather(_score_share(detector, batches, scores, num_workers))
    if not if_main_process():
        return
    if lengths is not None:
        share = 100 * padding(lengths, num_samples)
        text = f"padding: {share:.1f} % of what the network saw"
        tqdm.write(text, file=sys.stderr)
    n_errors = sum(share[0] for share in shares)
    made, kept = len(missing) - n_errors, len(trials) - len(missing)
    tqdm.write(f"{made} scores made, {kept} kept", file=sys.stderr)
    if said := _some(shares, 2):
        tqdm.write(f"notes:\n  {said}", file=sys.stderr)
    if n_errors:
        raise InputError(
            f"{n_errors} of {len(trials)} trials have no score:\n  "
            + _some(shares, 0)
            + "\nThe scores of all others are kept. Repair these files and "
            "start again: only they are tried"
        )
    if not scores.finish():
        raise InputError(
            f"{path}: {len(scores.missing)} trials have no score, although all "
            "were scored. Start again, and only one run at a time; if several "
            "machines score, they need a shared folder"
        )


def _some(shares, column):
    """Join the first texts of all shares, and the number of the others."""
    count = sum(share[column] for share in shares)
    texts = [text for share in shares for text in share[column + 1]][:_SHOWN]
    if count > len(texts):
        texts.append(f"and {count - len(texts)} more")
    return "\n  ".join(texts)


def _check_full_length(detector, trim_silence):
    if trim_silence:
        raise InputError(
            "full length and trimmed silence: how long trimmed recordings are "
            "is not known before they are decoded; choose one of both, or trim "
            "the audio beforehand"
        )
    if not detector.any_length:
        raise InputError(
            f"{detector.network_name}: takes recordings of one length only, so "
            "it cannot score them in full length; score their beginnings, or "
            "with a network such as AASIST by the engine torch"
        )


def _score_share(detector, batches, scores, num_workers):
    """Add this process's scores; return the numbers of failures and of notes,
    and some of each."""
    loader = DataLoader(batches, batch_size=None, num_workers=num_workers)
    progress = tqdm(
        desc="Scoring",
        total=batches.n_trials,
        unit="trial",
        disable=not if_main_process() or not len(batches),
    )
    n_errors, shown, n_notes, said = 0, [], 0, []
    with progress, torch.no_grad():
        for positions, rows, wavs, errors, notes in loader:
            n_trials = len(positions) + len(errors)
            if positions:
                found = detector.classify_batch(
                    wavs, num_samples=wavs.shape[1]
                )[1][rows].tolist()
                finite = [math.isfinite(score) for score in found]
                pairs = list(zip(positions, found, finite))
                scores.add(
                    [position for position, _, good in pairs if good],
                    [score for _, score, good in pairs if good],
                )
                errors += [
                    nonfinite_score_message(batches.paths[position], score)
                    for position, score, good in pairs
                    if not good
                ]
            n_errors += len(errors)
            shown = (shown + errors)[:_SHOWN]
            n_notes += len(notes)
            said = (said + notes)[:_SHOWN]
            progress.update(n_trials)
    return n_errors, shown, n_notes, said


# ------------------------------------------------------------------- score file
class ResumableScoreFile:
    """Collects scores as they come; ``utt source key score`` when complete.

    Each process appends to its own part file beside ``path``, named by a
    fingerprint of the network, the settings and the trials. A later run with
    the same fingerprint resumes, any other starts from scratch; the score of a
    file whose size or time has changed since does not count. ``finish`` joins
    the parts in the order of the trials. Other runs that would write ``path``
    are refused as long as the object exists.

    Arguments
    ---------
    path : str or Path
        The score file.
    trials : pandas.DataFrame
        A table of trials; see ``dataio.protocols``.
    network : torch.nn.Module
        Computes the scores.
    settings : dict
        All else that the scores depend on; its ``repr`` must show it.

    Raises
    ------
    InputError
        If two trials have the same name, or the settings have a layout for
        labels that are unknown.

    Example
    -------
    >>> trials = pd.DataFrame(
    ...     {"utt": ["u1", "u2"], "path": ["1.wav", "2.wav"]}
    ...     | {"attack": ["A07", "-"], "label": ["spoof", "bonafide"]}
    ... )
    >>> path = Path(getfixture("tmpdir")) / "scores.txt"
    >>> scores = ResumableScoreFile(path, trials, torch.nn.Linear(1, 1), {})
    >>> scores.missing
    array([0, 1])
    >>> scores.add([1, 0], [0.5, -1.0])
    >>> scores.finish()
    True
    >>> print(path.read_text().strip())
    u1 A07 spoof -1.0
    u2 - bonafide 0.5
    """

    def __init__(self, path, trials, network, settings):
        self.path, self.trials = Path(path), trials
        if names := [n for _, n, _ in repeated(trials.utt, trials.index)]:
            raise InputError(
                f"{len(set(names))} names stand for more than one trial, "
                f"first of all {printable(names[0], 60)}; score lists with the "
                "same names one by one"
            )
        has_labels = not (trials.label == NO_LABEL).any()
        usual = "asvspoof2019" if has_labels else "asvspoof2021"
        self.layout = settings.get("layout") or usual
        if "label" in WRITTEN[self.layout][0] and not has_labels:
            raise InputError(
                f"layout {self.layout}: has labels, which are unknown; choose "
                "asvspoof2021 or asvspoof5"
            )
        if self.layout == usual:
            settings = {**settings, "layout": None}
        self.fingerprint = _fingerprint(trials, network, settings)
        self.versions = np.fromiter(map(file_version, trials.path), np.int64)
        self.stamp = self.path.with_name(self.path.name + ".json")
        self.part = self.path.with_name(
            f"{self.path.name}.{self.fingerprint}.part{rank()}"
        )
        if if_main_process():
            lock_for(self, self.path)
        # Other runs must not have parts cut by the next line but one.
        ddp_barrier()
        self.complete = self._is_complete()
        _truncate_last_line(self.part)
        self.scores = self._read_parts()
        # No process adds scores before every one has read the same parts.
        ddp_barrier()

    @property
    def missing(self):
        """Positions of the trials that have no score yet, an array."""
        if self.complete:
            return np.empty(0, int)
        return np.flatnonzero(np.isnan(self.scores))

    def add(self, positions, scores):
        """Append scores of trials, by position, to this process's part file.

        Raise an ``InputError`` if they cannot be written.
        """
        utts = self.trials.utt.array
        lines = [
            f"{utts[position]} {score!r} {self.versions[position]}\n"
            for position, score in zip(positions, scores)
        ]
        try:
            with open(self.part, "a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise InputError(
                f"{self.part}: the scores could not be written "
                f"({error.strerror}); free some space and start again: scoring "
                "resumes from what is there"
            ) from error

    def finish(self):
        """Write the score file; return False if some trial has no score yet.

        One process calls it, after all have added their scores. Raise an
        ``InputError`` if the file cannot be written.
        """
        if not self.complete:
            self.scores = self._read_parts()
            if len(self.missing):
                return False
            table = self.trials.assign(score=self.scores)
            lines = {self.path.name: score_lines(table, self.layout)}
            write_atomically(self.path.parent, lines)
            stamp = {self.stamp.name: json.dumps(self._stamp())}
            write_atomically(self.path.parent, stamp)
            self.complete = True
        for part in self._parts("[0-9a-f]{16}"):
            part.unlink()
        return True

    def is_unedited(self):
        """Whether the score file, of any network, is as it was written."""
        written = read_stamp(self.stamp).get("sha256")
        return written is not None and written == sha256(self.path)

    def _stamp(self):
        return {
            "fingerprint": self.fingerprint,
            "sha256": sha256(self.path),
            "audio": hashlib.sha256(self.versions.tobytes()).hexdigest(),
        }

    def _is_complete(self):
        return read_stamp(self.stamp) == self._stamp()

    def _parts(self, fingerprint):
        """Return the part files of all processes, by their exact names."""
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
        """Return the score of each trial, NaN if there is none yet."""
        scores = np.full(len(self.trials), np.nan)
        parts = self._parts(self.fingerprint)
        index = pd.Index(self.trials.utt) if parts else None
        for part in parts:
            utts, values, versions = _read_part(part)
            positions = index.get_indexer(utts)
            good = (positions >= 0) & (versions == self.versions[positions])
            scores[positions[good]] = values[good]
        return scores


def _read_part(part):
    """Return names, scores and versions of audio of the intact lines.

    An incomplete last line is skipped: a run was killed, or another process is
    writing it.
    """
    utts, scores, versions = [], [], []
    with open(part, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                utt, score, version = line.split(" ")
                score, version = float(score), int(version)
            except ValueError:
                continue
            if line.endswith("\n") and not math.isnan(score):
                utts.append(utt)
                scores.append(score)
                versions.append(version)
    return utts, np.array(scores), np.array(versions, np.int64)


def _truncate_last_line(part):
    """Remove an incomplete last line, so that no score is appended to it."""
    if part.is_file():
        content = part.read_bytes()
        os.truncate(part, content.rfind(b"\n") + 1)


def _fingerprint(trials, network, settings):
    digest = hashlib.sha256(repr(settings).encode())
    columns = trials[["utt", "path", "attack", "label"]]
    for start in range(0, len(columns), _LINES):
        rows = columns[start : start + _LINES]
        digest.update(rows.to_csv(header=False, index=False).encode())
    for name, module in network.named_modules():
        # Two networks may have equal weights but different numbers of heads.
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


# ---------------------------------------------------------------------- batches
class TrialBatches(torch.utils.data.Dataset):
    """This process's share of the batches with trials that have no score yet.

    Every trial of the list has a fixed row of a fixed batch, whatever was
    scored before and by how many processes: without lengths, the n-th has row
    ``n % batch_size`` of batch ``n // batch_size``. So the network's output for
    it has the same bits in every run. Rows of other trials are 0.

    Arguments
    ---------
    trials : pandas.DataFrame
        The complete list.
    missing : array_like of int
        Positions of the trials that have no score yet.
    batch_size : int
        Rows of a batch, at most the number of trials. With ``lengths``, rows of
        ``num_samples`` samples: proportionally fewer of longer and more of
        shorter ones, and the remaining trials in the last batch of a length.
    num_samples : int
        Length of a row at 16 kHz; shorter audio is repeated.
    trim_silence : bool
        See ``dataio.audio.read_audio``.
    lengths : numpy.ndarray, optional
        [trials], samples of each recording. Each is repeated to the next of the
        ``bucket_lengths``; the rows of a batch have the same length.

    Example
    -------
    >>> import soundfile
    >>> paths = [str(getfixture("tmp_path") / f"{n}.wav") for n in range(3)]
    >>> soundfile.write(paths[1], [0.25, 0.5], 16000)
    >>> batches = TrialBatches(pd.DataFrame({"path": paths}), [1], 2, 3)
    >>> positions, rows, wavs, errors, notes = batches[0]
    >>> positions, rows, wavs.tolist(), errors, notes
    ([1], [1], [[0.0, 0.0, 0.0], [0.25, 0.5, 0.25]], [], [])
    """

    def __init__(
        self,
        trials,
        missing,
        batch_size,
        num_samples,
        trim_silence=False,
        lengths=None,
    ):
        self.paths = trials.path.array
        self.trim_silence = trim_silence
        self._order, self._first, self._num_samples = _arrange(
            len(trials), batch_size, num_samples, lengths
        )
        # Batches of one length are filled up to one size: with few rows, the
        # last bits would depend more on the number of threads.
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
        """Number of batches in this process's share."""
        return len(self._share)

    def __getitem__(self, number):
        """Read a batch of waveforms, [batch, time].

        Return the positions of the trials that could be read, the row of each,
        the waveforms, what is wrong with the other trials, and what is to be
        said of these, as text.
        """
        batch = self._share[number]
        order = self._order[self._first[batch] : self._first[batch + 1]]
        num_samples = int(self._num_samples[batch])
        wavs = torch.zeros(max(len(order), self._least_rows), num_samples)
        positions, rows, errors, notes = [], [], [], []
        for row, position in enumerate(order.tolist()):
            if not self._todo[position]:
                continue
            path = self.paths[position]
            try:
                heard = hear(path, num_samples, self.trim_silence)
            except InputError as error:
                errors.append(str(error))
                continue
            notes += [f"{path}: {note}" for note in heard.notes]
            wav = torch.from_numpy(heard.wav)
            wavs[row] = fit_length(wav, num_samples)
            positions.append(position)
            rows.append(row)
        return positions, rows, wavs, errors, notes


def _arrange(n_trials, batch_size, num_samples, lengths):
    """Arrange trials in batches.

    Return their positions in the order of the batches, where each batch begins
    in it (and where the last one ends), and the samples of each batch's rows.
    """
    dtype = np.min_scalar_type(n_trials)
    if lengths is None:
        buckets, counts = np.array([num_samples]), [n_trials]
        order = np.arange(n_trials, dtype=dtype)
    else:
        # The longest first, so that a lack of memory shows at once.
        buckets = bucket_lengths(num_samples)
        bucket = len(buckets) - 1 - np.searchsorted(buckets, lengths)
        buckets = buckets[::-1]
        counts = np.bincount(bucket, minlength=len(buckets)).tolist()
        order = np.argsort(bucket, kind="stable").astype(dtype)
    first, begin, sizes = [], 0, []
    for length, count in zip(buckets.tolist(), counts):
        rows = max(1, batch_size * num_samples // length)
        first.append(np.arange(begin, begin + count, rows))
        sizes.append(np.full(len(first[-1]), length))
        begin += count
    return order, np.concatenate([*first, [n_trials]]), np.concatenate(sizes)


# ---------------------------------------------------------------------- lengths
def bucket_lengths(num_samples):
    """Return the lengths, in samples, to which full-length audio is repeated.

    They increase by 4 % from ``SHORTEST``, or ``num_samples`` if that is less,
    to ``LONGEST``. Since they depend only on ``num_samples``, on which the
    network was trained, a score does not depend on the other recordings.
    """
    lengths = [min(num_samples, SHORTEST)]
    while lengths[-1] < LONGEST:
        following = max(lengths[-1] + 1, int(_RATIO * lengths[-1]))
        lengths.append(min(following, LONGEST))
    return np.array(lengths)


def measure_lengths(paths, num_samples):
    """Measure recordings in samples at 16 kHz, at most the longest bucket.

    Called by every process of a distributed run: each measures a share of the
    files, and all get all lengths, int32, [paths], 0 for a file that cannot be
    read. Other formats than FLAC and WAV are decoded for it.
    """
    longest = int(bucket_lengths(num_samples)[-1])
    mine = tqdm(
        paths[rank() :: world_size()],
        desc="Measuring",
        unit="file",
        disable=not if_main_process(),
    )
    own = np.fromiter((_length(path, longest) for path in mine), np.int32)
    lengths = np.empty(len(paths), np.int32)
    for number, share in enumerate(all_gather(own)):
        lengths[number :: world_size()] = share
    return lengths


def _length(path, longest):
    try:
        with open_source(path) as source:
            # What FLAC and WAV state is true, or told during scoring.
            if isinstance(source, SoundFileSource) and source.stated:
                length = math.ceil(source.stated * SAMPLE_RATE)
                return min(length, longest)
        return len(hear(path, longest).wav)
    except InputError:
        # Reported during scoring, with all others.
        return 0


def padding(lengths, num_samples):
    """Return which share of the samples that a network sees is repetition.

    See ``measure_lengths`` for ``lengths``, and ``bucket_lengths``.
    """
    lengths = lengths[lengths > 0]
    buckets = bucket_lengths(num_samples)
    seen = buckets[np.searchsorted(buckets, lengths)].sum()
    return float(1 - lengths.sum() / max(1, seen)) if len(lengths) else 0.0
