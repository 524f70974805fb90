#!/usr/bin/env python3
"""One run of ``run.py``: the recipe's train.py, its training timed.

> python train_one.py YAML --output_folder OUTPUT ...
"""

import json
import resource
import sys
import time
from pathlib import Path

from speechbrain_bilevel.utils.files import write_atomically

RECIPE = Path(__file__).resolve().parents[2] / "recipes/ASVspoof2019/LA"
sys.path.insert(0, str(RECIPE))


def main():
    """Train, score, and write run.json when all is done."""
    import train

    fit, result = train.SpoofBrain.fit, {}

    def timed(brain, *args, **kwargs):
        parameters = brain.hparams.network.parameters()
        result["parameters"] = sum(p.numel() for p in parameters)
        start = time.perf_counter()
        fit(brain, *args, **kwargs)
        result["seconds"] = time.perf_counter() - start

    train.SpoofBrain.fit = timed
    train.main()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result["memory"] = 1024 * usage.ru_maxrss
    output = sys.argv[sys.argv.index("--output_folder") + 1]
    write_atomically(Path(output), {"run.json": json.dumps(result)})


if __name__ == "__main__":
    main()
