"""Dropout whose random numbers do not take longer than the layers around it."""

import torch


class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout``, on a CPU from 16 random bits an element.

    There, torch's own takes longer than the attention that it drops out, and
    keeps its mask as floats. The probability is rounded to a multiple of
    2 ** -16, and what is left is scaled by what it was rounded to.

    Arguments
    ---------
    p : float
        Probability of an element to be zeroed.

    Example
    -------
    >>> out = Dropout(0.25)(torch.ones(100, 100))
    >>> out.unique()
    tensor([0.0000, 1.3333])
    >>> 0.2 < (out == 0).float().mean() < 0.3
    tensor(True)
    """

    def __init__(self, p=0.5):
        super().__init__(p)

    def forward(self, x):
        """Zeroes elements of ``x`` in training, and scales the others."""
        dropped = round(self.p * 2**16)
        ours = x.is_cpu and not torch.compiler.is_compiling()
        if not ours or not self.training or dropped in (0, 2**16):
            return super().forward(x)
        size = x.numel()
        numbers = torch.empty(-(-size // 4), dtype=torch.int64)
        # All 64 bits; without bounds, the highest would be 0.
        numbers.random_(-(2**63), None)
        numbers = numbers.view(torch.int16)[:size].view(x.shape)
        kept = numbers >= dropped - 2**15
        return torch.where(kept, x, 0).mul_(2**16 / (2**16 - dropped))
