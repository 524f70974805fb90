"""Which trials each level sees: folds over attacks, and paired batches."""

from typing import NamedTuple

import numpy as np
from speechbrain.dataio.batch import PaddedBatch
from torch.utils.data import Sampler

from speechbrain_bilevel.dataio.compact import NameBuilder, Names
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.problem import LevelBatch


class Fold(NamedTuple):
    """The trials of each level, as indices into the training set.

    Arguments
    ---------
    lower : numpy.ndarray
    upper : numpy.ndarray
    """

    lower: np.ndarray
    upper: np.ndarray


def attack_folds(attacks, folds=3, seed=1234, as_published=False):
    """Splits a training set by attack: in each fold, some attacks are held out
    for the upper level, and the lower level learns on all others.

    The bona fide trials are dealt out evenly, so that those of the two levels
    are disjoint as well.

    Arguments
    ---------
    attacks : list of str or Names
        The attack of each trial; "-" is bona fide.
    folds : int
        Number of folds; each attack is held out in exactly one.
    seed : int
        Decides which attacks share a fold and which bona fide trials they get.
    as_published : bool
        Split as the published code does: bona fide in the order of the
        protocol, and the lower level always has the first two attacks (held
        out or not) in place of the first two it should have.

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
    >>> fold = attack_folds(["-", "-", "-", "A01", "A02", "A03"])[0]
    >>> len(fold.lower), len(fold.upper)
    (4, 2)
    >>> set(fold.lower) & set(fold.upper)
    set()
    """
    if folds < 2:
        raise InputError(
            f"folds: {folds} leaves no attack to one of the levels; expected "
            "at least 2"
        )
    trials = _trials_by_attack(attacks)
    bonafide = trials.pop("-", np.array([], int))
    names = sorted(trials)
    if len(names) < folds or len(bonafide) < len(names):
        raise InputError(
            f"{folds} folds need at least as many attacks and a bona fide "
            f"trial for each attack; the training set has {len(names)} attacks "
            f"({', '.join(names)}) and {len(bonafide)} bona fide trials"
        )
    random = np.random.RandomState(seed)
    order = np.arange(len(names))
    random.shuffle(order)
    if as_published:
        size = len(bonafide) // len(names)
        shares = [bonafide[i * size :][:size] for i in range(len(names))]
    else:
        shares = np.array_split(random.permutation(bonafide), len(names))
    groups = [
        np.concatenate([share, trials[name]])
        for share, name in zip(shares, names)
    ]
    result = []
    for held_out in np.array_split(order, folds):
        kept = [i for i in range(len(names)) if i not in held_out]
        if as_published:
            kept[:2] = [0, 1]
        result.append(
            Fold(
                np.concatenate([groups[i] for i in kept]),
                np.concatenate([groups[i] for i in sorted(held_out)]),
            )
        )
    return result


class PairedBatchSampler(Sampler):
    """Batches of a lower and an upper part, in one list of indices.

    Each epoch takes the next fold. Both streams are shuffled, and shuffled
    again whenever they run out, until the epoch has its number of batches,
    which is the same in each. ``PairedBatch`` takes the two parts apart.

    Arguments
    ---------
    folds : list of Fold
        See ``attack_folds``.
    lower_size, upper_size : int
        Batch size of each level.
    seed : int
        The order depends on this and the epoch.
    as_published : bool
        An epoch ends when the shorter stream does. Otherwise it lasts as long
        as the lower stream does on average.
    weights : numpy.ndarray, optional
        How often each trial of the training set is drawn, with replacement,
        beside the others of its stream; see ``class_weights``. By default the
        streams are shuffled.

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
        as_published=False,
        weights=None,
    ):
        self.folds = folds
        self.sizes = Fold(lower_size, upper_size)
        self.seed = seed
        self.weights = weights
        self.epoch = 1
        batches = [len(fold.lower) // lower_size for fold in folds]
        if as_published:
            batches += [len(fold.upper) // upper_size for fold in folds]
        self.length = min(batches) if as_published else int(np.mean(batches))
        if self.length == 0:
            raise InputError(
                f"batch_size: a fold has too few trials for one batch of "
                f"{lower_size} + {upper_size}; lower the batch sizes"
            )

    def set_epoch(self, epoch):
        """Chooses the epoch, from 1, that the next iteration gives."""
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __iter__(self):
        random = np.random.default_rng([self.seed, self.epoch])
        fold = self.folds[(self.epoch - 1) % len(self.folds)]
        streams = [
            self._drawn(trials, size * self.length, random).reshape(-1, size)
            for trials, size in zip(fold, self.sizes)
        ]
        for lower, upper in zip(*streams):
            yield [*lower.tolist(), *upper.tolist()]

    def _drawn(self, trials, count, random):
        if self.weights is None:
            return _shuffled(trials, count, random)
        weights = self.weights[trials]
        return random.choice(trials, count, p=weights / weights.sum())


def class_weights(attacks):
    """Weights with which half of what is drawn is bona fide, and the rest falls
    on the attacks in equal parts.

    Arguments
    ---------
    attacks : list of str or Names
        The attack of each trial; "-" is bona fide.

    Returns
    -------
    numpy.ndarray
        [trials], their sum is 2.

    Example
    -------
    >>> class_weights(["-", "A01", "A02", "A02"])
    array([1.  , 0.5 , 0.25, 0.25])
    """
    attacks = _as_names(attacks)
    spoofs = np.array(attacks.names) != "-"
    shares = np.where(spoofs, 1 / max(1, spoofs.sum()), 1)
    return (shares / attacks.counts())[attacks.codes]


def _as_names(attacks):
    if isinstance(attacks, Names):
        return attacks
    builder = NameBuilder()
    builder.extend(attacks)
    return builder.build()


def _trials_by_attack(attacks):
    """The indices of the trials of each attack, of the smallest type."""
    attacks = _as_names(attacks)
    smallest = np.min_scalar_type(len(attacks))
    return {
        name: np.flatnonzero(attacks.codes == code).astype(smallest)
        for code, name in enumerate(attacks.names)
    }


def _shuffled(trials, count, random):
    passes = -(-count // len(trials))
    order = [random.permutation(trials) for _ in range(passes)]
    return np.concatenate(order)[:count]


class PairedBatch:
    """Collates what ``PairedBatchSampler`` drew into a ``LevelBatch``.

    Arguments
    ---------
    lower_size : int
        How many of the examples are the lower level's.

    Example
    -------
    >>> collate = PairedBatch(lower_size=1)
    >>> batch = collate([{"id": "a"}, {"id": "b"}, {"id": "c"}])
    >>> batch.lower.id, batch.upper.id
    (['a'], ['b', 'c'])
    """

    def __init__(self, lower_size):
        self.lower_size = lower_size

    def __call__(self, examples):
        return LevelBatch(
            PaddedBatch(examples[: self.lower_size]),
            PaddedBatch(examples[self.lower_size :]),
        )
