"""Random numbers that a step can draw again."""

import contextlib
import random
from numbers import Number

import numpy as np
import torch
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel


class RandomState:
    """The generators as they are now: torch (CPU and CUDA), numpy, Python.

    Used as a context, what is drawn within repeats what was drawn since then,
    and the generators are left as they were found.

    Example
    -------
    >>> state = RandomState()
    >>> mask = torch.rand(2)
    >>> with state:
    ...     again = torch.rand(2)
    >>> torch.equal(mask, again)
    True
    """

    def __init__(self):
        self.states = self._read()

    @staticmethod
    def _read():
        cuda = torch.cuda.is_initialized()
        return (
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if cuda else None,
            np.random.get_state(),
            random.getstate(),
        )

    @staticmethod
    def _write(states):
        cpu, cuda, of_numpy, of_python = states
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        np.random.set_state(of_numpy)
        random.setstate(of_python)

    def __enter__(self):
        self.found = self._read()
        self._write(self.states)

    def __exit__(self, *error):
        self._write(self.found)


class Substitution(torch.nn.Module):
    """Runs a function while a Brain's modules hold other tensors; nothing is
    written, so nothing has to be restored.

    Arguments
    ---------
    modules : torch.nn.ModuleDict
        The Brain's, wrapped for DDP or not.
    levels : dict of str to dict
        The parameters of each level, see ``Partition.split``.

    Example
    -------
    >>> net = torch.nn.ModuleDict({"layer": torch.nn.Linear(1, 1, bias=False)})
    >>> levels = {"lower": {"layer.weight": net["layer"].weight}}
    >>> substitution = Substitution(net, levels)
    >>> (name,) = substitution.names["lower"]
    >>> values = {name: torch.full((1, 1), 3.0)}
    >>> substitution.call(values, lambda: net["layer"](torch.ones(1)))
    tensor([3.])
    """

    def __init__(self, modules, levels):
        super().__init__()
        self.substituted = modules
        names = {id(p): name for name, p in self.named_parameters()}
        self.names = {
            level: [names[id(parameter)] for parameter in parameters.values()]
            for level, parameters in levels.items()
        }

    def call(self, values, function):
        """What ``function()`` returns with ``values``, a dict of name to
        tensor, in place."""
        if not values:
            return function()
        return functional_call(self, values, (function,))

    def forward(self, function):
        """Called with the values in place."""
        return function()


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
    >>> from speechbrain_bilevel.hypergradients.stateless import Substitution
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
