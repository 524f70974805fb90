"""Training batches for two levels."""

from typing import NamedTuple

from speechbrain.dataio.batch import PaddedBatch


class LevelBatch(NamedTuple):
    """A training batch for both levels.

    Arguments
    ---------
    lower, upper : object
        The batch that each level is trained on.

    Example
    -------
    >>> import torch
    >>> batch = LevelBatch(torch.zeros(1), torch.ones(1)).to("cpu")
    >>> batch.upper
    tensor([1.])
    """

    lower: object
    upper: object

    def __getattr__(self, name):
        raise AttributeError(
            f"a LevelBatch has no '{name}'; its batches, lower and upper, may"
        )

    def to(self, *args, **kwargs):
        """Move both batches, as ``torch.Tensor.to``."""
        return LevelBatch(
            self.lower.to(*args, **kwargs), self.upper.to(*args, **kwargs)
        )


class PairedBatch:
    """Collate the examples of a ``PairedBatchSampler`` into a ``LevelBatch``.

    Arguments
    ---------
    lower_size : int
        Number of examples, from the first, that are for the lower level.
    collate_fn : callable, optional
        Makes each level's batch; ``PaddedBatch`` by default.

    Example
    -------
    >>> collate = PairedBatch(lower_size=1)
    >>> batch = collate([{"id": "a"}, {"id": "b"}, {"id": "c"}])
    >>> batch.lower.id, batch.upper.id
    (['a'], ['b', 'c'])
    """

    def __init__(self, lower_size, collate_fn=PaddedBatch):
        self.lower_size, self.collate_fn = lower_size, collate_fn

    def __call__(self, examples):
        return LevelBatch(
            self.collate_fn(examples[: self.lower_size]),
            self.collate_fn(examples[self.lower_size :]),
        )
