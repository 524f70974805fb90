"""What a function with a backward pass of its own needs for all derivatives
other than the first, backward one: those are taken of a plain form of it."""

import torch
from torch.autograd import forward_ad


def has_tangent(*tensors):
    """Whether forward-mode differentiation goes through one of the tensors.

    Arguments
    ---------
    *tensors : torch.Tensor

    Returns
    -------
    bool

    Example
    -------
    >>> has_tangent(torch.zeros(1))
    False
    """
    return any(
        forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def again(ctx, function, gradient, *constants):
    """The gradients by a function's tensors, differentiable like the function.

    Arguments
    ---------
    ctx : torch.autograd.function.FunctionCtx
        Has saved these tensors.
    function : callable
        Of them, and of ``constants``.
    gradient : torch.Tensor
        By the function's output.
    *constants
        Its other arguments.

    Returns
    -------
    list of torch.Tensor
        None where no gradient is needed.
    """
    tensors = ctx.saved_tensors
    needed = ctx.needs_input_grad[: len(tensors)]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        output = function(*tensors, *constants)
    inputs = [tensor for tensor, needs in zip(tensors, needed) if needs]
    found = iter(
        torch.autograd.grad(output, inputs, gradient, create_graph=create_graph)
    )
    return [next(found) if needs else None for needs in needed]
