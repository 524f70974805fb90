"""Hessian-vector products in three ways, and the flat vectors they work on.

A strategy uses one flat vector for all gradients of a level; the parameters
remain a list of tensors, as the network needs them.
"""

import contextlib

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechbrain_bilevel.utils.errors import InputError

#: How second derivatives can be computed.
MODES = ("reverse", "forward", "difference")
# Parts of torch's messages on operations without a second derivative.
_NO_SECOND_DERIVATIVE = ("is not implemented", "once_differentiable")


def flatten(tensors, like):
    """Join tensors to one vector, without a graph.

    None becomes a zero tensor of the size of the one in ``like``.
    """
    return torch.cat(
        [
            torch.zeros_like(other).flatten()
            if tensor is None
            else tensor.detach().flatten()
            for tensor, other in zip(tensors, like)
        ]
    )


def unflatten(vector, like):
    """Split a vector into tensors of the shapes of ``like``."""
    sizes = [tensor.numel() for tensor in like]
    return [
        part.view_as(tensor).to(tensor.dtype)
        for part, tensor in zip(vector.split(sizes), like)
    ]


def add_scaled(tensors, vector, scale=1.0):
    """Return new tensors, ``tensors + scale * vector``."""
    return [
        torch.add(tensor.detach(), part, alpha=scale)
        for tensor, part in zip(tensors, unflatten(vector, tensors))
    ]


def reverse(gradient, directions, inputs, retain_graph=False):
    """Differentiate <gradient, directions> by ``inputs`` in a backward pass.

    Exact up to rounding errors. ``gradient``, by the lower parameters (None
    where there is none), has a graph, which ``retain_graph`` keeps for another
    product. Return a list of tensors or None. Raise an ``InputError`` if an
    operation has no second derivative.
    """
    pairs = [
        (g, v)
        for g, v in zip(gradient, directions)
        if g is not None and g.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    outputs, directions = zip(*pairs)
    try:
        return torch.autograd.grad(
            outputs,
            inputs,
            grad_outputs=directions,
            retain_graph=retain_graph,
            allow_unused=True,
        )
    except RuntimeError as error:
        if not any(word in str(error) for word in _NO_SECOND_DERIVATIVE):
            raise
        raise InputError(
            f'hvp_mode: "reverse" does not work with this network ({error}); '
            'choose "difference"'
        ) from error


def forward(gradients_at, point, directions):
    """Differentiate gradients at ``point`` along ``directions``, forward mode.

    Exact, in one pass without a graph, but all operations of the network must
    have a forward derivative; otherwise raise an ``InputError``.
    ``gradients_at`` takes values of the lower parameters and the leaves they
    are made of, and returns a list of gradients. Return a list of tensors or
    None.
    """
    leaves = [value.detach().requires_grad_() for value in point]
    try:
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(leaf, direction.contiguous())
                for leaf, direction in zip(leaves, directions)
            ]
            return [
                None if g is None else forward_ad.unpack_dual(g).tangent
                for g in gradients_at(duals, leaves)
            ]
    except NotImplementedError as error:
        raise InputError(
            f'hvp_mode: "forward" does not work with this network ({error}); '
            'choose "reverse"'
        ) from error


def difference(gradients_at, point, vector, radius):
    """Differentiate gradients at ``point`` by a central difference.

    It needs first derivatives only, so it works for any network, but is no more
    exact than the network is smooth. ``gradients_at`` takes values of the lower
    parameters and returns flat vectors; ``vector``, the flat direction, is not
    zero; ``radius`` is the length to either side.

    Source: Liu et al., DARTS, https://arxiv.org/abs/1806.09055
    """
    step = radius / vector.norm().item()
    plus, minus = (
        gradients_at(
            [p.requires_grad_() for p in add_scaled(point, vector, step * sign)]
        )
        for sign in (1, -1)
    )
    return [(a - b) / (2 * step) for a, b in zip(plus, minus)]


@contextlib.contextmanager
def twice_differentiable(modules):
    """Make forward passes in this context twice differentiable.

    Attention runs by plain matrix products, recurrent networks without cuDNN.
    """
    recurrent = any(isinstance(m, torch.nn.RNNBase) for m in modules.modules())
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
