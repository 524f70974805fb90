"""Random numbers that a step can draw again."""

import os
import random

import numpy as np
import torch


def seed_step(*entropy):
    """Seeds all generators from the run's seed and the given numbers.

    Does nothing unless ``speechbrain.utils.seed.seed_everything`` was called.

    Arguments
    ---------
    *entropy : int
        What else the numbers shall depend on, e.g. process and step.

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


class RandomState:
    """The generators as they are now: torch (CPU and CUDA), numpy, Python.

    Used as a context, what is drawn within repeats what was drawn since then,
    and the generators are left as they were found.

    Example
    -------
    >>> state = RandomState()
    >>> mask = torch.rand(2)
    >>> with state:
    ...     again = torch.rand(2)
    >>> torch.equal(mask, again)
    True
    """

    def __init__(self):
        self.states = self._read()

    @staticmethod
    def _read():
        cuda = torch.cuda.is_initialized()
        return (
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if cuda else None,
            np.random.get_state(),
            random.getstate(),
        )

    @staticmethod
    def _write(states):
        cpu, cuda, of_numpy, of_python = states
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        np.random.set_state(of_numpy)
        random.setstate(of_python)

    def __enter__(self):
        self.found = self._read()
        self._write(self.states)

    def __exit__(self, *error):
        self._write(self.found)
