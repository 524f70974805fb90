#!/usr/bin/env python3
"""Run the benchmarks and put their tables into docs/performance.md.

> python benchmarks/run_all.py                # make bench
> python benchmarks/run_all.py reading memory

Each table is printed when it is there; docs/performance.md is written at the
end, if all benchmarks were run and none failed. Of those with targets, the rows
are gathered in a table at the top.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import table_text

from speechbrain_bilevel.utils.files import write_atomically

BENCHMARKS = {
    "bound": "What the networks cannot do without",
    "v2": "V2 against a plain transcription",
    "reference": "AASIST and others against plain transcriptions",
    "kernels": "V2's own CPU code against torch's",
    "engines": "Finished detectors by each engine",
    "alternating": "The bi-level step against its bound",
    "reading": "Reading clips",
    "scaling": "Two processes, and a run that was killed",
    "memory": "Memory for millions of trials",
    "metrics": "Metrics",
    "hypergradients": "Strategies against other libraries",
}
HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"


def machine():
    """The machine, in words."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    has_gpu = torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if has_gpu else "no GPU"
    return (
        f"{model}, {os.cpu_count()} cores "
        f"({torch.backends.cpu.get_cpu_capability()}), {memory:.0f} GiB; "
        f"{gpu}. Python {platform.python_version()}, torch "
        f"{torch.__version__.partition('+')[0]}"
    )


def run(name):
    """What a benchmark prints, and whether it worked."""
    script = HERE / f"{name}.py"
    done = subprocess.run(
        [sys.executable, script], stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip(), done.returncode == 0


def rows_with_targets(text):
    """What was measured, the target and whether it was met, of each row of a
    table that says so."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if cells[-1].strip("*") in ("met", "not met"):
            yield cells[0], *cells[-3:]


def main():
    """Run them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    start, parts, targets, failed = time.time(), [], [], []
    for name in names:
        text, worked = run(name)
        heading = f"### {BENCHMARKS[name]}\n\n`python benchmarks/{name}.py`"
        parts.append(f"{heading}\n\n{text}")
        print(parts[-1], end="\n\n", flush=True)
        targets += rows_with_targets(text)
        if not worked:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    if names != list(BENCHMARKS):
        return
    minutes = (time.time() - start) / 60
    head = (
        f"Taken on {datetime.date.today()} by one `make bench` in "
        f"{minutes:.0f} minutes, on: {machine()}."
    )
    rows = table_text(("", "measured", "target", ""), targets)
    written = "\n\n".join([BEGIN, head, rows, *parts, END])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    write_atomically(PAGE.parent, {PAGE.name: before + written + after})
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
