"""State dicts with the names and shapes of the published AASIST, and numbers
that are made up by a fixed recipe.

``tests/data/aasist.npz`` has what the network makes of them, for a clone
without the published weights. It was computed by this package's network when
its outputs, with the published weights, were those of the published network to
1e-5; so it shows whether ours is still that network, its names included.
"""

import json

import numpy as np
import torch

NUM_SAMPLES = 64600


def made_up_state(shapes):
    """A published state dict, in double precision.

    Arguments
    ---------
    shapes : str
        JSON, [name, shape] of each tensor in the order of the published file.

    Returns
    -------
    dict of str to torch.Tensor
    """
    random = np.random.RandomState(0)
    state = {}
    for name, shape in json.loads(shapes):
        values = random.standard_normal(shape)
        if name.endswith("running_var"):
            values = 1 + values**2 / 4
        elif len(shape) > 1:
            # Of the numbers that are summed up for one.
            values /= np.sqrt(max(np.prod(shape[1:]), shape[0]))
        else:
            values = values / 4 + ("bn" in name and "weight" in name)
        state[name] = torch.tensor(values)
    return state


def made_up_waveforms(count):
    """[count, NUM_SAMPLES], harmonics and noise."""
    random = np.random.RandomState(1)
    time = np.arange(NUM_SAMPLES) / 16000
    wavs = []
    for _ in range(count):
        pitch = random.uniform(80, 280)
        phases = random.uniform(0, 2 * np.pi, 20)
        wav = sum(
            np.sin(2 * np.pi * n * pitch * time + phase) / n
            for n, phase in enumerate(phases, start=1)
        )
        fade = 1 + np.sin(2 * np.pi * random.uniform(1, 5) * time)
        wavs.append(fade * wav / 10 + random.standard_normal(len(time)) / 100)
    return torch.tensor(np.array(wavs))
