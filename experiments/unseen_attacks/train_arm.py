#!/usr/bin/env python3
"""One run of ``run.py``: the recipe's train.py, its backward passes counted.

> python train_arm.py OUTPUT arm.yaml
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from speechbrain_bilevel.utils.files import write_atomically

RECIPE = Path(__file__).resolve().parents[2] / "recipes/ASVspoof2019/LA"
sys.path.insert(0, str(RECIPE))


class Count:
    """Count the calls of a function, or its own."""

    def __init__(self, function=lambda *args: None):
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


def main():
    """Train, score, and write run.json when all is done."""
    output, yaml = sys.argv[1:]
    import train

    passes = Count(torch.autograd._engine_run_backward)
    torch.autograd._engine_run_backward = passes
    steps = Count()
    register_optimizer_step_post_hook(steps)
    words = ["--output_folder", output, "--device", "cpu", "--noprogressbar"]
    sys.argv = ["train.py", yaml, *words]
    start = time.perf_counter()
    train.main()
    result = {
        "passes": passes.calls,
        "steps": steps.calls,
        "seconds": time.perf_counter() - start,
    }
    write_atomically(Path(output), {"run.json": json.dumps(result)})


if __name__ == "__main__":
    main()
