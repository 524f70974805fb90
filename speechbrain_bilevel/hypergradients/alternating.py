"""First-order alternation: the published method, and its published form."""

import contextlib

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from speechbrain_bilevel.hypergradients.base import Hypergradient
from speechbrain_bilevel.problem import Partition, plain_name


class Alternating(Hypergradient):
    """The direct gradient of f by x at the lower level's newest parameters.

    The response of y* to x is left out, so one step costs less than two plain
    ones: neither level's backward pass computes the other's gradients.

    Source: https://github.com/menglu-lml/ASV_Deepfake_with_bilevel
    """

    def upper_gradient(self, brain, batch):
        """See ``Hypergradient.upper_gradient``."""
        return brain.backward("upper", batch.upper)


@register_checkpoint_hooks
class LaggedAlternating(Alternating):
    """Alternation as the published code runs it.

    The lower level trains beside the upper parameters as they were when the
    epoch began. The upper level works on a second copy of these (and keeps
    BatchNorm statistics of its own), which is handed over when the epoch ends,
    but not when the last one does. The network itself is the lower level's
    view, which is also what is validated and saved.

    Arguments
    ---------
    number_of_epochs : int
        The last epoch.
    """

    def __init__(self, number_of_epochs):
        self.number_of_epochs = number_of_epochs

    def setup(self, brain):
        """See ``Hypergradient.setup``."""
        upper = Partition(brain.hparams.upper)
        tensors = [
            *brain.modules.named_parameters(),
            *brain.modules.named_buffers(),
        ]
        self.in_network = {
            plain_name(name): tensor
            for name, tensor in tensors
            if upper.is_upper(plain_name(name))
        }
        self.copy = {
            name: tensor.detach().clone()
            for name, tensor in self.in_network.items()
        }
        self.parameters = set(brain.levels["upper"])
        if brain.checkpointer is not None:
            brain.checkpointer.add_recoverable("hypergradient", self)

    @contextlib.contextmanager
    def upper_view(self):
        """See ``Hypergradient.upper_view``."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def end_epoch(self, brain, epoch):
        """See ``Hypergradient.end_epoch``."""
        if epoch < self.number_of_epochs:
            for name in self.parameters:
                self.in_network[name].data.copy_(self.copy[name])

    def _swap(self):
        for name, tensor in self.in_network.items():
            tensor.data, self.copy[name] = self.copy[name], tensor.data

    @mark_as_saver
    def save(self, path):
        """Saves the copy."""
        torch.save(self.copy, path)

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Loads the copy."""
        del end_of_epoch
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in saved.items():
            self.copy[name].copy_(tensor)
