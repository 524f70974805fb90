"""The audio of a list of trials, in batches that processes share out."""

import numpy as np
import torch

from speechbrain_bilevel.dataio.audio import fit_length, read_window
from speechbrain_bilevel.dataio.lengths import bucket_lengths
from speechbrain_bilevel.distributed import rank, world_size
from speechbrain_bilevel.errors import InputError


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
    >>> from speechbrain_bilevel.dataio.trials import Trial
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
