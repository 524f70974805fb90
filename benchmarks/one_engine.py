#!/usr/bin/env python3
"""Time one engine on one detector, for ``engines.py``.

> python benchmarks/one_engine.py "openvino int8" FOLDER

Prints the seconds of a batch by its size, and the memory of the process at
most, as JSON. torch is imported by what needs it only.
"""

import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

BATCHES = 1, 8


def forward(what, folder):
    """Return a function of a batch, by what a column of the table says."""
    engine, _, precision = what.partition(" ")
    if engine in ("onnxruntime", "openvino"):
        from speechbrain_bilevel.inference.engines import open_detector

        return open_detector(folder, engine, precision=precision).run
    import torch

    # An earlier build has no engines.
    from speechbrain_bilevel.inference.pretrained import load

    torch.set_grad_enabled(False)
    _, network = load(folder / "config.json", folder / "model.safetensors")
    if what == "plain":
        from plain_aasist import PlainAASIST
        from plain_v2 import PlainV2

        plain = {"AASIST": PlainAASIST, "V2": PlainV2}[type(network).__name__]
        weights = network.state_dict()
        sizes = {k: v for k, v in network.sizes.items() if k != "num_classes"}
        network = plain(**sizes).eval()
        network.load_state_dict(weights)
    return lambda wavs: network(torch.from_numpy(wavs)).numpy()


def peak():
    """Bytes of memory of this process at most; None elsewhere than on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    return None


def main():
    """Print the figures."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    run, rng = forward(what, folder), np.random.default_rng(0)
    sizes = json.loads((folder / "config.json").read_text())["sizes"]
    found = {}
    for batch in BATCHES:
        shape = batch, sizes["num_samples"]
        wavs = (0.05 * rng.standard_normal(shape)).astype(np.float32)
        run(wavs)
        seconds, end = [], time.monotonic() + 2.5
        while len(seconds) < 5 or time.monotonic() < end:
            start = time.perf_counter()
            run(wavs)
            seconds.append(time.perf_counter() - start)
        found[batch] = statistics.median(seconds)
    print(json.dumps({**found, "memory": peak()}))


if __name__ == "__main__":
    main()
