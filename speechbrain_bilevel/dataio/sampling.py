"""Which trials each level trains on: folds over attacks, and paired batches."""

from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from speechbrain_bilevel.dataio import NO_ATTACK
from speechbrain_bilevel.utils.errors import InputError


class Fold(NamedTuple):
    """The trials of each level, as arrays of indices into the training set."""

    lower: np.ndarray
    upper: np.ndarray


def group_folds(attacks, num_folds=3, seed=1234, leaky=False):
    """Split a training set into folds that hold out different attacks.

    The upper level trains on the attacks that a fold holds out, the lower level
    on all others. Bona fide trials are divided evenly among the attacks, so
    that the levels share none.

    Arguments
    ---------
    attacks : array_like of str
        The attack of each trial; "-" is bona fide.
    num_folds : int
        Number of folds; each attack is held out in exactly one of them.
    seed : int
        Decides which attacks share a fold and which bona fide trials they get.
    leaky : bool
        Split as the published code of V2 does: bona fide trials in the order of
        the protocol, and the first two attacks always in the lower level, even
        if held out, in place of the first two that belong there.

    Returns
    -------
    list of Fold

    Raises
    ------
    InputError
        If there are fewer than 2 folds, fewer attacks than folds, or fewer
        bona fide trials than attacks.

    Example
    -------
    >>> fold = group_folds(["-", "-", "-", "A01", "A02", "A03"])[0]
    >>> len(fold.lower), len(fold.upper)
    (4, 2)
    >>> set(fold.lower) & set(fold.upper)
    set()
    """
    if num_folds < 2:
        raise InputError(
            f"num_folds: {num_folds} leaves no attack to one of the levels; "
            "expected at least 2"
        )
    names, codes = np.unique(np.asarray(attacks, str), return_inverse=True)
    trials = {n: np.flatnonzero(codes == code) for code, n in enumerate(names)}
    bonafide = trials.pop(NO_ATTACK, np.array([], int))
    names = sorted(trials)
    if len(names) < num_folds or len(bonafide) < len(names):
        raise InputError(
            f"{num_folds} folds need at least as many attacks and a bona fide "
            f"trial for each attack; the training set has {len(names)} attacks "
            f"({', '.join(names)}) and {len(bonafide)} bona fide trials"
        )
    random = np.random.RandomState(seed)
    order = np.arange(len(names))
    random.shuffle(order)
    if leaky:
        size = len(bonafide) // len(names)
        shares = [bonafide[i * size :][:size] for i in range(len(names))]
    else:
        shares = np.array_split(random.permutation(bonafide), len(names))
    groups = [
        np.concatenate([share, trials[name]])
        for share, name in zip(shares, names)
    ]
    folds = []
    for held_out in np.array_split(order, num_folds):
        kept = [i for i in range(len(names)) if i not in held_out]
        if leaky:
            kept[:2] = [0, 1]
        folds.append(
            Fold(
                np.concatenate([groups[i] for i in kept]),
                np.concatenate([groups[i] for i in sorted(held_out)]),
            )
        )
    return folds


class PairedBatchSampler(Sampler):
    """Yield batches of a lower and an upper part, each as one list of indices.

    Each epoch takes the next fold. The trials of each level are shuffled, and
    shuffled again when they run out, until the epoch has its number of batches,
    the same in every epoch. ``PairedBatch`` separates the two parts.

    Arguments
    ---------
    folds : list of Fold
        See ``group_folds``.
    lower_size, upper_size : int
        Batch size of each level.
    seed : int
        The order depends on the seed and the epoch.
    epoch_ends : str
        "lower": an epoch has as many batches as the lower level fills, on
        average over the folds. "shorter": as many as the smallest level of any
        fold fills, as in the published code of V2.
    weights : numpy.ndarray, optional
        Draw with replacement instead, each trial of the training set in
        proportion to its weight; see ``class_weights``.

    Raises
    ------
    InputError
        If a fold is too small for one batch, or ``epoch_ends`` is unknown.

    Example
    -------
    >>> folds = [Fold(np.arange(6), np.arange(6, 9))]
    >>> sampler = PairedBatchSampler(folds, lower_size=2, upper_size=2)
    >>> sampler.set_epoch(1)
    >>> [len(batch) for batch in sampler]
    [4, 4, 4]
    """

    def __init__(
        self,
        folds,
        lower_size,
        upper_size,
        seed=1234,
        epoch_ends="lower",
        weights=None,
    ):
        if epoch_ends not in ("lower", "shorter"):
            raise InputError(
                f'epoch_ends: "{epoch_ends}"; expected "lower" or "shorter"'
            )
        self.folds = folds
        self.sizes = Fold(lower_size, upper_size)
        self.seed = seed
        self.weights = weights
        self.epoch = 1
        lower = [len(fold.lower) // lower_size for fold in folds]
        upper = [len(fold.upper) // upper_size for fold in folds]
        self.length = int(np.mean(lower))
        if epoch_ends == "shorter":
            self.length = min(lower + upper)
        if self.length == 0:
            raise InputError(
                "batch_size: a fold has too few trials for one batch of "
                f"{lower_size} + {upper_size}; lower the batch sizes"
            )

    def set_epoch(self, epoch):
        """Set the epoch, counted from 1, of the next iteration."""
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __iter__(self):
        random = np.random.default_rng([self.seed, self.epoch])
        fold = self.folds[(self.epoch - 1) % len(self.folds)]
        streams = [
            self._draw(trials, size * self.length, random).reshape(-1, size)
            for trials, size in zip(fold, self.sizes)
        ]
        for lower, upper in zip(*streams):
            yield [*lower.tolist(), *upper.tolist()]

    def _draw(self, trials, count, random):
        if self.weights is not None:
            weights = self.weights[trials]
            return random.choice(trials, count, p=weights / weights.sum())
        passes = -(-count // len(trials))
        order = [random.permutation(trials) for _ in range(passes)]
        return np.concatenate(order)[:count]


def class_weights(attacks):
    """Weight trials so that half of what is drawn is bona fide.

    The other half falls on the attacks in equal parts. ``attacks`` names that
    of each trial, "-" is bona fide. Return an array, [trials], of sum 2.

    Example
    -------
    >>> class_weights(["-", "A01", "A02", "A02"])
    array([1.  , 0.5 , 0.25, 0.25])
    """
    names, codes, counts = np.unique(
        np.asarray(attacks, str), return_inverse=True, return_counts=True
    )
    spoofs = names != NO_ATTACK
    shares = np.where(spoofs, 1 / max(1, spoofs.sum()), 1)
    return (shares / counts)[codes]
