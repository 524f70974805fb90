"""Which trials each level trains on: folds, paired batches, and tasks."""

from typing import NamedTuple

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.dataio import NO_ATTACK
from speechbrain_bilevel.dataio.batch import PairedBatch
from speechbrain_bilevel.utils.errors import InputError

logger = get_logger(__name__)


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


def check_batch_size(name, size, n_trials):
    """Refuse a batch that is empty, or larger than the training set."""
    if not 1 <= size <= n_trials:
        raise InputError(f"{name}: {size}; expected 1 to {n_trials} trials")


class _EpochSampler(torch.utils.data.Sampler):
    """Has ``length`` batches, drawn anew in each epoch."""

    def __init__(self, length, seed):
        self.length, self.seed, self.epoch = length, seed, 1

    def set_epoch(self, epoch):
        """Set the epoch, counted from 1, of the next iteration."""
        self.epoch = epoch

    def __len__(self):
        return self.length

    def _random(self):
        return np.random.default_rng([self.seed, self.epoch])


class PairedBatchSampler(_EpochSampler):
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
        n_trials = sum(map(len, folds[0]))
        check_batch_size("batch_size", lower_size, n_trials)
        check_batch_size("upper_batch_size", upper_size, n_trials)
        self.folds = folds
        self.sizes = Fold(lower_size, upper_size)
        self.weights = weights
        lower = [len(fold.lower) // lower_size for fold in folds]
        upper = [len(fold.upper) // upper_size for fold in folds]
        length = int(np.mean(lower))
        if epoch_ends == "shorter":
            length = min(lower + upper)
        super().__init__(length, seed)
        if length == 0:
            raise InputError(
                "batch_size: a fold has too few trials for one batch of "
                f"{lower_size} + {upper_size}; lower the batch sizes"
            )

    def __iter__(self):
        random = self._random()
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


class TaskBatchSampler(_EpochSampler):
    """Yield tasks for ``hypergradients.meta_learning``: a support and a query.

    A task has the items of one group, and those that all groups share (bona
    fide ones, where groups are attacks). In both of its parts the classes have
    equal shares, as far as the sizes allow, and no recording is in both.
    ``PairedBatch`` separates the parts: the support is the lower batch.

    Groups take turns, in a new order each time. Items repeat within a part
    where a group has too few of a class.

    Arguments
    ---------
    groups, labels : array_like of str
        The group (attack, source, speaker) and the class of each item.
    support_size, query_size : int
        At least the number of classes.
    recordings : array_like of str, optional
        The recording that each item is from; by default each its own.
    shared : str
        The group of items that belong to every task.
    length : int, optional
        Tasks in an epoch; by default as many as have the size of the set.
    seed : int
        The order depends on the seed and the epoch.

    Raises
    ------
    InputError
        If a size is too small, a group has one class or fewer than two
        recordings of one, or recordings cannot be divided.

    Example
    -------
    >>> attacks = ["-"] * 4 + ["A01"] * 2 + ["A02"] * 2
    >>> labels = ["bonafide"] * 4 + ["spoof"] * 4
    >>> sampler = TaskBatchSampler(attacks, labels, 2, 2)
    >>> [len(task) for task in sampler]
    [4, 4]
    """

    def __init__(
        self,
        groups,
        labels,
        support_size,
        query_size,
        recordings=None,
        shared=NO_ATTACK,
        length=None,
        seed=1234,
    ):
        groups, labels = np.asarray(groups, str), np.asarray(labels, str)
        if recordings is None:
            recordings = np.arange(len(groups))
        counts = len(groups), len(labels), len(recordings)
        if len(set(counts)) > 1:
            raise InputError(
                "groups, labels and recordings of {}, {} and {} items; "
                "expected the same number".format(*counts)
            )
        _, self.recordings = np.unique(recordings, return_inverse=True)
        self.sizes = support_size, query_size
        of_set = max(1, len(groups) // sum(self.sizes))
        super().__init__(length or of_set, seed)
        # For each group the items of each class, that in the fewest recordings
        # first.
        self.tasks, every = [], groups == shared
        for group in sorted(set(groups[~every])):
            items = np.flatnonzero(every | (groups == group))
            names = np.unique(labels[items])
            classes = [items[labels[items] == name] for name in names]
            self._check(group, names, classes)
            self.tasks.append(sorted(classes, key=self._count))
            try:
                self._draw(self.tasks[-1], np.random.default_rng(seed))
            except InputError as error:
                raise InputError(f"group {group}: {error}") from error
        if not self.tasks:
            raise InputError(
                f"groups: all items are of '{shared}', which is shared; "
                "expected another, which makes tasks"
            )

    def _check(self, group, names, classes):
        for size in self.sizes:
            if size < len(classes):
                raise InputError(
                    "support_size and query_size: {} and {}; expected at least "
                    "{}, the classes of group {}".format(
                        *self.sizes, len(classes), group
                    )
                )
        counts = list(map(self._count, classes))
        if len(counts) < 2 or min(counts) < 2:
            found = ", ".join(f"{c} of {n}" for n, c in zip(names, counts))
            raise InputError(
                f"group {group}: recordings of each class: {found}; a task "
                "needs two classes, and two recordings of each; leave the "
                "group's items out, or join it with another one"
            )

    def __iter__(self):
        random, turns = self._random(), []
        for _ in range(self.length):
            turns = turns or random.permutation(len(self.tasks)).tolist()
            yield self._draw(self.tasks[turns.pop()], random)

    def _count(self, items):
        return len(np.unique(self.recordings[items]))

    def _draw(self, classes, random):
        for _ in range(100):
            sides = self._divide(classes, random)
            pools = [
                [items[sides[self.recordings[items]] == i] for items in classes]
                for i in (0, 1)
            ]
            if all(map(len, pools[0] + pools[1])):
                break
        else:
            raise InputError(
                "its recordings, some with items of several classes, cannot be "
                "divided into a support and a query that have all classes; "
                "leave some out"
            )
        task = []
        for size, pool in zip(self.sizes, pools):
            shares = size // len(pool) + (
                np.arange(len(pool)) < size % len(pool)
            )
            for items, share in zip(pool, shares):
                task += np.resize(random.permutation(items), share).tolist()
        return task

    def _divide(self, classes, random):
        """Return the part of each recording, 0 or 1, an array."""
        sides = np.full(len(self.recordings), -1)
        for items in classes:
            found = random.permutation(np.unique(self.recordings[items]))
            new = found[sides[found] < 0]
            first, second = ((sides[found] == i).sum() for i in (0, 1))
            half = (len(new) + second - first + random.integers(2)) // 2
            half = min(max(half, 0), len(new))
            sides[new[:half]], sides[new[half:]] = 0, 1
        return sides


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


def bilevel_loader_kwargs(
    dataset,
    loader_kwargs,
    folds=1,
    by=None,
    label=None,
    upper_batch_size=None,
    seed=1234,
):
    """Return ``train_loader_kwargs`` for ``Brain.fit`` that pair two levels.

    Arguments
    ---------
    dataset : Dataset
        The training set, SpeechBrain's or another with a length.
    loader_kwargs : dict
        What the Brain's own training gives its loader: batch_size, num_workers,
        collate_fn, ... ``shuffle`` and ``drop_last`` do nothing: batches are
        always shuffled and full.
    folds : int
        1: the lower level trains on a random half, the upper level on the
        other. k, 2 or more: each epoch holds out the next of k parts from the
        lower level, and the upper level trains on it.
    by : str or array_like, optional
        A column of the data set, e.g. "spk_id", or a value for each item; items
        with the same value stay in one part.
    label : str or array_like, optional
        A column of classes; those that only one level sees are warned of.
    upper_batch_size : int, optional
        By default that of ``loader_kwargs``, which is the lower level's.
    seed : int
        Decides on the parts and on the order of each epoch.

    Raises
    ------
    InputError
        If there are too few items, or ``loader_kwargs`` has a sampler.

    Example
    -------
    >>> data = torch.randn(256, 9)
    >>> kwargs = {"batch_size": 16, "num_workers": 2, "collate_fn": torch.stack}
    >>> kwargs = bilevel_loader_kwargs(data, kwargs, folds=4)
    >>> loader = torch.utils.data.DataLoader(data, **kwargs)
    >>> next(iter(loader)).upper.shape
    torch.Size([16, 9])
    """
    rest = dict(loader_kwargs)
    for key in ("sampler", "batch_sampler"):
        if rest.pop(key, None) is not None:
            raise InputError(
                f"{key}: the two levels need one of their own; leave it out"
            )
    for key in ("shuffle", "drop_last"):
        rest.pop(key, None)
    size = rest.pop("batch_size", 1)
    made = _folds(len(dataset), _column(dataset, by), folds, seed)
    if label is not None:
        _warn_missing_classes(made, _column(dataset, label))
    sampler = PairedBatchSampler(made, size, upper_batch_size or size, seed)
    collate_fn = rest.pop("collate_fn", None) or PaddedBatch
    collate_fn = PairedBatch(size, collate_fn)
    return {**rest, "batch_sampler": sampler, "collate_fn": collate_fn}


def _column(dataset, column):
    """Return a value for each item, as an array of str, or None."""
    if isinstance(column, str):
        with dataset.output_keys_as([column]):
            column = [item[column] for item in dataset]
    if column is None:
        return None
    if len(column) != len(dataset):
        raise InputError(
            f"{len(column)} values for a data set of {len(dataset)} items"
        )
    return np.asarray(column, str)


def _folds(count, values, folds, seed):
    random = np.random.default_rng(seed)
    groups = values if values is not None else np.arange(count)
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    parts = max(folds, 2)
    if folds < 1 or len(sizes) < parts:
        raise InputError(
            f"folds: {folds} of {len(sizes)} groups of items; expected 1, for "
            "two halves, or 2 and more, and a group for each part"
        )
    # The largest group first, each to the smallest part.
    order = random.permutation(len(sizes))
    filled, part_of = np.zeros(parts, int), np.empty(len(sizes), int)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        part_of[group] = np.argmin(filled)
        filled[part_of[group]] += sizes[group]
    part = part_of[codes]
    held_out = [1] if folds == 1 else range(folds)
    return [
        Fold(np.flatnonzero(part != i), np.flatnonzero(part == i))
        for i in held_out
    ]


def _warn_missing_classes(folds, classes):
    for number, fold in enumerate(folds, 1):
        lower, upper = (set(classes[trials]) for trials in fold)
        missing = {"lower": upper - lower, "upper": lower - upper}
        for level, names in missing.items():
            if names:
                logger.warning(
                    f"fold {number} of {len(folds)}: the {level} level has no "
                    f"item of {len(names)} classes, e.g. {min(names)}"
                )
