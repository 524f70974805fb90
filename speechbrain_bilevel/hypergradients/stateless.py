"""Evaluate a network with other parameters, or again from the same state."""

import collections
import contextlib
import copy
import io
import random
import types
from typing import NamedTuple

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
        # What is yielded may be written to, as AddNoise does.
        is_module = isinstance(item, torch.nn.Module)
        return item if is_module else copy.deepcopy(item)


class State:
    """What an evaluation may read and change beside parameters and input.

    That is, of a Brain, its ``hparams`` and its modules, and of all objects
    that hang on them: attributes, buffers, what is in dicts, lists, deques and
    sets; numbers, tensors and arrays in them; generators of random numbers;
    iterators. Data sets, loaders and optimizers are left alone.

    Arguments
    ---------
    brain : Brain
    ignored : iterable of str
        Attributes of the Brain that are none of its own.
    """

    def __init__(self, brain, ignored):
        self.brain = brain
        self.ignored = frozenset(ignored) | {"hparams", "modules"}
        self._of_modules = {}

    def forget(self):
        """Look through all modules again."""
        self._of_modules = {}

    def containers(self):
        """Yield pairs of a dict, list, deque or set and its keys to ignore."""
        brain, seen = self.brain, {id(self.brain.hypergradient)}
        own, hparams = vars(brain), vars(brain.hparams)
        yield own, self.ignored
        yield hparams, frozenset()
        waiting = [v for n, v in own.items() if n not in self.ignored]
        waiting += [*hparams.values(), brain.modules]
        while waiting:
            value = waiting.pop()
            if type(value) in _ATOMS or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, torch.nn.Module):
                found = self._of_modules.get(id(value))
                if found is None:
                    found = list(_of_module(value))
                    self._of_modules[id(value)] = found
                yield from found
                waiting += _hanging_on(value)
            elif isinstance(value, tuple):
                waiting += value
            elif isinstance(value, (dict, *_SEQUENCES)):
                yield value, frozenset()
                if len(value) <= _MANY:
                    in_dict = isinstance(value, dict)
                    waiting += value.values() if in_dict else value
            elif _may_have_state(value):
                waiting.append(vars(value))


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
        self._generators, self._large, self._recorded = [], [], []
        self._copies, known = [], set()
        for container, ignored in state.containers():
            if id(container) in known:
                continue
            known.add(id(container))
            if isinstance(container, list) and len(container) > _LONG:
                # Metrics of a long epoch, which only grow.
                self._copies.append((container, ignored, None))
                continue
            items = _items(container, ignored)
            for key, value in items.items():
                if type(value) not in _ATOMS:
                    items[key] = self._copy(container, key, value)
            self._copies.append((container, ignored, items))

    def _copy(self, container, key, value):
        if isinstance(value, (torch.Tensor, np.ndarray)):
            if isinstance(value, torch.Tensor) and (
                isinstance(value, torch.nn.Parameter) or value.requires_grad
            ):
                return value
            if value.nbytes <= _LARGE:
                return _Copied(_clone(value))
            if isinstance(value, torch.Tensor):
                self._large.append((key, value, value._version))
        elif isinstance(value, _GENERATORS):
            self._generators.append((value, _generator_state(value)))
        elif hasattr(type(value), "__next__") and not isinstance(
            value, io.IOBase
        ):
            recorded = Recorded(value)
            if isinstance(container, (dict, list)):
                self._recorded.append((container, key, recorded))
                return recorded
        return value

    @contextlib.contextmanager
    def first(self):
        """Evaluate for the first time."""
        for container, key, recorded in self._recorded:
            container[key] = recorded
        try:
            yield
        finally:
            for container, key, recorded in self._recorded:
                with contextlib.suppress(LookupError):
                    if container[key] is recorded:
                        container[key] = recorded.source

    @contextlib.contextmanager
    def again(self):
        """Evaluate from the copied state; restore what was there after."""
        for name, tensor, version in self._large:
            if tensor._version != version:
                raise InputError(
                    f"{name}: this tensor of {tensor.nbytes} bytes changes "
                    "when a loss is computed, and is too large to be copied in "
                    "each step; choose Alternating, which computes it once"
                )
        found = []
        for container, ignored, items in self._copies:
            if items is None:
                found.append(len(container))
                continue
            found.append(_items(container, ignored))
            fresh = {
                key: value if type(value) in _ATOMS else _fresh(value)
                for key, value in items.items()
            }
            _put(container, fresh, ignored)
        generators = [(g, _generator_state(g)) for g, _ in self._generators]
        for generator, state in self._generators:
            _set_generator_state(generator, state)
        try:
            with self.random_state:
                yield
        finally:
            for generator, state in generators:
                _set_generator_state(generator, state)
            for (container, ignored, items), before in zip(self._copies, found):
                if items is None:
                    del container[before:]
                else:
                    _put(container, before, ignored)


class _Copied(NamedTuple):
    """A copy of a tensor or an array."""

    value: object


def _clone(value):
    return value.clone() if torch.is_tensor(value) else value.copy()


def _fresh(value):
    """Return what to put in place for another evaluation."""
    if type(value) is _Copied:
        return _clone(value.value)
    if type(value) is Recorded:
        return Recorded(value.source, value.items)
    return value


def _items(container, ignored):
    """Return what is in a container, a dict by key, index or number."""
    if isinstance(container, dict):
        if not ignored:
            return dict(container)
        return {k: v for k, v in container.items() if k not in ignored}
    return dict(enumerate(container))


def _put(container, items, ignored):
    """Make these the ``_items`` of a container."""
    if isinstance(container, dict):
        if len(container) - len(items) != len(ignored & container.keys()):
            for key in [k for k in container if k not in items]:
                if key not in ignored:
                    del container[key]
        # A Counter's own update would add.
        dict.update(container, items)
        return
    container.clear()
    if isinstance(container, set):
        container.update(items.values())
    else:
        container.extend(items.values())


#: Tensors and arrays of more bytes are not copied in each step.
_LARGE = 2**24
_ATOMS = frozenset({int, float, bool, complex, str, bytes, type(None), type})
_GENERATORS = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    random.Random,
)
_SEQUENCES = (list, collections.deque, set)
# Attributes that every module has.
_OF_MODULES = frozenset(vars(torch.nn.Module()))
# Containers of more hold data, and are not looked into.
_MANY = 1000
# Lists of more are not copied.
_LONG = 10_000


def _of_module(module):
    """Yield pairs as ``State.containers`` for a module and those in it."""
    for part in module.modules():
        yield part._buffers, frozenset()
        # DDP's attributes control the exchange of gradients.
        if not isinstance(part, DistributedDataParallel):
            yield vars(part), _OF_MODULES


def _hanging_on(module):
    """Return the objects, no modules, that are attributes of modules."""
    return [
        value
        for part in module.modules()
        if not isinstance(part, DistributedDataParallel)
        for name, value in vars(part).items()
        if name not in _OF_MODULES
        and type(value) not in _ATOMS
        and not isinstance(value, torch.Tensor)
    ]


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
    torch.optim.Optimizer,
    torch.utils.data.DataLoader,
    torch.utils.data.Dataset,
    torch.utils.data.Sampler,
    Checkpointer,
    EpochCounter,
)
_LIBRARIES = frozenset(
    ("builtins", "functools", "logging", "numpy", "pandas", "pyarrow", "torch")
)


def _generator_state(generator):
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state


def _set_generator_state(generator, state):
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state
