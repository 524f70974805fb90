"""Distributed training with two levels, and its end."""

import contextlib
import gc
import importlib
import os
import re

import torch

from speechbrain_bilevel.utils.errors import InputError


@contextlib.contextmanager
def closing_process_group():
    """Destroy the process group that is started inside, if any.

    If it still exists when Python ends, threads of gloo do too, and they may
    abort a process that has finished. Objects that hold the group, such as a
    Brain with DDP, must be released inside.
    """
    if "RANK" in os.environ:
        # If imported later, as by DDP, it would hold the group for good.
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


def local_device(name=None):
    """Return the name of a device of this process; by default, of the fastest.

    Raise an ``InputError`` if it does not exist.
    """
    if name is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        name = str(found or "cpu")
    # torch itself takes cuda:300 for cuda:44.
    if found := re.fullmatch(r"cuda(?::(\d+))?", name):
        index = int(found[1] or os.environ.get("LOCAL_RANK") or 0)
        if index >= torch.cuda.device_count():
            raise InputError(
                f"--device {name}: there is no GPU {index}, counted from 0, of "
                f"{torch.cuda.device_count()} that can be used; give another, "
                "or start fewer processes"
            )
        return f"cuda:{index}"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, NotImplementedError, AssertionError):
        raise InputError(
            f"--device {name}: no device; expected cpu, cuda or cuda:N"
        ) from None
    return name


def rank():
    """Return this process's rank; 0 outside distributed training."""
    # SpeechBrain takes as long to import as torch.
    from speechbrain.utils.distributed import get_rank

    return get_rank() or 0


def world_size():
    """Return the number of processes; 1 outside distributed training."""
    return torch.distributed.get_world_size() if _is_initialized() else 1


def all_gather(value):
    """Return a Python object of every process, as a list, on every process."""
    values = [value] * world_size()
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def wrap_on_cpu(modules, find_unused_parameters=False):
    """Wrap each module that has trainable parameters, in place, for DDP on CPU.

    SpeechBrain would first make every BatchNorm a SyncBatchNorm, which has no
    CPU form; here, each process keeps its own statistics.
    """
    for name, module in modules.items():
        if any(p.requires_grad for p in module.parameters()):
            modules[name] = torch.nn.parallel.DistributedDataParallel(
                module, find_unused_parameters=find_unused_parameters
            )


def average_gradients(parameters):
    """Average ``.grad`` over all processes, in one message.

    DDP's own reduction expects every parameter in every backward pass; a level
    uses only its own. A gradient that some processes lack is zero there; one
    that all lack remains None. ``parameters`` must be the same, in the same
    order, on every process.
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
    """Return the means of tensors over all processes, in one message.

    Their shapes must be the same on every process.
    """
    if world_size() == 1 or not tensors:
        return tensors
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(joined)
    joined /= world_size()
    parts = joined.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]


def broadcast_buffers(modules):
    """Give every process the buffers (BatchNorm statistics) of the main one.

    So all processes validate the network that is saved.
    """
    if world_size() > 1:
        for buffer in modules.buffers():
            torch.distributed.broadcast(buffer, src=0)
