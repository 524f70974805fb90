"""The audio of a list of trials, in batches that processes share out."""

import torch

from speechbrain_bilevel.dataio.audio import fit_length, read_window
from speechbrain_bilevel.distributed import rank, world_size
from speechbrain_bilevel.errors import InputError


class TrialBatches(torch.utils.data.Dataset):
    """This process's share of the batches with trials that have no score yet.

    The n-th trial of the list has row ``n % batch_size`` of batch ``n //
    batch_size``, whatever was scored before and by how many processes, and all
    batches have the same number of rows. So what a network makes of a trial
    has the same bits in every run. The rows of other trials are 0.

    Arguments
    ---------
    trials : list of Trial
        The whole list.
    missing : iterable of str
        Names of the trials that have no score yet.
    batch_size : int
        Rows of a batch; all trials, if they are fewer.
    samples : int
        Length of a row at 16 kHz; shorter audio is repeated.
    trim_silence : bool
        See ``dataio.audio.read_audio``.

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
    >>> batches = TrialBatches(trials, ["utt_1"], 2, samples=3)
    >>> len(batches)
    1
    >>> utts, rows, wavs, faults = batches[0]
    >>> utts, rows, wavs.tolist(), faults
    (['utt_1'], [1], [[0.0, 0.0, 0.0], [0.25, 0.5, 0.25]], [])
    """

    def __init__(
        self, trials, missing, batch_size, samples, trim_silence=False
    ):
        self.trials = trials
        self.batch_size = min(batch_size, len(trials))
        self.samples = samples
        self.trim_silence = trim_silence
        missing = set(missing)
        batches = {}
        for index, trial in enumerate(trials):
            if trial.utt in missing:
                batch = batches.setdefault(index // self.batch_size, [])
                batch.append(index)
        self.batches = list(batches.values())[rank() :: world_size()]

    @property
    def n_trials(self):
        """Trials of this process's share."""
        return sum(map(len, self.batches))

    def __len__(self):
        """Batches of this process's share."""
        return len(self.batches)

    def __getitem__(self, number):
        """Reads a batch.

        Arguments
        ---------
        number : int

        Returns
        -------
        utts : list of str
            The trials that could be read.
        rows : list of int
            Where each of them is in the batch.
        wavs : torch.Tensor
            [batch, time]
        faults : list of str
            What is wrong with each of the others.
        """
        wavs = torch.zeros(self.batch_size, self.samples)
        utts, rows, faults = [], [], []
        for index in self.batches[number]:
            trial, row = self.trials[index], index % self.batch_size
            try:
                wav = read_window(trial.path, self.samples, self.trim_silence)
            except InputError as fault:
                faults.append(str(fault))
                continue
            wavs[row] = fit_length(wav, self.samples)
            utts.append(trial.utt)
            rows.append(row)
        return utts, rows, wavs, faults
