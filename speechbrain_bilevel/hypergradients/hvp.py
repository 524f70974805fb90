"""Flat vectors: what a strategy calculates with.

The gradients of a level are one vector; its parameters remain a list of
tensors, as the network wants them.
"""

import contextlib

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechbrain_bilevel.utils.errors import InputError


def flat(tensors, like):
    """One vector from a list of tensors.

    Arguments
    ---------
    tensors : list of torch.Tensor or None
        None is zero.
    like : list of torch.Tensor
        Gives the sizes.

    Returns
    -------
    torch.Tensor
        A vector without a graph.

    Example
    -------
    >>> like = [torch.ones(2, 1), torch.ones(1)]
    >>> flat([torch.ones(2, 1), None], like)
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


def shaped(vector, like):
    """The parts of a vector in the shapes of ``like``; undoes ``flat``.

    Example
    -------
    >>> shaped(torch.arange(3.0), [torch.ones(2, 1), torch.ones(1)])
    [tensor([[0.],
            [1.]]), tensor([2.])]
    """
    sizes = [tensor.numel() for tensor in like]
    return [
        part.view_as(tensor).to(tensor.dtype)
        for part, tensor in zip(vector.split(sizes), like)
    ]


def moved(tensors, vector, step=1.0):
    """New tensors, ``tensors + step * vector``.

    Example
    -------
    >>> moved([torch.zeros(1), torch.ones(1)], torch.tensor([1.0, 2.0]), 0.5)
    [tensor([0.5000]), tensor([2.])]
    """
    return [
        torch.add(tensor.detach(), part, alpha=step)
        for tensor, part in zip(tensors, shaped(vector, tensors))
    ]


#: What torch says where an operation can be differentiated only once.
NO_SECOND_DERIVATIVE = ("is not implemented", "once_differentiable")


def reverse(loss, vector, levels, at=None, keep_graph=False):
    """Backward through the backward pass: exact, to the rounding error.

    The graph of the gradient can be kept for the next product; under gradient
    accumulation it is not, since memory is what counts there.
    """
    if loss.graph is None:
        loss.gradients("lower", at=at, keep_graph=True)
    gradient, at = loss.graph
    keep_graph = keep_graph and loss.brain.grad_accumulation_factor == 1
    if not keep_graph:
        loss.graph = None
    directions = shaped(vector, loss.parameters("lower", at))
    pairs = [
        (g, v)
        for g, v in zip(gradient, directions)
        if g is not None and g.requires_grad
    ]
    inputs = [loss.parameters(level, at) for level in levels]
    if not pairs:
        return loss.vectors(levels, [[None] * len(level) for level in inputs])
    outputs, directions = zip(*pairs)
    try:
        found = torch.autograd.grad(
            outputs,
            [parameter for level in inputs for parameter in level],
            grad_outputs=directions,
            retain_graph=keep_graph,
            allow_unused=True,
        )
    except RuntimeError as error:
        if not any(word in str(error) for word in NO_SECOND_DERIVATIVE):
            raise
        raise InputError(
            f'products: "reverse" does not work with this network ({error}); '
            'choose "difference"'
        ) from error
    found = iter(found)
    gradients = [[next(found) for _ in level] for level in inputs]
    return loss.vectors(levels, gradients)


def tangent(dual):
    return None if dual is None else forward_ad.unpack_dual(dual).tangent


def forward(loss, vector, levels, at=None):
    """Forward mode over the backward pass: exact, one pass and no kept graph,
    where all of the network's operations have a forward derivative."""
    lower = loss.parameters("lower", at)
    leaves = [value.detach().requires_grad_() for value in lower]
    try:
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(leaf, direction.contiguous())
                for leaf, direction in zip(leaves, shaped(vector, leaves))
            ]
            with twice_differentiable(loss.brain.modules):
                _, value = loss.evaluate(duals)
            found = [
                [tangent(g) for g in level]
                for level in loss.differentiate(value, levels, leaves)
            ]
    except NotImplementedError as error:
        raise InputError(
            f'products: "forward" does not work with this network ({error}); '
            'choose "reverse"'
        ) from error
    return loss.vectors(levels, found)


def difference(loss, vector, levels, at=None, radius=0.01):
    """Central difference of two gradients, ``radius`` to either side along v:
    first order only, so any network will do, but no more exact than its
    smoothness allows. In full precision, whatever ``--precision`` says.

    Source: Liu et al., DARTS, https://arxiv.org/abs/1806.09055
    """
    norm = vector.norm().item()
    lower = loss.parameters("lower", at)
    if norm == 0:
        nothing = [[None] * len(loss.parameters(level)) for level in levels]
        return loss.vectors(levels, nothing)
    step = radius / norm
    sides = []
    for sign in (1, -1):
        point = [p.requires_grad_() for p in moved(lower, vector, sign * step)]
        _, value = loss.evaluate(point, full_precision=True)
        gradients = loss.differentiate(value, levels, point)
        sides.append(loss.vectors(levels, gradients))
    return [(plus - minus) / (2 * step) for plus, minus in zip(*sides)]


@contextlib.contextmanager
def twice_differentiable(modules):
    """Forward passes within can be differentiated twice: attention runs by
    plain matrix products, recurrent networks without cuDNN."""
    recurrent = any(isinstance(m, torch.nn.RNNBase) for m in modules.modules())
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


PRODUCTS = {"reverse": reverse, "forward": forward, "difference": difference}
