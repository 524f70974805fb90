"""What building the network of a stranger's YAML may take of this machine."""

import contextlib
import math
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from speechbrain_bilevel.utils.errors import InputError

# V2 takes 72 MB and 80 000 calls.
_MOST_BYTES = 2 << 30


# Numbers in a tensor whose size is computed beforehand.
_LARGE = 1e8


_MOST_CALLS = 8_000_000


_SMALLER = (
    "expected a smaller one. If you trust its author, pass trust_code=True"
)


class FewBytes(TorchDispatchMode):
    """Refuses tensors before they fill the memory."""

    @classmethod
    def _should_skip_dynamo(cls):
        # Else torch.compile's parts are imported, for seconds.
        return False

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Computes the size of a result that may be large, then the result."""
        kwargs = kwargs or {}
        if any(result.alias_info for result in func._schema.returns):
            # In place, or a view.
            return func(*args, **kwargs)
        if not _most_numbers(args, kwargs) <= _LARGE:
            self._refuse_over(self.size + _planned(func, args, kwargs))
        results = func(*args, **kwargs)
        self.size += _size(results)
        self._refuse_over(self.size)
        return results

    def _refuse_over(self, size):
        if size > _MOST_BYTES:
            raise InputError(
                f"the network needs more than {_MOST_BYTES >> 30} GiB to be "
                f"built; {_SMALLER}"
            )


def _most_numbers(args, kwargs):
    """More than what is built of a network can have, one by one."""
    most, shapes = 1.0, set()
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.Tensor):
            shapes.add(leaf.shape)
        elif isinstance(leaf, (int, float)) and leaf:
            most *= max(abs(leaf), 1 / abs(leaf))
    # Tensors of one shape are added, or the like.
    return most * math.prod(max(1.0, shape.numel()) for shape in shapes)


def _planned(func, args, kwargs):
    """The size of a result, computed without its numbers."""
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = kwargs | {"device": "meta"}
    args, kwargs = tree_map_only(
        torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs)
    )
    try:
        return _size(func(*args, **kwargs))
    # It depends on the numbers, or the arguments are wrong.
    except Exception:
        return 0


def _size(results):
    return sum(
        leaf.nbytes
        for leaf in tree_leaves(results)
        if isinstance(leaf, torch.Tensor)
    )


@contextlib.contextmanager
def few_calls():
    """Stops what would go on for ever, such as a million layers."""
    n_calls = 0

    def count(*_):
        nonlocal n_calls
        n_calls += 1
        if n_calls > _MOST_CALLS:
            raise InputError(
                f"the network takes too long to be built; {_SMALLER}"
            )

    # Where a profiler runs, nobody minds the time.
    is_free = sys.getprofile() is None
    if is_free:
        sys.setprofile(count)
    try:
        yield
    finally:
        if is_free:
            sys.setprofile(None)
