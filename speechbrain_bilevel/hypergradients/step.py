"""The losses of a step: of each of its batches, and their means."""

from speechbrain_bilevel.distributed import average
from speechbrain_bilevel.hypergradients.objective import BatchLoss


class Part:
    """The two losses of one of a step's batches.

    Arguments
    ---------
    brain : BilevelMixin
    batch : LevelBatch
    """

    def __init__(self, brain, batch):
        self.batch = batch
        self.lower = BatchLoss(brain, "lower", batch.lower)
        self.upper = BatchLoss(brain, "upper", batch.upper)


class MeanLoss:
    """The mean of a level's losses on the batches of a step, and over all
    processes: the loss of the joined batch.

    Arguments
    ---------
    losses : list of BatchLoss
    """

    def __init__(self, losses):
        self.losses = losses

    def gradients(self, *levels, **options):
        """See ``BatchLoss.gradients``; only the vectors are returned."""
        return joint_mean(
            loss.gradients(*levels, **options)[2] for loss in self.losses
        )

    def products(self, vector, *levels, **options):
        """See ``BatchLoss.products``."""
        return joint_mean(
            loss.products(vector, *levels, **options) for loss in self.losses
        )


def joint_mean(lists):
    """The mean of several lists of vectors, and over all processes.

    Arguments
    ---------
    lists : iterable of list of torch.Tensor
        One list for each batch of the step.

    Returns
    -------
    list of torch.Tensor

    Example
    -------
    >>> import torch
    >>> joint_mean([[torch.zeros(1)], [torch.ones(1)]])
    [tensor([0.5000])]
    """
    total, count = None, 0
    for vectors in lists:
        if total is not None:
            vectors = [a + b for a, b in zip(total, vectors)]
        total = vectors
        count += 1
    return average([vector / count for vector in total])
