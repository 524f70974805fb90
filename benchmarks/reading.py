#!/usr/bin/env python3
"""Time how many clips a core reads for training, and partial reads; print how
much of what is scored is padding.

> python benchmarks/reading.py
> python benchmarks/reading.py --data_folder /path/to/LA --rounds 9

Prints a table. The clips are 16 kHz mono FLAC, those of the training set of
``--data_folder`` or made up: toy speech of 1.6 to 5 s, 3.3 s on average. They
go through the recipe's own pipeline, manifest, sampler and collation, in
batches of 32 + 32. Files are in the system's cache, so no disk is measured.
"""

import argparse
import functools
import math
import statistics
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import pandas as pd
import soundfile
import torch
from measure import in_turns, quartiles, ratio, table, target
from speechbrain.dataio.dataloader import make_dataloader
from tqdm import tqdm

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.dataio.audio import read_audio
from speechbrain_bilevel.dataio.prepare import COLUMNS
from speechbrain_bilevel.inference.scoring import padding

RECIPE = Path(__file__).resolve().parents[1] / "recipes/ASVspoof2019/LA"
SAMPLES, BATCH = 64600, 32
MADE_UP = 490
# At such a rate a GPU trains V2; the cores that a machine has for each.
NEEDED, CORES = 500, 8
READS = 40


def speech(talker, seconds):
    """Toy speech, utterances of a talker one after the other."""
    from toy_corpus.corpus import make_clip

    length = round(seconds * SAMPLE_RATE)
    # A clip has a second at least.
    takes = range(math.ceil(seconds))
    clips = [make_clip("train", talker, take=take) for take in takes]
    return np.concatenate(clips)[:length]


def write_clips(folder):
    """Made-up clips of six attacks and bona fide, with their manifests."""
    random, lines = np.random.default_rng(0), [",".join(COLUMNS)]
    for number in tqdm(range(MADE_UP), "clips"):
        seconds = random.uniform(1.6, 5.0)
        name = f"{number}.flac"
        soundfile.write(folder / name, speech(number, seconds), SAMPLE_RATE)
        attack = f"A0{number % 7}" if number % 7 else "-"
        label = "bonafide" if attack == "-" else "spoof"
        cells = number, seconds, f"$data_root/{name}", "s", attack, label
        lines.append(",".join(map(str, cells)))
    for partition in ("train", "dev", "eval"):
        (folder / f"{partition}.csv").write_text("\n".join(lines) + "\n")


def training_loader(manifests, data_folder, num_workers, batch_size=BATCH):
    """What the recipe trains from."""
    import train

    hparams = {
        "manifest_folder": manifests,
        "data_folder": data_folder,
        "num_samples": SAMPLES,
        "train_samples": SAMPLES,
        "batch_size": batch_size,
        "upper_batch_size": batch_size,
        "class_balanced": False,
        "num_workers": num_workers,
        "hypergradient": "any",
        "num_folds": 3,
        "leaky_folds": False,
        "epoch_ends": "lower",
        "seed": 1234,
    }
    sets, kwargs = train.dataio_prep(hparams)
    # Started once; the start of a process is little beside a real epoch.
    persistent = {"persistent_workers": num_workers > 0}
    return make_dataloader(sets["train"], **kwargs, **persistent)


def read_epoch(loader):
    """Read all batches of an epoch."""
    for _ in loader:
        pass


def rows_of_loaders(manifests, data_folder, rounds):
    """Clips a second in the training process and from workers, and what the
    cores of a machine come to."""
    names = {0: "training process", 1: "1 worker", 2: "2 workers"}
    loaders = {n: training_loader(manifests, data_folder, n) for n in names}
    epochs = {n: functools.partial(read_epoch, loaders[n]) for n in names}
    seconds = in_turns(epochs, rounds)
    clips = 2 * BATCH * len(loaders[0])
    speeds = {n: [clips / s for s in seconds[n]] for n in names}
    for n, name in names.items():
        measured = quartiles(speeds[n], "{:.0f}")
        yield f"clips a second, {name}", measured, "-", ""
    all_cores = CORES * statistics.median(speeds[1])
    name = f"clips a second, {CORES} workers, extrapolated from 1"
    yield name, *target(all_cores, NEEDED, shape="{:.0f}")


def rows_of_partial_reads(folder, rounds):
    """The beginning of a long file against a file of that length."""
    short = speech(0, SAMPLES / SAMPLE_RATE)
    long = np.resize(speech(0, 60), 600 * SAMPLE_RATE)
    reads = {}
    for name, samples in (("4 s", short), ("10 min", long)):
        path = folder / f"{name}.flac"
        soundfile.write(path, samples, SAMPLE_RATE)
        reads[name] = functools.partial(read_often, path)
    seconds = in_turns(reads, rounds)
    for name in reads:
        each = [1000 * s / READS for s in seconds[name]]
        measured = f"{quartiles(each)} ms"
        yield f"first {SAMPLES} samples of {name}", measured, "-", ""
    slower = ratio(seconds["10 min"], seconds["4 s"])
    yield "10 min against 4 s", *target(slower, 1.5, at_least=False)


def rows_of_formats(folder, rounds):
    """The beginning of a clip in other formats than FLAC."""
    wav, reads = speech(0, 5), {}
    for ending, kind in (
        ("wav", {}),
        ("mp3", {}),
        ("ogg", {}),
        ("opus", {"format": "OGG", "subtype": "OPUS"}),
        ("m4a", None),
    ):
        path = folder / f"clip.{ending}"
        if kind is None:
            write_m4a(path, wav)
        else:
            soundfile.write(path, wav, SAMPLE_RATE, **kind)
        reads[ending.upper()] = functools.partial(read_often, path)
    seconds = in_turns(reads, rounds)
    for name in reads:
        each = [1000 * s / READS for s in seconds[name]]
        measured = f"{quartiles(each)} ms"
        yield f"first {SAMPLES} samples of {name}", measured, "-", ""


def write_m4a(path, wav):
    """Write AAC as a phone does."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            wav.astype(np.float32)[None], "fltp", "mono"
        )
        frame.sample_rate = SAMPLE_RATE
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def row_of_padding(manifests):
    """How much of eval is repetition, in percent, when all of a recording is
    scored."""
    durations = pd.read_csv(manifests / "eval.csv").duration
    lengths = (durations * SAMPLE_RATE).round().astype(int)
    share = 100 * padding(lengths.to_numpy(), SAMPLES)
    name = f"padding of {len(lengths)} recordings in full length, %"
    return name, *target(share, 5, at_least=False)


def read_often(path):
    """Read the beginning of a file many times."""
    for _ in range(READS):
        read_audio(path, SAMPLES)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(RECIPE))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if arguments.data_folder is None:
            write_clips(folder)
        else:
            from asvspoof2019_prepare import prepare_asvspoof2019

            prepare_asvspoof2019(arguments.data_folder, folder)
        data_folder = arguments.data_folder or folder
        rows = [
            *rows_of_loaders(folder, data_folder, arguments.rounds),
            *rows_of_partial_reads(folder, arguments.rounds),
            *rows_of_formats(folder, arguments.rounds),
            row_of_padding(folder),
        ]
    table(("reading", "measured", "target", ""), rows)


if __name__ == "__main__":
    main()
