"""Evaluate a network with other parameters, or again from the same state."""

import contextlib
import random
from numbers import Number

import numpy as np
import torch
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel


class Substitution(torch.nn.Module):
    """Runs a function while modules use other tensors.

    Nothing is written to the modules, so nothing has to be restored.

    Arguments
    ---------
    modules : torch.nn.ModuleDict
        The Brain's, wrapped for DDP or not.

    Example
    -------
    >>> net = torch.nn.ModuleDict({"layer": torch.nn.Linear(1, 1, bias=False)})
    >>> substitution = Substitution(net)
    >>> (name,) = substitution.names([net["layer"].weight])
    >>> values = {name: torch.full((1, 1), 3.0)}
    >>> substitution.call(values, lambda: net["layer"](torch.ones(1)))
    tensor([3.])
    """

    def __init__(self, modules):
        super().__init__()
        self.substituted = modules

    def names(self, parameters):
        """Return the names of some parameters for ``call``, a list of str."""
        names = {id(p): name for name, p in self.named_parameters()}
        return [names[id(parameter)] for parameter in parameters]

    def call(self, values, function):
        """Return ``function()`` with ``values``, a dict by name, in place."""
        if not values:
            return function()
        return functional_call(self, values, (function,))

    def forward(self, function):
        """Call the function; the values are in place."""
        return function()


class RandomState:
    """The state of all generators: torch (CPU and CUDA), NumPy, Python.

    In its context, random numbers repeat those drawn since it was created;
    afterwards the generators continue from where they were.

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


class Replay:
    """The state that an evaluation depends on beside input and parameters.

    Random generators, buffers (BatchNorm's statistics), and the numbers and
    tensors that modules keep as attributes (InputNormalization's).

    Arguments
    ---------
    modules : torch.nn.Module
        Their state is copied now.

    Example
    -------
    >>> net = torch.nn.ModuleDict({"drop": torch.nn.Dropout()})
    >>> replay = Replay(Substitution(net))
    >>> first = net["drop"](torch.ones(9))
    >>> with replay.rewind():
    ...     second = net["drop"](torch.ones(9))
    >>> torch.equal(first, second)
    True
    """

    def __init__(self, modules):
        self.random_state = RandomState()
        self._buffers = clone_values(dict(modules.named_buffers()))
        self._attributes = [
            (vars(module), clone_values(_state(module)))
            for module in modules.modules()
            # DDP's attributes control the exchange of gradients.
            if not isinstance(module, DistributedDataParallel)
        ]

    def buffers(self):
        """Return copies of the buffers by name, to substitute and write to."""
        return clone_values(self._buffers)

    @contextlib.contextmanager
    def rewind(self):
        """Evaluate from the copied state, except buffers; restore all after."""
        found = [
            {name: attributes[name] for name in state}
            for attributes, state in self._attributes
        ]
        for attributes, state in self._attributes:
            attributes.update(clone_values(state))
        try:
            with self.random_state:
                yield
        finally:
            for (attributes, _), state in zip(self._attributes, found):
                attributes.update(state)


def clone_values(values):
    """Return a dict with copies of its tensors."""
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
