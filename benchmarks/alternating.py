#!/usr/bin/env python3
"""Time the bi-level step of ``Alternating`` against its bound, on V2.

> python benchmarks/alternating.py

Prints a table. The bound is the same two backward passes and optimizer steps in
plain PyTorch, with nothing around them: forward and backward without the mel
encoder, and forward, backward through activations and the encoder's weights. It
is what ``Alternating`` cannot be faster than. Every row is timed in turns with
it, in a process of its own.
"""

import argparse
import json
import statistics

import libraries
import torch
from measure import KEEP, apart, in_turns, quartiles, ratio, table, target
from problems import SmallV2Problem, V2Problem
from tqdm import tqdm

PROBLEMS = {"V2": V2Problem, "V2-small": SmallV2Problem}
STEPS = {
    "two plain steps": libraries.plain,
    "`Alternating`": libraries.ours("Alternating"),
    "`Alternating`, compiled": libraries.ours("Alternating", compile=True),
}


def measure(problem, name, rounds):
    """Seconds of the bound's steps and of a row's."""
    make = PROBLEMS[problem]
    steps = {
        "bound": libraries.bare(make("cpu"))[0],
        name: STEPS[name](make("cpu"))[0],
    }
    # The second step is the first with an optimizer's state.
    for step in steps.values():
        step()
    return in_turns(steps, rounds, show=False)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*arguments.row, arguments.rounds)))
        return
    wanted = [
        (problem, name)
        for problem in PROBLEMS
        for name in STEPS
        if problem == "V2-small" or "compiled" not in name
    ]
    rows = []
    for problem, name in tqdm(wanted, "rows"):
        ratios, seconds = [], []
        for _ in range(arguments.processes):
            words = ["--row", problem, name, "--rounds", arguments.rounds]
            found = apart(__file__, *words, **KEEP)
            if isinstance(found, str):
                raise SystemExit(f"{problem}, {name}: {found}")
            seconds += found[name]
            ratios.append(ratio(found[name], found["bound"]))
        middle = statistics.median(ratios)
        verdict = (f"{middle:.2f}", "-", "")
        if name == "`Alternating`":
            verdict = target(middle, 1.05, at_least=False)
        rows.append([f"{problem}, {name}", quartiles(seconds), *verdict])

    print(f"{torch.get_num_threads()} threads\n")
    table(("step", "seconds", "/ bound", "target", ""), rows)


if __name__ == "__main__":
    main()
