#!/usr/bin/env python3
"""Times V2 against its plain transcription: forward, training step, memory.

> python benchmarks/v2.py
> python benchmarks/v2.py --rounds 15 --batch-sizes 1 64

Prints a table. Rows are timed in turns; the yardstick is ``plain_v2.py`` on the
same noise with the same parameters, and logits and gradients are compared
before. A training step is forward, backward and Adam, with dropout.
"""

import argparse
import functools
import json
import statistics

import torch
from measure import (
    apart,
    in_turns,
    matrix_peak,
    peak_memory,
    ratio,
    table,
    target,
)
from plain_v2 import PlainV2
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from speechbrain_bilevel.lobes.v2 import V2

NETWORKS = {"plain": PlainV2, "ours": V2}
TRAINED = 32


def networks(**sizes):
    """The yardstick and ours, with equal parameters."""
    torch.manual_seed(0)
    plain, ours = (network(**sizes) for network in NETWORKS.values())
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def noise(batch_size):
    """Waveforms and labels."""
    generator = torch.Generator().manual_seed(0)
    wavs = 0.05 * torch.randn(batch_size, 64600, generator=generator)
    return wavs, torch.arange(batch_size) % 2


def check_equality():
    """Compares logits and gradients, without dropout, in double precision."""
    plain, ours = (network.double() for network in networks(dropout=0.0))
    wavs, labels = noise(2)
    wavs, found = wavs.double(), []
    for network in (plain, ours):
        logits = network(wavs)
        cross_entropy(logits, labels).backward()
        found.append([logits, *(p.grad for p in network.parameters())])
    names = ["logits", *(name for name, _ in plain.named_parameters())]
    assert [n for n, _ in ours.named_parameters()] == names[1:]
    for name, *both in zip(names, *found):
        worst = (both[0] - both[1]).abs().max() / both[0].abs().max()
        # What no output depends on, such as the bias of a key, is rounding.
        tiny = both[0].abs().max() < 1e-12
        assert tiny or worst < 1e-6, f"{name}: {worst:.1e}"


def training_step(network):
    """A function that makes a step with ``TRAINED`` clips."""
    wavs, labels = noise(TRAINED)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step():
        cross_entropy(network(wavs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def operations(function):
    """Of the matrix products and convolutions of a call, as torch counts."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = [1, 16, TRAINED]
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=NETWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        step = training_step(NETWORKS[arguments.memory]())
        print(json.dumps(peak_memory(lambda: [step(), step()])))
        return

    check_equality()
    rows, both = [], networks()
    gflops = matrix_peak() / 1e9
    for batch_size in arguments.batch_sizes:
        wavs, _ = noise(batch_size)
        with torch.inference_mode():
            calls = {
                name: functools.partial(network.eval(), wavs)
                for name, network in zip(NETWORKS, both)
            }
            seconds = in_turns(calls, arguments.rounds)
            bound = operations(calls["ours"]) / gflops / 1e9
        rows.append(
            row(
                f"forward, batch of {batch_size}",
                seconds,
                bound,
                2.0 if batch_size == TRAINED else None,
            )
        )
    steps = dict(zip(NETWORKS, map(training_step, both)))
    seconds = in_turns(steps, arguments.rounds)
    bound = operations(steps["ours"]) / gflops / 1e9
    rows.append(row(f"training step, {TRAINED} clips", seconds, bound, 1.8))
    plain, ours = (apart(__file__, "--memory", name) for name in NETWORKS)
    cells = f"{plain / 1e9:.2f} GB", f"{ours / 1e9:.2f} GB", "-"
    verdict = target(ours / plain, 0.6, at_least=False)
    rows.append(["peak memory of a training step", *cells, *verdict])

    print(f"{torch.get_num_threads()} threads, {gflops:.0f} GFLOPS at most\n")
    heads = "V2", "plain", "ours", "bound", "ratio", "target", ""
    table(heads, rows)


def row(name, seconds, bound, least):
    """A row of the table; medians."""
    faster = ratio(seconds["plain"], seconds["ours"])
    verdict = target(faster, least) if least else (f"{faster:.2f}", "-", "")
    medians = (f"{statistics.median(s):.2f} s" for s in seconds.values())
    return [name, *medians, f"{bound:.2f} s", *verdict]


if __name__ == "__main__":
    main()
