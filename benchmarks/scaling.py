#!/usr/bin/env python3
"""Two processes under torchrun against one, on this machine's CPU.

> python benchmarks/scaling.py

Prints a table: training V2-small in two levels, 32 + 32 clips in one process
with all threads against 16 + 16 in each of two with half of them; scoring with
V2; as many trials as ASVspoof2019 LA eval has, with a tiny network, at once and
killed half way and started again; and how far two processes' losses are from
those of one, in double precision.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import libraries
import numpy as np
import soundfile
import speechbrain as sb
import torch
from measure import table, target, timed
from problems import SmallV2Problem
from tqdm import tqdm

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.inference.config import DetectorConfig
from speechbrain_bilevel.inference.export import model_card
from speechbrain_bilevel.inference.pretrained import write_folder
from speechbrain_bilevel.lobes.v2 import V2
from speechbrain_bilevel.utils.distributed import (
    closing_process_group,
    rank,
    world_size,
)

TRIALS, FILES, CLIPS = 71_237, 200, 192
TINY = {
    "num_samples": 1600,
    "sinc_channels": 8,
    "patch_size": 4,
    "token_sizes": [12, 6],
    "encoder_channels": [4, 8],
    "num_layers": 1,
    "nhead": 2,
    "d_ffn": 16,
    "gru_hidden_size": 4,
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
COMMAND = Path(sys.executable).with_name("speechbrain-bilevel")


# ----------------------------------------------------------------- in processes
class Share(SmallV2Problem):
    """Of the joined batch, this process's part."""

    clips = 32

    def __init__(self, device):
        super().__init__(device)
        mine = slice(rank(), None, world_size())
        self.batch = LevelBatch(
            *(tuple(t[mine] for t in level) for level in self.batch)
        )


def train(rounds):
    """Print the seconds of each step, on the main process."""
    step, _ = libraries.ours("Alternating")(Share("cpu"))
    for _ in range(2):
        step()
    seconds = [timed(step) for _ in range(rounds)]
    if rank() == 0:
        print(json.dumps(seconds))


def losses(rounds):
    """Print both levels' losses on the joined batch before each step.

    Batch normalization goes by its running statistics: those of a batch are
    each process's own on a CPU.
    """
    problem = Share("cpu")
    problem.network.double()
    double = [(wavs.double(), labels) for wavs, labels in problem.batch]
    problem.batch = LevelBatch(*double)
    step, _ = libraries.ours("Alternating")(problem)
    for module in problem.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    found = []
    for _ in range(rounds):
        with torch.no_grad():
            both = [problem.evaluate(level) for level in ("lower", "upper")]
        mean = torch.stack(both) / world_size()
        if world_size() > 1:
            torch.distributed.all_reduce(mean)
        found.append(mean.tolist())
        step()
    if rank() == 0:
        print(json.dumps(found))


def with_threads(number):
    """The environment of a process that is to have so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(number)}


def launched(words, processes, threads):
    """The command with as many processes; its standard output."""
    launcher = [*TORCHRUN, str(processes)] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, words)],
        capture_output=True,
        text=True,
        env=with_threads(threads // processes),
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout


# ---------------------------------------------------------------------- folders
def write_detector(folder, sizes):
    """Write an untrained V2 as a pretrained folder."""
    torch.manual_seed(0)
    network = V2(**sizes).eval()
    config = DetectorConfig.of(network, "logit_difference")
    card = model_card(folder.name, config)
    write_folder(folder, config, network.state_dict(), card)
    return folder


def write_list(path, n_trials):
    """A list of trials, on ``FILES`` recordings of 4 s."""
    random = np.random.default_rng(0)
    for n in range(min(FILES, n_trials)):
        wav = 0.05 * random.standard_normal(64600)
        soundfile.write(path.with_name(f"{n}.flac"), wav, 16000)
    lines = ["id,path,label"]
    lines += [f"u{n},{n % FILES}.flac,spoof" for n in range(n_trials)]
    path.write_text("\n".join(lines))
    return path


def scoring(trials, scores, detector):
    """The command's words."""
    arguments = trials, scores, "--source", detector, "--device", "cpu"
    return [COMMAND, "score", *arguments]


def score(trials, scores, detector, processes, threads):
    """Seconds that the command takes."""
    words = scoring(trials, scores, detector)
    return timed(lambda: launched(words, processes, threads))


def killed_and_resumed(trials, scores, detector, threads):
    """Seconds of both runs; the first is killed when half is scored."""
    words = scoring(trials, scores, detector)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stderr=subprocess.DEVNULL,
        env=with_threads(threads),
    )
    while process.poll() is None:
        time.sleep(0.2)
        parts = scores.parent.glob(f"{scores.name}.*.part0")
        if sum(p.read_bytes().count(b"\n") for p in parts) > TRIALS / 2:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit("the run ended before it could be killed")
    score(trials, scores, detector, 1, threads)
    return time.perf_counter() - start


# ------------------------------------------------------------------------ table
def rows(folder, rounds, threads):
    """Yield the table's rows."""
    words = [__file__, "--only", "losses", rounds]
    both = (json.loads(launched(words, n, threads)) for n in (1, 2))
    apart = max(abs(a - b) for pair in zip(*both) for a, b in zip(*pair))
    verdict = target(apart, 1e-10, at_least=False, shape="{:.0e}")
    yield ["largest difference of a loss, two levels", "", "", *verdict]

    words = [__file__, "--only", "train", rounds]
    one, two = (
        statistics.median(json.loads(launched(words, n, threads)))
        for n in (1, 2)
    )
    cells = f"{64 / one:.1f} clips/s", f"{64 / two:.1f} clips/s"
    yield ["training V2-small, 32 + 32", *cells, f"{one / two:.2f}", "-", ""]

    full = write_detector(folder / "v2", {})
    few, none = folder / "few.csv", folder / "none.csv"
    write_list(few, CLIPS)
    write_list(none, 1)
    seconds = {1: [], 2: []}
    for turn in range(3):
        for n, values in seconds.items():
            started, done = (
                score(
                    trials, folder / f"{trials.stem}{n}{turn}", full, n, threads
                )
                for trials in (none, few)
            )
            values.append(done - started)
    one, two = map(statistics.median, seconds.values())
    cells = (
        f"{(CLIPS - 1) / one:.1f} clips/s",
        f"{(CLIPS - 1) / two:.1f} clips/s",
    )
    faster = f"{one / two:.2f}"
    yield ["scoring with V2, batches of 16", *cells, faster, "-", ""]

    tiny = write_detector(folder / "tiny", TINY)
    many = write_list(folder / "many.csv", TRIALS)
    scores = [folder / f"many{n}" for n in range(3)]
    one = score(many, scores[0], tiny, 1, 1)
    two = score(many, scores[1], tiny, 2, 2)
    cells = f"{one:.0f} s", f"{two:.0f} s", f"{one / two:.2f}"
    yield [f"{TRIALS:,} trials, tiny network, a thread each", *cells, "-", ""]
    again = killed_and_resumed(many, scores[2], tiny, 1)
    verdict = target(again / one, 1.25, at_least=False)
    cells = f"{one:.0f} s", f"{again:.0f} s"
    yield ["the same, killed half way and started again", *cells, *verdict]
    same = len({path.read_bytes() for path in scores}) == 1
    equal = "the same bytes" if same else "**other bytes**"
    met = "met" if same else "**not met**"
    yield ["the three score files", "", "", equal, "the same bytes", met]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        what, rounds = arguments.only
        with closing_process_group():
            sb.utils.distributed.ddp_init_group(
                {"distributed_backend": "gloo", "device": "cpu"}
            )
            {"train": train, "losses": losses}[what](int(rounds))
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        found = list(
            tqdm(rows(Path(folder), arguments.rounds, threads), "rows")
        )
    print(f"{threads} threads\n")
    heads = "", "one process", "two, or resumed", "ratio", "target", ""
    table(heads, found)


if __name__ == "__main__":
    main()
