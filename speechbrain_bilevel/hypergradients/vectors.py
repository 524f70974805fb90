"""Flat vectors: what a strategy calculates with.

The gradients of a level are one vector; its parameters remain a list of
tensors, as the network wants them.
"""

import torch


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
