"""Evaluations of a network that start where the first one did."""

import contextlib
from numbers import Number

import torch
from torch.nn.parallel import DistributedDataParallel

from speechbrain_bilevel.randomness import RandomState


class Replay:
    """What an evaluation of a network depends on beside its input and its
    parameters, as it is now: random generators, buffers (BatchNorm's
    statistics) and the numbers and tensors that modules keep as attributes
    (InputNormalization's).

    Arguments
    ---------
    substitution : Substitution

    Example
    -------
    >>> from speechbrain_bilevel.hypergradients.substitution import Substitution
    >>> net = torch.nn.ModuleDict({"drop": torch.nn.Dropout()})
    >>> replay = Replay(Substitution(net, {}))
    >>> first = net["drop"](torch.ones(9))
    >>> with replay.again():
    ...     second = net["drop"](torch.ones(9))
    >>> torch.equal(first, second)
    True
    """

    def __init__(self, substitution):
        self.random_state = RandomState()
        self._buffers = copied(dict(substitution.named_buffers()))
        self._attributes = [
            (vars(module), copied(_state(module)))
            for module in substitution.modules()
            # Its attributes say whether gradients are exchanged.
            if not isinstance(module, DistributedDataParallel)
        ]

    def buffers(self):
        """Copies of the buffers by name, to be put in place of the modules'
        own and to be written to."""
        return copied(self._buffers)

    @contextlib.contextmanager
    def again(self):
        """What is evaluated within starts from the state, buffers excepted;
        afterwards all is as it was found."""
        found = [
            {name: attributes[name] for name in state}
            for attributes, state in self._attributes
        ]
        for attributes, state in self._attributes:
            attributes.update(copied(state))
        try:
            with self.random_state:
                yield
        finally:
            for (attributes, _), state in zip(self._attributes, found):
                attributes.update(state)


def copied(values):
    """A dict with copies of its tensors."""
    return {
        name: value.clone() if torch.is_tensor(value) else value
        for name, value in values.items()
    }


def _state(module):
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, (Number, torch.Tensor))
    }
