#!/usr/bin/env python3
"""A recorded run: the recipe's train.py, measured.

> python train_one.py OUTPUT YAML DEVICE
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from speechbrain_bilevel.utils.files import write_atomically

RECIPE = Path(__file__).resolve().parents[1] / "recipes/ASVspoof2019/LA"
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
    output, yaml, device = sys.argv[1:]
    import train

    passes = Count(torch.autograd._engine_run_backward)
    torch.autograd._engine_run_backward = passes
    steps = Count()
    register_optimizer_step_post_hook(steps)
    fit, result = train.SpoofBrain.fit, {}

    def noted(brain, *args, **kwargs):
        network = brain.hparams.network
        result["parameters"] = sum(p.numel() for p in network.parameters())
        start = time.process_time()
        fit(brain, *args, **kwargs)
        # Of all cores, whatever else they did.
        result["training_seconds"] = time.process_time() - start

    train.SpoofBrain.fit = noted
    words = ["--output_folder", output, "--device", device, "--noprogressbar"]
    sys.argv = ["train.py", yaml, *words]
    start = time.perf_counter()
    train.main()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result["memory"] = 1024 * usage.ru_maxrss
    result["seconds"] = time.perf_counter() - start
    result |= {"passes": passes.calls, "steps": steps.calls}
    write_atomically(Path(output), {"run.json": json.dumps(result)})


if __name__ == "__main__":
    main()
