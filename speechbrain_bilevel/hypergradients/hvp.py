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


def masked(vector, like, kept):
    """Return a flat vector with zeros for the tensors that are not kept.

    ``kept`` has a bool for each of ``like``.
    """
    if all(kept):
        return vector
    parts = zip(unflatten(vector, like), kept)
    return flatten([part if keep else None for part, keep in parts], like)


def add_scaled(tensors, vector, scale=1.0):
    """Return new tensors, ``tensors + scale * vector``, ``scale`` a number."""
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
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not pairs or not wanted:
        return [None] * len(inputs)
    outputs, directions = zip(*pairs)
    try:
        found = torch.autograd.grad(
            outputs,
            wanted,
            grad_outputs=directions,
            retain_graph=retain_graph,
            allow_unused=True,
        )
    except RuntimeError as error:
        if not any(word in str(error) for word in _NO_SECOND_DERIVATIVE):
            raise
        raise InputError(
            'hvp_mode: "reverse" does not work with this network ('
            f'{first_line(error)}); choose "difference"'
        ) from error
    return spread(found, inputs)


def spread(found, inputs):
    """Put None into a list of gradients for inputs that do not require one."""
    found = iter(found)
    return [next(found) if i.requires_grad else None for i in inputs]


def forward(loss_at, values, directions, wanted, light=True):
    """Differentiate a loss's gradients along directions, forward over reverse.

    Exact, in one pass, but all operations must have a forward derivative.

    Arguments
    ---------
    loss_at : callable
        Takes values of the parameters, a dict like ``values``; returns a loss.
    values, directions : dict of str to torch.Tensor
        The point, and the directions of some of the parameters.
    wanted : list of str
        The parameters by which gradients are taken.
    light : bool
        Keep no graph but that of a single gradient, by ``torch.func``. This
        does not run every network, nor with the same random numbers.

    Returns
    -------
    loss : torch.Tensor
    list of torch.Tensor or None
        A derivative for each of ``wanted``.
    """
    with forward_ad.dual_level():
        leaves = {
            name: value.detach().requires_grad_(not light and name in wanted)
            for name, value in values.items()
        }
        duals = {
            name: forward_ad.make_dual(leaf, directions[name].contiguous())
            if name in directions
            else leaf
            for name, leaf in leaves.items()
        }
        if light:
            # What surrounds the inner function records no graph.
            with torch.no_grad():
                loss, backward = torch.func.vjp(
                    lambda part: loss_at({**duals, **part}),
                    {name: duals[name] for name in wanted},
                )
                one = torch.ones_like(forward_ad.unpack_dual(loss).primal)
                (found,) = backward(one, retain_graph=False)
                found = [found[name] for name in wanted]
        else:
            loss = loss_at(duals)
            inputs = [leaves[name] for name in wanted]
            found = torch.autograd.grad(loss, inputs, allow_unused=True)
        return forward_ad.unpack_dual(loss).primal.detach(), [
            None if g is None else forward_ad.unpack_dual(g).tangent
            for g in found
        ]


def first_line(error):
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0].rstrip(".")


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
        gradients_at(add_scaled(point, vector, step * sign)) for sign in (1, -1)
    )
    return [(a - b) / (2 * step) for a, b in zip(plus, minus)]


@contextlib.contextmanager
def twice_differentiable(recurrent):
    """Make forward passes in this context twice differentiable.

    Attention runs by plain matrix products, recurrent layers without cuDNN,
    LSTMs without oneDNN. ``recurrent`` is the set of the layers' types.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if any(issubclass(kind, torch.nn.LSTM) for kind in recurrent):
            # Its context manager would set, and warn of, other flags.
            enabled, *_ = torch.backends.mkldnn.set_flags(False)
            stack.callback(torch.backends.mkldnn.set_flags, enabled)
        yield
