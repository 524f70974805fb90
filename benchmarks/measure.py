"""Shared by the benchmarks: timing in turns, peak memory, rows with targets."""

import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

# glibc gives freed memory back to the system and takes it again, page by page,
# in some rows' steps and not in others'.
KEEP = {
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TOP_PAD_": str(2**26),
}


def timed(function):
    """Seconds that a call takes, until the GPU has done what it asked for."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def synchronize():
    """Wait for the GPU, if one is used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def in_turns(functions, rounds, show=True):
    """Seconds of each call of each function, called in turns, so that a change
    of the machine's speed meets all; a first call of each does not count."""
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in tqdm(range(rounds), "rounds", disable=not show):
        for name, function in functions.items():
            seconds[name].append(timed(function))
    return seconds


def ratio(slow, fast):
    """The median, over rounds, of what one took by what another took."""
    return statistics.median(a / b for a, b in zip(slow, fast))


def quartiles(values, shape="{:.2f}"):
    """Median and quartiles as text."""
    low, middle, high = (
        shape.format(x) for x in statistics.quantiles(values, n=4)
    )
    return f"{middle} ({low}-{high})"


def target(measured, bound, at_least=True, shape="{:.2f}"):
    """Measured, target, met or not: the cells of a row."""
    met = measured >= bound if at_least else measured <= bound
    sign = "≥" if at_least else "≤"
    cells = shape.format(measured), f"{sign} {shape.format(bound)}"
    return *cells, "met" if met else "**not met**"


def table_text(heads, rows):
    """A table in Markdown."""
    lines = heads, ["---"] * len(heads), *rows
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def table(heads, rows):
    """Print a table in Markdown."""
    print(table_text(heads, rows))


def apart(file, *arguments, **environment):
    """What ``file`` prints last, as JSON, run in a process of its own; a text
    where that did not work."""
    done = subprocess.run(
        [sys.executable, file, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    lines = (done.stderr if done.returncode else done.stdout).splitlines()
    if done.returncode:
        return "failed: " + (lines[-1] if lines else str(done.returncode))
    return json.loads(lines[-1])


def peak_memory(function):
    """The bytes that a call needs at most beside what is there before it, of
    the GPU if one is used; else None elsewhere than on Linux."""
    release_memory()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with contextlib.suppress(OSError):
        # Let the high-water mark start again.
        Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    function()
    after = resident("VmHWM")
    return after and after - before


def release_memory():
    """Give freed memory back to the system."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    pyarrow.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident(key):
    """A figure of the kernel's on this process, in bytes; None elsewhere than
    on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return 1024 * int(line.split()[1])
    return None


def matrix_peak(device="cpu", dtype=torch.float32):
    """Operations a second of a large matrix product, the machine's bound."""
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = in_turns({"product": lambda: a @ b}, 9, show=False)["product"]
    return 2 * size**3 / min(seconds)


def bandwidth(device="cpu"):
    """Bytes a second that are read or written when large tensors are added."""
    a, b, c = torch.ones(3, 2**25 if device == "cpu" else 2**28, device=device)
    add = {"add": lambda: torch.add(a, b, out=c)}
    seconds = in_turns(add, 9, show=False)["add"]
    return 3 * a.nbytes / min(seconds)


def operations(function):
    """Of the matrix products and convolutions of a call, as torch counts."""
    # Under a dispatch mode, the compiler gives code up for good.
    eager = torch.compiler.set_stance("force_eager")
    with eager, FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
