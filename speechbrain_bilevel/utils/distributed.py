"""What two levels ask of distributed training, and how it ends."""

import contextlib
import gc
import importlib
import os

import torch
from speechbrain.utils.distributed import get_rank


@contextlib.contextmanager
def closing_process_group():
    """Take down the process group that is started inside, if any.

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
        if _is_initialized():
            gc.collect()
            torch.distributed.destroy_process_group()


def _is_initialized():
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized()


def rank():
    """This process's rank; 0 outside distributed training."""
    return get_rank() or 0


def world_size():
    """Number of processes; 1 outside distributed training."""
    return torch.distributed.get_world_size() if _is_initialized() else 1


def all_gather(value):
    """A Python object of every process, as a list on every process.

    Example
    -------
    >>> all_gather(3)
    [3]
    """
    values = [value] * world_size()
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def wrap_on_cpu(modules, find_unused_parameters=False):
    """Wrap each module with trainable parameters for DDP on the CPU.

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
    """Average ``.grad`` over all processes, in one message.

    DDP's own reduction expects every parameter in every backward pass; a level
    touches only its own. A parameter that has a gradient on some processes only
    counts as zero on the others; one that has none anywhere keeps None.

    Arguments
    ---------
    parameters : list of torch.nn.Parameter
        The same ones, in the same order, on every process.
    """
    if world_size() == 1 or not parameters:
        return
    device = parameters[0].device
    has_grad = torch.tensor([p.grad is not None for p in parameters])
    has_grad = has_grad.to(device, torch.uint8)
    torch.distributed.all_reduce(has_grad, torch.distributed.ReduceOp.MAX)
    used = [p for p, used in zip(parameters, has_grad.tolist()) if used]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
    for parameter, mean in zip(used, average(grads)):
        parameter.grad = mean


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
    """Give every process the main one's buffers (BatchNorm statistics), so that
    all of them validate the network that is saved.

    Arguments
    ---------
    modules : torch.nn.Module
    """
    if world_size() > 1:
        for buffer in modules.buffers():
            torch.distributed.broadcast(buffer, src=0)
