"""Hessian-vector products in three ways, and the flat vectors they work on.

A strategy calculates with one flat vector for all gradients of a level; the
parameters remain a list of tensors, as the network wants them.
"""

import contextlib

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechbrain_bilevel.utils.errors import InputError

#: How second derivatives can be computed.
MODES = ("reverse", "forward", "difference")
# What torch says where an operation can be differentiated only once.
_NO_SECOND_DERIVATIVE = ("is not implemented", "once_differentiable")


def flatten(tensors, like):
    """Join a list of tensors to one vector without a graph.

    Arguments
    ---------
    tensors : list of torch.Tensor or None
        None is zero.
    like : list of torch.Tensor
        Gives the sizes.

    Returns
    -------
    torch.Tensor

    Example
    -------
    >>> like = [torch.ones(2, 1), torch.ones(1)]
    >>> flatten([torch.ones(2, 1), None], like)
    tensor([1., 1., 0.])
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
    """Split a vector into tensors of the shapes of ``like``.

    Example
    -------
    >>> unflatten(torch.arange(3.0), [torch.ones(2, 1), torch.ones(1)])
    [tensor([[0.],
            [1.]]), tensor([2.])]
    """
    sizes = [tensor.numel() for tensor in like]
    return [
        part.view_as(tensor).to(tensor.dtype)
        for part, tensor in zip(vector.split(sizes), like)
    ]


def add_scaled(tensors, vector, scale=1.0):
    """New tensors, ``tensors + scale * vector``.

    Example
    -------
    >>> add_scaled([torch.zeros(1), torch.ones(1)], torch.tensor([1, 2.0]), 0.5)
    [tensor([0.5000]), tensor([2.])]
    """
    return [
        torch.add(tensor.detach(), part, alpha=scale)
        for tensor, part in zip(tensors, unflatten(vector, tensors))
    ]


def reverse(gradient, directions, inputs, retain_graph=False):
    """Backward through the backward pass: exact, to the rounding error.

    Arguments
    ---------
    gradient : list of torch.Tensor or None
        By the lower parameters, with its graph.
    directions : list of torch.Tensor
        Of the same shapes: what the gradient is multiplied by.
    inputs : list of torch.Tensor
        What to differentiate the product by.
    retain_graph : bool
        Keep the graph for another product.

    Returns
    -------
    list of torch.Tensor or None

    Raises
    ------
    InputError
        If an operation has no second derivative.
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
    """Forward mode over the backward pass: exact, one pass and no kept graph,
    where all of the network's operations have a forward derivative.

    Arguments
    ---------
    gradients_at : callable
        Takes values of the lower parameters and the leaves that they are made
        of; returns a list of gradients.
    point : list of torch.Tensor
        Where to differentiate.
    directions : list of torch.Tensor
        Of the same shapes.

    Returns
    -------
    list of torch.Tensor or None

    Raises
    ------
    InputError
        If an operation has no forward derivative.
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
    """Central difference of two gradients: first order only, so any network
    will do, but no more exact than its smoothness allows.

    Source: Liu et al., DARTS, https://arxiv.org/abs/1806.09055

    Arguments
    ---------
    gradients_at : callable
        Takes values of the lower parameters, returns a list of flat vectors.
    point : list of torch.Tensor
        Where to differentiate.
    vector : torch.Tensor
        The direction; not zero.
    radius : float
        Length of the difference to either side.

    Returns
    -------
    list of torch.Tensor
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
    """Make forward passes within twice differentiable: attention runs by plain
    matrix products, recurrent networks without cuDNN."""
    recurrent = any(isinstance(m, torch.nn.RNNBase) for m in modules.modules())
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
