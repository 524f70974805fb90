#!/usr/bin/env python3
"""Times AASIST and AASIST-L without gradients on noise of 4 s.

> python benchmarks/aasist.py
> python benchmarks/aasist.py --rounds 31 --batch-sizes 1 8 32

Prints a table. Rows are timed in turns, so that a change of the machine's speed
meets all; the yardstick is ``plain_aasist.py`` on the same batch, with the same
parameters. Their logits are compared before.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from plain_aasist import PlainAASIST
from tqdm import tqdm

from speechbrain_bilevel.hub.published import PUBLISHED
from speechbrain_bilevel.lobes.aasist import AASIST

SIZES = {name: PUBLISHED[name.lower()].sizes for name in ("AASIST", "AASIST-L")}


def networks(sizes):
    """The yardstick and ours, with equal parameters."""
    plain, ours = PlainAASIST(**sizes).eval(), AASIST(**sizes).eval()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def pairs(batch_sizes):
    """What is timed: by network and batch size, the yardstick and ours."""
    torch.manual_seed(0)
    result = {}
    for name, sizes in SIZES.items():
        both = networks(sizes)
        for batch_size in batch_sizes:
            wavs = 0.05 * torch.randn(batch_size, both[0].samples)
            torch.testing.assert_close(*(network(wavs) for network in both))
            result[name, batch_size] = [
                lambda network=network, wavs=wavs: network(wavs)
                for network in both
            ]
    return result


def timed(function):
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def speeds(batch_size, seconds):
    """Clips a second, as text: median and quartiles."""
    slow, median, fast = (
        batch_size / x for x in reversed(statistics.quantiles(seconds, n=4))
    )
    return f"{median:.2f} ({slow:.2f}-{fast:.2f})"


@torch.inference_mode()
def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    functions = pairs(arguments.batch_sizes)
    seconds = {key: ([], []) for key in functions}
    for _ in tqdm(range(arguments.rounds), "rounds"):
        for key, both in functions.items():
            for values, function in zip(seconds[key], both):
                values.append(timed(function))

    print(f"{torch.get_num_threads()} threads\n")
    print("Clips a second: median (quartiles)\n")
    print("| | batch size | plain | ours | ours / plain |")
    print("|---|---|---|---|---|")
    for (name, batch_size), (plain, ours) in seconds.items():
        ratio = statistics.median(np.array(plain) / np.array(ours))
        print(
            f"| {name} | {batch_size} | {speeds(batch_size, plain)} "
            f"| {speeds(batch_size, ours)} | {ratio:.1f} |"
        )


if __name__ == "__main__":
    main()
