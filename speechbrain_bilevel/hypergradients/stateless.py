"""Evaluate a network with other parameters, or again from the same state."""

import contextlib
import copy
import io
import random
import types

import numpy as np
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from speechbrain_bilevel.utils.errors import InputError


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
    """The state of all generators: torch (CPU and CUDA), Python, NumPy.

    In its context, random numbers repeat those drawn since it was created;
    afterwards the generators continue from where they were. NumPy's state is
    slow to copy, so that generator is seeded anew, from Python's, instead.

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
        self.numpy_seed = random.getrandbits(32)
        self.states = self._read()
        np.random.seed(self.numpy_seed)

    @staticmethod
    def _read():
        cuda = torch.cuda.is_initialized()
        return (
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if cuda else None,
            random.getstate(),
        )

    @staticmethod
    def _write(states):
        cpu, cuda, of_python = states
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        random.setstate(of_python)

    def __enter__(self):
        self.found = self._read()
        self._write(self.states)
        np.random.seed(self.numpy_seed)

    def __exit__(self, *error):
        self._write(self.found)


class Recorded:
    """An iterator that remembers what it yielded, to yield it again.

    Arguments
    ---------
    source : iterator
        Where items come from.
    items : list, optional
        What to yield first: items, or ``StopIteration``.

    Example
    -------
    >>> source = iter(range(9))
    >>> first = Recorded(source)
    >>> next(first), next(first)
    (0, 1)
    >>> second = Recorded(source, first.items)
    >>> next(second), next(second), next(second)
    (0, 1, 2)
    """

    def __init__(self, source, items=()):
        self.source, self.waiting = source, list(reversed(items))
        self.items = list(items)

    def __iter__(self):
        return self

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __next__(self):
        if self.waiting:
            item = self.waiting.pop()
        else:
            item = next(self.source, StopIteration)
            self.items.append(item)
        if item is StopIteration:
            raise StopIteration
        # What is yielded may be written to (by AddNoise).
        return copy.deepcopy(item)


class State:
    """What an evaluation may read and change beside parameters and input.

    That is, of a Brain, its ``hparams`` and its modules, and of all objects
    that hang on them: attributes, entries of dicts, buffers; numbers, tensors
    and arrays in them; the ends of lists; generators of random numbers;
    iterators. Data sets, loaders and optimizers are left alone.

    Arguments
    ---------
    brain : Brain
    ignored : iterable of str
        Attributes of the Brain that are none of its own.
    """

    def __init__(self, brain, ignored):
        self.brain, self.ignored = brain, frozenset(ignored)
        self._key = self._found = None

    def dicts(self):
        """Return pairs of a dict that may change and its keys to leave alone.

        They are looked for when another object hangs on the Brain.
        """
        own = [
            value
            for name, value in vars(self.brain).items()
            if name not in self.ignored
        ]
        hparams = vars(self.brain.hparams)
        roots = [*own, *hparams.values(), self.brain.modules]
        key = [id(value) for value in roots if type(value) not in _ATOMS]
        if key != self._key:
            self._key = key
            strategy = self.brain.hypergradient
            roots = [value for value in roots if value is not strategy]
            self._found = [
                (vars(self.brain), self.ignored),
                (hparams, frozenset()),
                *_find_dicts(roots),
            ]
        return self._found

    def forget(self):
        """Look for all objects again."""
        self._key = None


class Replay:
    """Evaluates a second time from the state that the first time began with.

    Arguments
    ---------
    state : State
        It is copied now.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> drop, hparams = torch.nn.Dropout(), SimpleNamespace()
    >>> brain = SimpleNamespace(
    ...     modules=drop, hparams=hparams, hypergradient=None
    ... )
    >>> replay = Replay(State(brain, []))
    >>> with replay.first():
    ...     first = drop(torch.ones(9))
    >>> with replay.again():
    ...     second = drop(torch.ones(9))
    >>> torch.equal(first, second)
    True
    """

    def __init__(self, state):
        self.random_state = RandomState()
        self._dicts, self._generators, self._large = [], [], []
        for entries, ignored in state.dicts():
            copied = {}
            for name, value in entries.items():
                if name not in ignored:
                    copied[name] = value
                    if type(value) not in _ATOMS:
                        copied[name] = self._copy(name, value)
            self._dicts.append((entries, ignored, copied))

    def _copy(self, name, value):
        if isinstance(value, torch.Tensor):
            if _is_copied(value):
                return value.clone()
            if not _is_differentiated(value):
                self._large.append((name, value, value._version))
        elif isinstance(value, np.ndarray):
            return value.copy() if value.size <= _LARGE else value
        elif isinstance(value, _GENERATORS):
            self._generators.append((value, _generator_state(value)))
        elif hasattr(type(value), "__next__") and not isinstance(
            value, (io.IOBase, Recorded)
        ):
            return Recorded(value)
        return value

    @contextlib.contextmanager
    def first(self):
        """Evaluate for the first time."""
        recorded = [
            (entries, name, value)
            for entries, _, copied in self._dicts
            for name, value in copied.items()
            if type(value) is Recorded
        ]
        for entries, name, value in recorded:
            entries[name] = value
        try:
            yield
        finally:
            for entries, name, value in recorded:
                if entries.get(name) is value:
                    entries[name] = value.source

    @contextlib.contextmanager
    def again(self):
        """Evaluate from the copied state; restore what was there after."""
        for name, tensor, version in self._large:
            if tensor._version != version:
                raise InputError(
                    f"{name}: this tensor of {tensor.numel()} elements changes "
                    "when a loss is computed, and is too large to be copied in "
                    "each step; choose Alternating, which computes it once"
                )
        found = [self._rewind(*entry) for entry in self._dicts]
        generators = [
            (generator, _generator_state(generator))
            for generator, _ in self._generators
        ]
        for generator, state in self._generators:
            _set_generator_state(generator, state)
        try:
            with self.random_state:
                yield
        finally:
            for generator, state in generators:
                _set_generator_state(generator, state)
            for (entries, ignored, _), (values, lengths) in zip(
                self._dicts, found
            ):
                for name in [n for n in entries if n not in values]:
                    if name not in ignored:
                        del entries[name]
                entries.update(values)
                for growing, length in lengths:
                    del growing[length:]

    @staticmethod
    def _rewind(entries, ignored, copied):
        """Return the entries of a dict, and the lengths of lists in it."""
        values = {n: v for n, v in entries.items() if n not in ignored}
        lengths = [(v, len(v)) for v in values.values() if type(v) is list]
        for name in values:
            if name not in copied:
                del entries[name]
        for name, value in copied.items():
            if type(value) in _ATOMS:
                entries[name] = value
            elif type(value) is Recorded:
                entries[name] = Recorded(value.source, value.items)
            elif isinstance(value, torch.Tensor) and _is_copied(value):
                entries[name] = value.clone()
            elif isinstance(value, np.ndarray) and value.size <= _LARGE:
                entries[name] = value.copy()
            else:
                entries[name] = value
        return values, lengths


#: Tensors of more elements are not copied in each step.
_LARGE = 2**22
_ATOMS = frozenset({int, float, bool, complex, str, bytes, type(None), type})
_GENERATORS = (torch.Generator, np.random.Generator, random.Random)
# Attributes that every module has.
_OF_MODULES = frozenset(vars(torch.nn.Module()))
# Lists of more objects hold data.
_MANY = 1000


def _find_dicts(roots):
    """Yield pairs as ``State.dicts``, for all that hangs on some objects."""
    seen, waiting = set(), list(roots)
    while waiting:
        value = waiting.pop()
        if type(value) in _ATOMS or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.nn.Module):
            waiting.extend(value.children())
            yield value._buffers, frozenset()
            # DDP's attributes control the exchange of gradients.
            if isinstance(value, DistributedDataParallel):
                continue
            yield vars(value), _OF_MODULES
            waiting.extend(
                v for n, v in vars(value).items() if n not in _OF_MODULES
            )
        elif isinstance(value, (list, tuple)):
            waiting.extend(value if len(value) <= _MANY else ())
        elif isinstance(value, dict):
            if len(value) <= _MANY:
                yield value, frozenset()
                waiting.extend(value.values())
        elif _may_have_state(value):
            waiting.append(vars(value))


def _may_have_state(value):
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, _STATELESS)
        and package not in _LIBRARIES
    )


_STATELESS = (
    type,
    types.FunctionType,
    types.ModuleType,
    torch.Tensor,
    torch.utils.data.DataLoader,
    torch.utils.data.Dataset,
    torch.utils.data.Sampler,
    Checkpointer,
    EpochCounter,
)
_LIBRARIES = frozenset(
    ("builtins", "functools", "logging", "numpy", "pandas", "pyarrow", "torch")
)


def _is_differentiated(tensor):
    return isinstance(tensor, torch.nn.Parameter) or tensor.requires_grad


def _is_copied(tensor):
    return tensor.numel() <= _LARGE and not _is_differentiated(tensor)


def _generator_state(generator):
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state


def _set_generator_state(generator, state):
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state
