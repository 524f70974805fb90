"""Reading numbers off a GPU without waiting for them."""

import collections
import math

import torch


class LateValues:
    """Hands numbers to functions once they have reached the host.

    To ask a GPU for a loss is to wait until all that it was told to do is done,
    while nothing new reaches it. Here a copy is begun, and its number is looked
    at a step later, when the GPU has its next work.

    Example
    -------
    >>> late = LateValues()
    >>> late.read(torch.tensor(0.5), step=1, function=print)
    tensor(0.5000)
    """

    def __init__(self):
        self.waiting = collections.deque()

    def read(self, value, step, function):
        """Calls a function with a number: at once if it is on the host, or on
        an Apple GPU, which has no events to wait for; else in the next step or
        in ``finish``.

        Arguments
        ---------
        value : torch.Tensor
            A scalar.
        step : int
            When it was computed.
        function : callable
            Takes it, on the CPU.
        """
        value = value.detach()
        if value.is_cpu or value.is_mps:
            function(value.cpu())
            return
        self.finish(before=step)
        self.waiting.append((step, Arriving(value), function))

    def finish(self, before=math.inf):
        """Hands over what was computed before a step, in its order.

        Arguments
        ---------
        before : int
            By default, everything is handed over.
        """
        while self.waiting and self.waiting[0][0] < before:
            _, value, function = self.waiting.popleft()
            function(value.wait())


class Arriving:
    """A scalar on its way from a GPU.

    Arguments
    ---------
    value : torch.Tensor
    """

    def __init__(self, value):
        self.value = torch.empty_like(value, device="cpu", pin_memory=True)
        self.value.copy_(value, non_blocking=True)
        self.copied = torch.cuda.Event()
        self.copied.record()

    def wait(self):
        """The scalar on the CPU."""
        self.copied.synchronize()
        return self.value
