"""What the two levels ask of distributed training, and how it ends."""

import contextlib
import gc
import importlib
import os

import torch
from speechbrain.utils.distributed import get_rank


@contextlib.contextmanager
def closing_process_group():
    """Takes down the process group that is started inside, if any.

    One that lives on when Python ends keeps threads of gloo, and may abort a
    process that has done its work. What holds the group, such as a Brain with
    DDP, has to be forgotten inside.

    Example
    -------
    >>> with closing_process_group():
    ...     world_size()
    1
    """
    if "RANK" in os.environ:
        # Imported later, as DDP does, it would hold the group for good.
        importlib.import_module("torch._dynamo")

    try:
        yield
    finally:
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            gc.collect()
            distributed.destroy_process_group()


def rank():
    """This process's rank; 0 outside distributed training.

    Example
    -------
    >>> rank()
    0
    """
    return get_rank() or 0


def world_size():
    """Number of processes; 1 outside distributed training.

    Example
    -------
    >>> world_size()
    1
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def wrap_on_cpu(modules, find_unused_parameters=False):
    """Wraps each module with trainable parameters for DDP on the CPU.

    SpeechBrain makes every BatchNorm a SyncBatchNorm first, which has no CPU
    form; here, each process keeps statistics of its own.

    Arguments
    ---------
    modules : torch.nn.ModuleDict
        The Brain's modules; replaced in place.
    find_unused_parameters : bool
        See ``torch.nn.parallel.DistributedDataParallel``.
    """
    for name, module in modules.items():
        if any(p.requires_grad for p in module.parameters()):
            modules[name] = torch.nn.parallel.DistributedDataParallel(
                module, find_unused_parameters=find_unused_parameters
            )


def average_gradients(parameters):
    """Averages ``.grad`` over all processes, in one message.

    DDP's own reduction expects every parameter in every backward pass; a level
    touches only its own.

    Arguments
    ---------
    parameters : iterable of torch.nn.Parameter
        The same ones, in the same order, on every process.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.ones(2)
    >>> average_gradients([weight])
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    for grad, mean in zip(grads, average(grads)):
        if mean is not grad:
            grad.copy_(mean)


def average(tensors):
    """The means over all processes, in one message.

    Arguments
    ---------
    tensors : list of torch.Tensor
        Of the same shapes on every process.

    Returns
    -------
    list of torch.Tensor

    Example
    -------
    >>> average([torch.ones(2)])
    [tensor([1., 1.])]
    """
    if world_size() == 1 or not tensors:
        return tensors
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(joined)
    joined /= world_size()
    parts = joined.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]


def broadcast_buffers(modules):
    """Gives every process the main one's buffers (BatchNorm statistics), so
    that all of them validate the network that is saved.

    Arguments
    ---------
    modules : torch.nn.Module

    Example
    -------
    >>> broadcast_buffers(torch.nn.BatchNorm1d(2))
    """
    if world_size() > 1:
        for buffer in modules.buffers():
            torch.distributed.broadcast(buffer, src=0)
