"""Learning rate schedules, as factors of the optimizer's own rate.

Each returns torch's ``LambdaLR``, whose state SpeechBrain's Checkpointer saves.
"""

import math

from torch.optim.lr_scheduler import LambdaLR


def noam(optimizer, model_size, warmup):
    """Rise linearly for ``warmup`` steps, then fall with the inverse root.

    Vaswani et al., "Attention Is All You Need", 2017. The first two steps have
    the same rate, as in the published training of V2.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Its rate is multiplied by the schedule.
    model_size : int
        Size of a token; the peak factor is ``(model_size * warmup) ** -0.5``.
    warmup : int
        Steps until the peak.

    Returns
    -------
    torch.optim.lr_scheduler.LambdaLR

    Example
    -------
    >>> import torch
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> noam(sgd, model_size=4, warmup=100).get_last_lr()
    [0.0005]
    """

    def factor(step):
        step = max(step, 1)
        return model_size**-0.5 * min(step**-0.5, step * warmup**-1.5)

    return LambdaLR(optimizer, factor)


def warmup_cosine(optimizer, steps, warmup=0.04, stay_at_zero=True):
    """Rise linearly from zero, then fall to zero along half a cosine.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Its rate is multiplied by the schedule.
    steps : int
        Steps until zero.
    warmup : float
        Fraction of ``steps`` in which the rate rises.
    stay_at_zero : bool
        Whether the rate stays zero after ``steps``. Otherwise it follows the
        cosine and rises again, as in the published training of V2.

    Returns
    -------
    torch.optim.lr_scheduler.LambdaLR

    Example
    -------
    >>> import torch
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> warmup_cosine(sgd, steps=100).get_last_lr()
    [0.0]
    """
    rising = int(warmup * steps)

    def factor(step):
        if step < rising:
            return step / rising
        progress = (step - rising) / max(1, steps - rising)
        if stay_at_zero:
            progress = min(1.0, progress)
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def inverse_power(optimizer, power=0.6):
    """Fall with a power of the number of steps, (step + 2) ** -power.

    For stepwise EM, ``nnet.gmm.EM``, which converges with a ``power`` above 0.5
    and up to 1: Liang and Klein, "Online EM for unsupervised models", 2009.

    Arguments
    ---------
    optimizer : torch.optim.Optimizer
        Its rate is multiplied by the schedule.
    power : float

    Returns
    -------
    torch.optim.lr_scheduler.LambdaLR

    Example
    -------
    >>> import torch
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> inverse_power(sgd, power=1.0).get_last_lr()
    [0.5]
    """
    return LambdaLR(optimizer, lambda step: (step + 2) ** -power)
