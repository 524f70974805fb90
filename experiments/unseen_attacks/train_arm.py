#!/usr/bin/env python3
"""One run of ``unseen_attacks.py``: the recipe's train.py, with its backward
passes counted.

> python benchmarks/unseen_run.py OUTPUT train.yaml --data_folder LA ...
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from speechbrain_bilevel.utils.files import write_atomically

RECIPE = Path(__file__).resolve().parents[1] / "recipes/ASVspoof2019/LA"
sys.path.insert(0, str(RECIPE))


class Count:
    """Counts the calls of a function, or its own."""

    def __init__(self, function=lambda *args: None):
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


def main():
    """Trains, scores, and writes run.json when all is done."""
    output, yaml, *words = sys.argv[1:]
    import train

    passes = Count(torch.autograd._engine_run_backward)
    torch.autograd._engine_run_backward = passes
    steps = Count()
    register_optimizer_step_post_hook(steps)
    sys.argv = ["train.py", yaml, *words, "--output_folder", output]
    start = time.perf_counter()
    train.main()
    result = {
        "words": words,
        "passes": passes.calls,
        "steps": steps.calls,
        "seconds": time.perf_counter() - start,
    }
    write_atomically(Path(output), {"run.json": json.dumps(result)})


if __name__ == "__main__":
    main()
