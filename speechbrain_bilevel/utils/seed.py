"""Random numbers that depend on the seed and the step only."""

import os
import random

import numpy as np
import torch


def seed_step(*entropy):
    """Seed torch, NumPy and Python from the run's seed and the given numbers.

    Nothing happens unless ``speechbrain.utils.seed.seed_everything`` was
    called.

    Arguments
    ---------
    *entropy : int
        What else the random numbers depend on, e.g. the rank and the step.

    Example
    -------
    >>> os.environ["SB_GLOBAL_SEED"] = "1"
    >>> seed_step(0, 3)
    >>> first = torch.rand(1)
    >>> seed_step(0, 3)
    >>> torch.rand(1) == first
    tensor([True])
    >>> del os.environ["SB_GLOBAL_SEED"]
    """
    seed = os.environ.get("SB_GLOBAL_SEED")
    if seed is None:
        return
    words = np.random.SeedSequence([int(seed), *entropy]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))
