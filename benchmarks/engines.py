#!/usr/bin/env python3
"""Time finished detectors by each engine, and how soon they start.

> python benchmarks/engines.py
> python benchmarks/engines.py --before CHECKOUT     # beside an earlier build
> python benchmarks/engines.py --compare FOLDER --source DETECTOR

The last compares the engines' scores of 71,237 crops of recordings.

Prints tables: clips of 4 s a second (MelCNN: 2 s) for batches of 1 and 8, alone
and beside a busy process, the memory at most, and the seconds from nothing to
the verdict of ``classify`` on a file. Each figure is of a process of its own
(``one_engine.py``), since the threads of one engine wait at the cost of the
other's. The yardsticks are ``plain_aasist.py`` and ``plain_v2.py``; weights are
random, the input is noise.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from measure import (
    apart,
    matrix_peak,
    operations,
    ratio,
    table,
    target,
    timed,
)
from tqdm import tqdm

ONE = Path(__file__).with_name("one_engine.py")
NETWORKS = {
    "AASIST": ("AASIST", {}),
    "AASIST-L": ("AASIST", None),
    "V2": ("V2", {}),
    "MelCNN": ("MelCNN", {}),
}
BATCHES = 1, 8
#: What is asked of the fastest engine in full precision, against torch, and of
#: 8-bit numbers; of all others, not to be slower.
TARGETS = {"AASIST": (1.4, 2.0), "V2": (1.3, None)}
COLUMNS = (
    *("plain", "before", "torch fp32", "onnxruntime fp32", "openvino fp32"),
    *("openvino bf16", "openvino int8"),
)
EVAL_TRIALS = 71_237
BUSY = "import torch\na = torch.randn(900, 900)\nwhile True: a @ a"
CLASSIFY = """
import sys
from speechbrain_bilevel.cli import main
sys.exit(main(["classify", *sys.argv[1:]]))
"""


@contextlib.contextmanager
def busy(is_busy):
    """A process that keeps a core busy, if asked for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BUSY]
    process = subprocess.Popen(command, env=environment) if is_busy else None
    time.sleep(8 if is_busy else 0)
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


# --------------------------------------------------------------------- folders
def write(folder, name):
    """Write a detector with random weights and both ONNX files; return the
    operations of a clip."""
    from speechbrain_bilevel.inference.config import DetectorConfig
    from speechbrain_bilevel.inference.onnx_export import (
        quantize,
        read_clips,
        write_onnx,
    )
    from speechbrain_bilevel.inference.pretrained import write_folder
    from speechbrain_bilevel.lobes import build
    from speechbrain_bilevel.lobes.aasist import AASIST_L

    kind, sizes = NETWORKS[name]
    torch.manual_seed(0)
    network = build(kind, AASIST_L if sizes is None else sizes)
    with torch.no_grad():
        # Statistics for the norms.
        network(0.1 * torch.randn(4, network.num_samples))
    network.eval()
    config = DetectorConfig.of(network, "logit_difference")
    with tempfile.TemporaryDirectory() as made:
        paths = [f"{made}/{n}.wav" for n in range(2)]
        for path, clip in zip(paths, read_clips([], 64600, 2)):
            soundfile.write(path, clip, 16000)
        onnx = Path(made, "onnx")
        onnx.mkdir()
        clips = read_clips([], config.num_samples)
        facts, _ = write_onnx(network, config, onnx, clips)
        facts["int8_sha256"] = quantize(onnx, config, paths)
        described = dataclasses.replace(config, onnx=facts)
        write_folder(
            folder, described, network.state_dict(), "", onnx=onnx.iterdir()
        )
    # The same for an earlier build, which knows of no ONNX.
    write_folder(
        folder.with_name(f"{name}_plain"), config, network.state_dict(), ""
    )
    wavs = torch.zeros(1, config.num_samples)
    with torch.no_grad():
        return operations(lambda: network(wavs))


def measure(name, folder, columns, before, rounds):
    """What ``one_engine.py`` finds for each column, in each round; all take
    turns, so that a change of the machine's speed meets all."""
    plain = folder.with_name(f"{name}_plain")
    measured = {}
    for _, what in itertools.product(range(rounds), columns):
        if (what, name) != ("plain", "MelCNN"):
            is_engine = what.split()[0] in ("onnxruntime", "openvino")
            path = {"PYTHONPATH": before} if what == "before" else {}
            source = folder if is_engine else plain
            found = apart(ONE, what, source, **path)
            if isinstance(found, str):
                raise RuntimeError(f"{name}, {what}: {found}")
            measured.setdefault(what, []).append(found)
    return measured


def rows_of(measured, name, batch, bound):
    """The cells of a row: clips a second, the best ratios and targets."""
    seconds = {
        what: [found[str(batch)] for found in several]
        for what, several in measured.items()
    }
    rates = {w: batch / statistics.median(s) for w, s in seconds.items()}
    ours = seconds.get("before", seconds["torch fp32"])
    faster = {what: ratio(ours, s) for what, s in seconds.items()}
    exact = [r for what, r in faster.items() if what.endswith("fp32")]
    least, rough = TARGETS.get(name, (1.0, None))
    row = [f"{name}, batch of {batch}"]
    row += [f"{rates[w]:.1f}" if w in rates else "-" for w in COLUMNS]
    yield [*row, f"{bound:.1f}", *target(max(exact), least)]
    if rough:
        row = [f"{name}, batch of {batch}, 8 bits", *["-"] * len(COLUMNS), "-"]
        yield [*row, *target(faster["openvino int8"], rough)]


def cold_starts(folder, plain, before):
    """Rows: the seconds of a process that classifies a file; of five, the
    median."""
    audio = folder / "noise.flac"
    wav = np.random.default_rng(0).uniform(-0.1, 0.1, 4 * 16000)
    soundfile.write(audio, wav, 16000)
    earlier = {"PYTHONPATH": before} if before else {}
    classify = [sys.executable, "-c", CLASSIFY, "--source"]
    commands = {
        "`import torch`": ([sys.executable, "-c", "import torch"], {}),
        "classify, torch": ([*classify, folder, audio], {}),
    }
    if before:
        commands["classify, before"] = [*classify, plain, audio], earlier
    for engine in ("onnxruntime", "openvino"):
        words = [*classify, folder, audio, "--engine", engine]
        commands[f"classify, {engine}"] = words, {}
    seconds = {what: [] for what in commands}
    for _ in range(6):
        for what, (words, environment) in commands.items():
            run = functools.partial(
                subprocess.run,
                words,
                cwd=folder,
                env={**os.environ, **environment},
                capture_output=True,
                check=True,
            )
            seconds[what].append(timed(run))
    medians = {what: statistics.median(s[1:]) for what, s in seconds.items()}
    of_torch = medians["`import torch`"]
    for what, median in medians.items():
        row = [what, f"{median:.2f} s"]
        if what == "classify, torch":
            row += target(median / of_torch, 1.3, at_least=False)
        elif before and what.split()[-1] in ("onnxruntime", "openvino"):
            share = median / medians["classify, before"]
            row += target(share, 1 / 3, at_least=False)
        else:
            row += [f"{median / of_torch:.2f}", "-", ""]
        yield row


def compare(recordings, source):
    """Print how much the scores of a detector by each engine differ, on as many
    crops of recordings as ASVspoof2019 LA has trials in eval."""
    from speechbrain_bilevel.dataio.audio import find_audio, hear
    from speechbrain_bilevel.inference.engines import open_detector

    rng, wavs = np.random.default_rng(0), []
    for path in tqdm(find_audio(recordings), "Reading"):
        wavs.append(hear(path, 4 * 16000).wav)
    engines = "torch", "onnxruntime", "openvino"
    detectors = [open_detector(source, engine) for engine in engines]
    size, scores = detectors[0].num_samples, []
    for _ in tqdm(range(-(-EVAL_TRIALS // 64)), "Scoring"):
        crops = np.empty((64, size), np.float32)
        for crop, number in zip(crops, rng.integers(len(wavs), size=64)):
            start = rng.integers(len(wavs[number]))
            wav = np.roll(wavs[number], -start) * rng.uniform(0.1, 1)
            crop[:] = np.resize(wav, size)
        scores.append([each.score_batch(crops) for each in detectors])
    scores = np.concatenate(scores, axis=1)[:, :EVAL_TRIALS]
    print(f"{scores.shape[1]} scores, deviation {scores[0].std():.3f}")
    for engine, others in zip(engines[1:], scores[1:]):
        difference = np.abs(others - scores[0]).max()
        print(f"{engine} and torch: at most {difference:.1e} apart")


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--compare", metavar="RECORDINGS")
    parser.add_argument("--source", help="a folder of `export --onnx`")
    arguments = parser.parse_args()
    if arguments.compare:
        compare(arguments.compare, arguments.source)
        return
    columns = [c for c in COLUMNS if c != "before" or arguments.before]
    peak = matrix_peak()
    print(f"{torch.get_num_threads()} threads, {peak / 1e9:.0f} GFLOPS")
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place, name) for name in arguments.networks}
        counts = {name: write(path, name) for name, path in folders.items()}
        memory = {}
        for is_busy in (False, True):
            rows = []
            with busy(is_busy):
                for name, folder in folders.items():
                    measured = measure(
                        *(name, folder, columns),
                        *(arguments.before, arguments.rounds),
                    )
                    memory.setdefault(name, measured)
                    for batch in BATCHES:
                        bound = peak / counts[name]
                        rows += rows_of(measured, name, batch, bound)
            beside = ", beside a busy process" if is_busy else ""
            print(f"\nClips a second{beside}:\n")
            heads = *COLUMNS, "bound", "best fp32 / torch", "target", ""
            table(["", *heads], rows)
        print("\nMemory of the process at most, batch of 8:\n")
        rows = [
            [name]
            + [
                f"{measured[what][0]['memory'] / 2**20:.0f} MB"
                if what in measured
                else "-"
                for what in COLUMNS
            ]
            for name, measured in memory.items()
        ]
        table(["", *COLUMNS], rows)
        folder = next(iter(folders.values()))
        plain = folder.with_name(f"{folder.name}_plain")
        print(f"\nFrom nothing to a verdict, {folder.name}, medians of five:\n")
        rows = list(cold_starts(folder, plain, arguments.before))
        heads = "", "seconds", "/ `import torch`, or before", "target", ""
        table(heads, rows)


if __name__ == "__main__":
    main()
