#!/usr/bin/env python3
"""Time V2 against its plain transcription: forward, training step, memory.

> python benchmarks/v2.py
> python benchmarks/v2.py --processes 9 --batch-sizes 1 64

Prints a table. The yardstick is ``plain_v2.py`` on the same noise with the same
parameters; logits and gradients are compared before. Both are timed in turns,
in several processes: from one to another, where a network's memory lies in the
processor's cache may cost a third. A training step is forward, backward and
Adam, with dropout. The bound is what matrix products and convolutions would
take at the speed of a large matrix product.
"""

import argparse
import functools
import json
import statistics

import torch
from measure import (
    apart,
    bandwidth,
    in_turns,
    matrix_peak,
    operations,
    peak_memory,
    ratio,
    table,
    target,
)
from plain_v2 import PlainV2
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from speechbrain_bilevel.lobes.v2 import V2

NETWORKS = {"plain": PlainV2, "ours": V2}
TRAINED = 32


def networks(**sizes):
    """The yardstick and ours, with equal parameters."""
    torch.manual_seed(0)
    plain, ours = (network(**sizes) for network in NETWORKS.values())
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def noise(batch_size, samples=64600, device="cpu"):
    """Waveforms and labels."""
    generator = torch.Generator().manual_seed(0)
    wavs = 0.05 * torch.randn(batch_size, samples, generator=generator)
    return wavs.to(device), torch.arange(batch_size, device=device) % 2


def check_equality():
    """Compare logits and gradients, without dropout, in double precision."""
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


def measure_forward(batch_size, rounds):
    """Seconds of both networks' calls, and operations of ours."""
    wavs, _ = noise(batch_size)
    with torch.no_grad():
        calls = {
            name: functools.partial(network.eval(), wavs)
            for name, network in zip(NETWORKS, networks())
        }
        seconds = in_turns(calls, rounds, show=False)
        return seconds, operations(calls["ours"])


def measure_training(rounds):
    """Seconds of both networks' training steps, and operations of ours."""
    steps = dict(zip(NETWORKS, map(training_step, networks())))
    seconds = in_turns(steps, rounds, show=False)
    return seconds, operations(steps["ours"])


def measure_memory(name):
    """Bytes that two steps need at most."""
    step = training_step(NETWORKS[name]())
    return peak_memory(lambda: [step(), step()])


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = [1, 16, TRAINED]
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        what, *values = arguments.only
        values = [int(v) if v.isdigit() else v for v in values]
        print(json.dumps(globals()[f"measure_{what}"](*values)))
        return

    check_equality()
    peak, rounds = matrix_peak(), arguments.rounds
    # Name, what to measure, at least how much faster.
    wanted = [
        (
            f"V2, forward, batch of {n}",
            ["forward", n, rounds],
            2.0 if n == TRAINED else None,
        )
        for n in arguments.batch_sizes
    ]
    name = f"V2, training step, {TRAINED} clips"
    wanted.append((name, ["training", rounds], 1.8))
    rows = []
    for name, words, least in tqdm(wanted, "rows"):
        found = [
            apart(__file__, "--only", *words)
            for _ in range(arguments.processes)
        ]
        if any(isinstance(of_process, str) for of_process in found):
            raise SystemExit(f"{name}: {found}")
        rows.append(row(name, found, peak, least))
    plain, ours = (
        apart(__file__, "--only", "memory", name) for name in NETWORKS
    )
    cells = f"{plain / 1e9:.2f} GB", f"{ours / 1e9:.2f} GB", "-"
    verdict = target(ours / plain, 0.6, at_least=False)
    rows.append(["V2, peak memory of a training step", *cells, *verdict])

    threads, memory = torch.get_num_threads(), bandwidth() / 1e9
    print(f"{threads} threads, {peak / 1e9:.0f} GFLOPS, {memory:.0f} GB/s\n")
    heads = "", "plain", "ours", "bound", "ratio", "target", ""
    table(heads, rows)


def row(name, found, peak, least):
    """A row of the table: medians over processes, and their range."""
    ratios = [ratio(s["plain"], s["ours"]) for s, _ in found]
    middle = statistics.median(ratios)
    verdict = target(middle, least) if least else (f"{middle:.2f}", "-", "")
    verdict = [
        f"{verdict[0]} ({min(ratios):.2f}-{max(ratios):.2f})",
        *verdict[1:],
    ]
    plain, ours = (
        statistics.median(t for s, _ in found for t in s[network])
        for network in NETWORKS
    )
    bound = found[0][1] / peak
    return [name, f"{plain:.2f} s", f"{ours:.2f} s", f"{bound:.2f} s", *verdict]


if __name__ == "__main__":
    main()
