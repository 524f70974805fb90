"""First-order alternation: the published method, and its published form."""

import contextlib

from speechbrain_bilevel.hypergradients.base import (
    Hypergradient,
    StatefulHypergradient,
)
from speechbrain_bilevel.utils.errors import InputError


class Alternating(Hypergradient):
    """The direct gradient of f by x at the lower level's newest parameters.

    The response of y* to x is omitted, so a step costs less than two plain
    ones: neither level's backward pass computes the other's gradients. If f
    does not depend on x directly, e.g. for a weight of the lower loss, there is
    no direct gradient, and x is refused.

    Source: https://github.com/menglu-lml/ASV_Deepfake_with_bilevel
    """

    needs_functional_call = False

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        for micro_batch in step.micro_batches:
            micro_batch.upper.backward()
        upper = step.params["upper"]
        idle = [
            name
            for name, parameter in upper.items()
            if parameter.requires_grad and parameter.grad is None
        ]
        if idle:
            raise InputError(
                f"upper: the upper loss does not depend on {', '.join(idle)}, "
                f"and {type(self).__name__} knows the direct gradient only, "
                "which is zero there. Choose a strategy that differentiates "
                "the lower level's answer, e.g. OneStepUnrolled or SOBA, or "
                "leave them out of 'upper'"
            )


class LaggedAlternating(StatefulHypergradient, Alternating):
    """Alternation as in the published code.

    The lower level trains with the upper parameters from the beginning of the
    epoch. The upper level works on a copy of them (with its own BatchNorm
    statistics), which replaces them when an epoch ends, except for the last
    one. The network itself is the lower level's view, which is also validated
    and saved.

    Arguments
    ---------
    number_of_epochs : int
        The last epoch.
    """

    def __init__(self, number_of_epochs):
        self.number_of_epochs = number_of_epochs

    def setup(self, step):
        """See ``Hypergradient.setup``."""
        self.in_network = step.upper_tensors()
        self.parameters = list(step.params["upper"])
        self.state = {
            name: tensor.detach().clone()
            for name, tensor in self.in_network.items()
        }

    @contextlib.contextmanager
    def upper_parameters_in_place(self):
        """See ``Hypergradient.upper_parameters_in_place``."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def end_epoch(self, epoch):
        """See ``Hypergradient.end_epoch``."""
        if epoch < self.number_of_epochs:
            for name in self.parameters:
                self.in_network[name].data.copy_(self.state[name])

    def _swap(self):
        for name, tensor in self.in_network.items():
            tensor.data, self.state[name] = self.state[name], tensor.data
