"""Random numbers that depend only on the seed and the step."""

import os
import random

import numpy as np
import torch


def seed_step(*entropy):
    """Seed torch, NumPy and Python from the run's seed and integers.

    These are e.g. the rank and the step. Nothing happens unless SpeechBrain's
    ``seed_everything`` was called.
    """
    seed = os.environ.get("SB_GLOBAL_SEED")
    if seed is None:
        return
    words = np.random.SeedSequence([int(seed), *entropy]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))
