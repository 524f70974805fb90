#!/usr/bin/env python3
"""On a GPU: whether it computes what a CPU does, and how near its limit.

> python benchmarks/gpu.py --sections right waiting fast fed compiled \
>     --data_folder LA --detectors AASIST_FOLDER
> python benchmarks/gpu.py --sections unseen --data_folder LA --minutes 10
> python benchmarks/gpu.py --device cpu --tiny

Prints tables row by row, each section in a process of its own that is stopped
after its time limit, and at the latest after ``--minutes``. A row or a section
that fails costs no other, and the exit code is 1. Without
``--data_folder`` the clips are toy speech. ``--detectors`` are pretrained
folders, e.g. published weights; V2 and AASIST with random weights are always
compared. Where no precision is named, products are in TF32, as SpeechBrain
trains. ``--tiny`` runs all of it with small networks and few clips: its figures
mean nothing.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import itertools
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import hypergradients
import kernels
import libraries
import reading
import reference
import run_all
import speechbrain
import torch
from measure import (
    apart,
    bandwidth,
    in_turns,
    matrix_peak,
    operations,
    peak_memory,
    ratio,
    synchronize,
    table,
    timed,
)
from plain_v2 import PlainV2
from problems import (
    UNROLLED,
    QuadraticProblem,
    SmallV2Problem,
    V2Problem,
    flat,
)
from scaling import TINY
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm
from v2 import noise

import speechbrain_bilevel
from speechbrain_bilevel import SpoofDetector
from speechbrain_bilevel.dataio.audio import fit_length, read_audio
from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.dataio.prepare import join_paths
from speechbrain_bilevel.dataio.protocols import (
    read_asvspoof2019_protocol,
    read_protocol,
)
from speechbrain_bilevel.lobes.v2 import V2
from speechbrain_bilevel.utils.precision import without_tf32

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/ASVspoof2019/LA"
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FAILED = []


# ---------------------------------------------------------------------- helpers
def begin(*heads):
    """Print the head of a table in Markdown."""
    table(heads, [])
    sys.stdout.flush()


def add(*cells):
    """Print a row."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


@contextlib.contextmanager
def attempt(name):
    """What fails within is a row that says so."""
    try:
        yield
    except (Exception, SystemExit) as error:
        text = (str(error).splitlines() or [""])[0].replace("|", "/")
        add(name, f"**failed**: {type(error).__name__}: {text}")
        traceback.print_exc()
        # Of a command that failed.
        print(getattr(error, "stderr", None) or "", file=sys.stderr)
        FAILED.append(name)


class RoundedProducts(TorchDispatchMode):
    """TF32 on a device that has none, where it is switched on: the factors of
    products of matrices and of convolutions have 10 bits. Not those of
    recurrent layers."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm", "convolution")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        switched_on = torch.backends.cuda.matmul.fp32_precision == "tf32"
        if switched_on and func.overloadpacket.__name__ in self.NAMES:
            args = [self.rounded(x) for x in args]
        return func(*args, **(kwargs or {}))

    @staticmethod
    def rounded(x):
        """float32 with the last 13 bits rounded away; others as they are."""
        if not torch.is_tensor(x) or x.dtype != torch.float32:
            return x
        bits = x.contiguous().view(torch.int32)
        return ((bits + (1 << 12)) & -(1 << 13)).view(torch.float32)


def in_precision(name, device):
    """A context in which networks compute in "fp32", "TF32", "bf16", "fp16"."""
    if name == "fp32":
        return without_tf32()
    if name in HALVES:
        return torch.autocast(device, HALVES[name])
    # SpeechBrain, which is imported, has switched it on.
    return contextlib.nullcontext() if device == "cuda" else RoundedProducts()


def precisions(options):
    """Those to measure; a CPU has no fast fp16."""
    names = ["fp32", "TF32", "bf16", "fp16"]
    return names if options.device == "cuda" else names[:3]


def milliseconds(values):
    """Their median, as text."""
    return f"{1000 * statistics.median(values):.1f} ms"


def gigabytes(number):
    """Bytes as text."""
    return "-" if number is None else f"{number / 1e9:.2f} GB"


def problem_class(options, batch_size=32):
    """The network of V2 on noise, with a size of batches; see ``problems``."""
    cls = SmallV2Problem if options.tiny else V2Problem
    clips = 2 if options.tiny else batch_size
    return type(cls.__name__, (cls,), {"clips": clips})


def strategies(options):
    """Name -> (what makes its step, what it computes) of our own; a few."""
    found = hypergradients.rows()
    if options.device == "cuda":
        # A GRU has no forward derivative there.
        found = {k: row for k, row in found.items() if "forward" not in k}
        settings = {"steps": UNROLLED, "lower_steps": UNROLLED}
        make = libraries.ours(
            "TruncatedUnrolled", hvp_mode="reverse", **settings
        )
        found[f"TruncatedUnrolled, {UNROLLED} steps"] = make, "steps"
    few = ("Alternating", "CGAID, 5", "SOBA")
    return {
        name: row
        for name, row in found.items()
        if name.split()[0] not in hypergradients.LIBRARIES
        and name not in (hypergradients.PLAIN, "Alternating, bare autograd")
        and (not options.tiny or name.startswith(few))
    }


def corpus(options, folder):
    """``--data_folder``, or a toy corpus that is written to a folder."""
    if options.data_folder:
        return options.data_folder
    from toy_corpus import write_toy_corpus

    write_toy_corpus(folder / "LA", *((8, 32) if options.tiny else ()))
    return folder / "LA"


def manifests(options, folder):
    """Where the recipe's manifests of ``corpus`` are, and the corpus."""
    from asvspoof2019_prepare import prepare_asvspoof2019

    found = corpus(options, folder)
    prepare_asvspoof2019(found, folder)
    return folder, found


# ---------------------------------------------------------------------- machine
def machine(options):
    """The machine, and what it can do at most"""
    begin("", "measured")
    device = options.device
    add("machine", run_all.machine())
    cudnn = torch.backends.cudnn.version()
    add("CUDA, cuDNN", f"{torch.version.cuda}, {cudnn}")
    for precision in precisions(options):
        # A CPU's TF32 is emulated.
        if (device, precision) == ("cpu", "TF32"):
            continue
        with attempt(precision):
            speed = peak(device, precision) / 1e12
            add(f"matrix product, {precision}", f"{speed:.2f} TFLOPS")
    with attempt("memory"):
        add("memory", f"{bandwidth(device) / 1e9:.0f} GB/s")


# ------------------------------------------------------------------------ right
def scores(options):
    """Scores of real clips, against those of the CPU in batches of 8

    The largest difference of a logit difference, also in standard deviations
    of the clips' scores, and the share of decisions at 0 that change."""
    begin("network", "computed", "largest", "/ deviation", "decisions")
    count = 4 if options.tiny else 64
    with tempfile.TemporaryDirectory() as folder:
        manifest, root = manifests(options, Path(folder))
        trials = join_paths(read_protocol(manifest / "eval.csv"), root)
        paths = trials.path[:: max(1, len(trials) // count)][:count]
        wavs = [read_audio(path, reading.SAMPLES) for path in paths]
    compared = {}
    for name, (_, ours, sizes) in networks(options).items():
        torch.manual_seed(0)
        compared[f"{name}, random weights"] = ours(**sizes)
    for folder in options.detectors:
        compared[folder.name] = SpoofDetector.from_hparams(folder).mods.network
    for name, network in compared.items():
        network.eval().requires_grad_(False)
        samples = network.num_samples
        clips = [fit_length(wav, samples) for wav in wavs]
        clips = torch.stack([torch.as_tensor(clip) for clip in clips])
        expected = scored(network, clips, "cpu", "fp32", 8)
        kinds = [(p, 8) for p in precisions(options)]
        for precision, batch_size in [("fp32", 1), *kinds]:
            row = f"{options.device}, {precision}, batch of {batch_size}"
            with attempt(f"{name} | {row}"):
                found = scored(
                    network, clips, options.device, precision, batch_size
                )
                largest = (found - expected).abs().max()
                changed = ((found > 0) != (expected > 0)).double().mean()
                add(
                    *(name, row, f"{largest:.1e}"),
                    f"{largest / expected.std():.1e}",
                    f"{100 * changed:.1f} %",
                )


# Inference mode would hide the convolutions from ``RoundedProducts``.
@torch.no_grad()
def scored(network, clips, device, precision, batch_size):
    """Logit differences, in double precision on the CPU."""
    network.to(device)
    logits = []
    with in_precision(precision, device):
        for batch in clips.split(batch_size):
            logits.append(network(batch.to(device)).double().cpu())
    logits = torch.cat(logits)
    return logits[:, 1] - logits[:, 0]


def repeated(options):
    """Whether the same training gives the same bits"""
    begin("", "largest difference of a weight", "a step")
    cls, n_steps = problem_class(options), 3

    def trained():
        torch.manual_seed(0)
        problem = cls(options.device)
        step, _ = libraries.ours("Alternating")(problem)
        seconds = [timed(step) for _ in range(n_steps)]
        return flat(problem.network.parameters()), seconds[1:]

    for name, switch in (
        ("as it is", contextlib.nullcontext),
        ("deterministic algorithms", deterministic),
    ):
        with attempt(name), switch():
            (one, _), (other, seconds) = trained(), trained()
            largest = (one - other).abs().max()
            name = f"{n_steps} steps of Alternating, {name}"
            add(name, f"{largest:.1e}", milliseconds(seconds))

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data_folder = corpus(options, folder)

        def run(name, epochs):
            words = {
                "data_folder": data_folder,
                "output_folder": folder / name,
                "manifest_folder": folder / "manifests",
                "number_of_epochs": epochs,
                "training_steps": 100,
                "batch_size": 4 if options.tiny else 32,
                "upper_batch_size": 4 if options.tiny else 32,
                "num_workers": 0 if options.tiny else 4,
                "device": options.device,
            }
            kind = "mel_cnn" if options.tiny else "v2"
            yaml = RECIPE / "hparams" / f"train_{kind}_bilevel.yaml"
            command = [sys.executable, RECIPE / "train.py", yaml]
            command += [f"--{key}={value}" for key, value in words.items()]
            subprocess.run(command, check=True, capture_output=True)
            last = sorted((folder / name).glob("save/CKPT*/network.ckpt"))[-1]
            return flat(torch.load(last, map_location="cpu").values())

        name = "train.py, stopped after an epoch, and resumed"
        with attempt(name):
            expected = run("once", 2)
            run("stopped", 1)
            largest = (run("stopped", 2) - expected).abs().max()
            add(name, f"{largest:.1e}", "-")


@contextlib.contextmanager
def deterministic():
    """Have torch choose only algorithms that give the same bits every time."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def exact(options):
    """Hypergradients in double precision, against the CPU's"""
    begin("strategy", "problem", "relative difference", "at most")
    # The device is looked at, not the limit.
    soon = type("QuadraticProblem", (QuadraticProblem,), {"settle": 30})
    problems = {"quadratic": soon}
    if not options.tiny:
        problems["V2-small"] = SmallV2Problem
    for problem, cls in problems.items():
        for name, (make, _) in strategies(options).items():
            if name == "MLDG":
                # It has no upper level.
                continue
            with attempt(f"{name} | {problem}"):
                found, expected = (
                    hypergradients.upper_gradient(cls(device, held=True), make)
                    for device in (options.device, "cpu")
                )
                error = (found.cpu() - expected).norm() / expected.norm()
                met = "met" if error <= 1e-6 else "**not met**"
                add(name, problem, f"{error:.1e}", f"1e-6, {met}")


def half(options):
    """Training in half precision

    fp16 by torch's GradScaler."""
    begin("strategy", "precision", "upper loss", "left out", "scale")
    kinds = ["bf16"] + ["fp16"] * (options.device == "cuda")
    n_steps = 2 if options.tiny else 20
    for name, settings in {
        "Alternating": {},
        "OneStepUnrolled": {"hvp_mode": "reverse"},
        "SOBA": {"step_size": 1e-3},
    }.items():
        for precision in kinds:
            with attempt(f"{name} | {precision}"):
                problem = problem_class(options)(options.device)
                make = libraries.ours(name, precision=precision, **settings)
                step, _ = make(problem)
                before = problem.evaluate("upper").item()
                scales = [step.brain.scaler.get_scale()]
                for _ in range(n_steps):
                    step()
                    scales.append(step.brain.scaler.get_scale())
                after = problem.evaluate("upper").item()
                if not math.isfinite(after):
                    raise ArithmeticError(f"the loss is {after}")
                # The scaler leaves a step out where it lowers the scale.
                left_out = sum(step.brain.left_out.values())
                left_out += sum(b < a for a, b in itertools.pairwise(scales))
                add(
                    *(name, precision, f"{before:.3f} -> {after:.3f}"),
                    f"{left_out} of {n_steps}",
                    f"{scales[-1]:g}",
                )


# --------------------------------------------------------------------- no waits
class Waits(TorchDispatchMode):
    """Where a CPU's step reads a value, for which a GPU would be waited."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select")

    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.NAMES:
            self.places.append(place())
        return func(*args, **(kwargs or {}))


def place():
    """The innermost function of ours, of SpeechBrain or of an optimizer."""
    packages = speechbrain_bilevel, speechbrain, torch.optim
    folders = tuple(os.path.dirname(package.__file__) for package in packages)
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(folders):
            return f"{Path(frame.filename).name}, {frame.name}"
    return "elsewhere"


@contextlib.contextmanager
def noting_waits(places, device):
    """Append the place of every wait for the device within."""
    if device == "cpu":
        with Waits(places):
            yield
        return

    def note(message, *args, **kwargs):
        if "synchronizing" in str(message):
            places.append(place())

    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits(options):
    """How often a step waits for the device

    On a GPU as torch's sync debug mode sees it. Whether gradients are finite
    has to be known on each level before its step."""
    begin("strategy", "waits a step", "where")
    for name, (make, _) in strategies(options).items():
        with attempt(name):
            step, _ = make(problem_class(options, 8)(options.device))
            # The first steps build what is kept.
            for _ in range(2):
                step()
            places = []
            with noting_waits(places, options.device):
                step()
            where = "; ".join(
                f"{places.count(p)} {p}" for p in sorted({*places})
            )
            add(name, len(places), where)


def busy(options):
    """What the device does in a step of 32 + 32 clips

    The five kernels that take longest together; of a CPU, operations."""
    from torch.profiler import ProfilerActivity, profile

    begin("step", "time", "kernels", "busy", "longest")
    on_gpu = options.device == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    wanted = "CUDA" if on_gpu else "CPU"
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    makes = {
        "two plain steps": libraries.plain,
        "`Alternating`": libraries.ours("Alternating"),
        "`Alternating`, bf16": libraries.ours("Alternating", precision="bf16"),
    }
    if options.tiny:
        makes = {"`Alternating`": makes["`Alternating`"]}
    for name, make in makes.items():
        with attempt(name):
            step, _ = make(problem_class(options)(options.device))
            for _ in range(3):
                step()
            seconds = statistics.median(timed(step) for _ in range(3))
            with profile(activities=activities) as profiler:
                step()
                synchronize()
            found = [
                event
                for event in profiler.key_averages()
                if event.device_type.name == wanted
                and not event.is_user_annotation
            ]
            if not found:
                raise RuntimeError("the profiler saw no kernels")
            found.sort(key=lambda event: -getattr(event, kind))
            total = sum(getattr(event, kind) for event in found) / 1e6
            longest = "; ".join(
                f"{event.key[:40]} {getattr(event, kind) / 1e3:.1f} ms"
                for event in found[:5]
            ).replace("|", "/")
            add(
                *(name, milliseconds([seconds])),
                sum(event.count for event in found),
                *(f"{100 * total / seconds:.0f} %", longest),
            )


# ------------------------------------------------------------------------- fast
def networks(options):
    """Name -> plain transcription, ours, their sizes."""
    plain, ours, sizes, _ = reference.NETWORKS["AASIST"]
    if options.tiny:
        sizes = {**sizes, "num_samples": 8000}
    of_v2 = TINY if options.tiny else {}
    return {"V2": (PlainV2, V2, of_v2), "AASIST": (plain, ours, sizes)}


def forward(options):
    """Forward passes, against plain transcriptions

    Ours should be at least as fast everywhere; in bf16 it still filters in
    full precision, which the transcriptions do not. The share is that of the
    machine's matrix product; a GPU's GRU is not counted."""
    begin("", "plain", "ours", "ratio", "share", "memory, plain", "ours")
    sizes = [2] if options.tiny else [1, 32, 256]
    for name, (*classes, settings) in networks(options).items():
        torch.manual_seed(0)
        plain, ours = (
            cls(**settings).eval().to(options.device) for cls in classes
        )
        ours.load_state_dict(plain.state_dict())
        for precision in ("fp32", "bf16"):
            for n in sizes:
                row = f"{name}, {precision}, batch of {n}"
                with (
                    attempt(row),
                    torch.no_grad(),
                    in_precision(precision, options.device),
                ):
                    wavs, _ = noise(n, ours.num_samples, options.device)
                    calls = {
                        key: functools.partial(network, wavs)
                        for key, network in (("plain", plain), ("ours", ours))
                    }
                    versus(row, calls, precision, options)


@functools.cache
def peak(device, precision):
    """Operations a second of a large matrix product."""
    if precision in HALVES:
        return matrix_peak(device, HALVES[precision])
    with in_precision(precision, device):
        return matrix_peak(device)


def versus(name, calls, precision, options):
    """Time "plain" and "ours" in turns, and add a row."""
    rounds = 2 if options.tiny else 9
    seconds = in_turns(calls, rounds, show=False)
    faster = ratio(seconds["plain"], seconds["ours"])
    share = operations(calls["ours"]) / peak(options.device, precision)
    share /= statistics.median(seconds["ours"])
    add(
        name,
        *map(milliseconds, seconds.values()),
        f"{faster:.2f}",
        f"{100 * share:.0f} %",
        *(gigabytes(peak_memory(call)) for call in calls.values()),
    )


def training(options):
    """V2's training step, against the plain transcription

    Ours should be 1.5 times as fast."""
    begin("", "plain", "ours", "ratio", "share", "memory, plain", "ours")
    *classes, sizes = networks(options)["V2"]
    plain, ours = (stepper(cls(**sizes), options) for cls in classes)
    for precision in ("fp32", "TF32", "bf16"):
        if (options.device, precision) == ("cpu", "TF32"):
            continue
        with attempt(precision):
            calls = {
                "plain": functools.partial(plain, precision),
                "ours": functools.partial(ours, precision),
            }
            versus(precision, calls, precision, options)
    name = "fp32 without cuDNN, as where gradients are differentiated"
    with attempt(name):
        without = torch.backends.cudnn.flags(enabled=False)
        calls = {"plain": without(plain), "ours": without(ours)}
        versus(name, calls, "fp32", options)


def compiled(options):
    """The same, ours compiled"""
    if options.tiny:
        print("Not with `--tiny`: compiling takes a minute.", flush=True)
        return
    begin("", "plain", "ours", "ratio", "share", "memory, plain", "ours")
    for precision in ("fp32", "bf16"):
        with attempt(precision):
            plain = stepper(PlainV2(), options)
            ours = stepper(torch.compile(V2()), options)
            calls = {
                "plain": functools.partial(plain, precision),
                "ours": functools.partial(ours, precision),
            }
            versus(precision, calls, precision, options)


def stepper(network, options):
    """What makes a training step in a precision."""
    device = options.device
    network.train().to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
    n = 2 if options.tiny else 32
    samples = networks(options)["V2"][-1].get("num_samples", reading.SAMPLES)
    wavs, labels = noise(n, samples, device)

    def step(precision="fp32"):
        exact, dtype = precision == "fp32", HALVES.get(precision)
        with without_tf32() if exact else contextlib.nullcontext():
            with torch.autocast(device, dtype, enabled=dtype is not None):
                loss = cross_entropy(network(wavs).float(), labels)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def levels(options):
    """Steps of both levels, against two plain ones

    `Alternating` should take at most 1.05 times what bare autograd does."""
    begin("strategy", "/ two plain steps", "/ bare", "memory / plain")
    cls = problem_class(options)
    rounds = 2 if options.tiny else 3

    def measured(make):
        steps = {"plain": libraries.plain, "bare": libraries.bare, "own": make}
        steps = {key: f(cls(options.device))[0] for key, f in steps.items()}
        for step in steps.values():
            step()
        return in_turns(steps, rounds, show=False)

    plain = hypergradients.step_memory(cls(options.device), libraries.plain)
    for name, (make, _) in strategies(options).items():
        with attempt(name):
            seconds = measured(make)
            memory = hypergradients.step_memory(cls(options.device), make)
            add(
                name,
                f"{ratio(seconds['own'], seconds['plain']):.2f}",
                f"{ratio(seconds['own'], seconds['bare']):.2f}",
                f"{memory / plain:.2f}" if plain else "-",
            )


def parts(options):
    """V2's parts that were written for a CPU, against torch's own

    Gradients, and gradients of gradients; what is slower than torch's should
    not be in the way."""
    begin("", "forward", "gradients", "of gradients", "memory", "of these")
    chosen = ["ours"] if options.tiny else ["ours", "sinc", "norm"]
    for part in chosen:
        name = kernels.ROWS[part]
        words = "--part", part, "--device", options.device
        words += "--batch-size", 1 if options.tiny else 32
        words += "--rounds", 1 if options.tiny else 3
        found = apart(Path(kernels.__file__), *words)
        with attempt(name):
            if isinstance(found, str):
                raise RuntimeError(found)
            times, memory = zip(*found)
            add(
                name,
                *(milliseconds([seconds]) for seconds in times),
                *(gigabytes(each) for each in memory[1:]),
            )


# -------------------------------------------------------------------------- fed
def fed(options):
    """Clips a second, both levels' counted, as workers read them

    The share is that of the time in which the step has its batch."""
    begin("", "read only", "batch at hand", "from disk", "share")
    cls = problem_class(options)
    with tempfile.TemporaryDirectory() as folder:
        manifest, data_folder = manifests(options, Path(folder))
        lengthen(manifest / "train.csv", 1 if options.tiny else 10)
        for workers in [1] if options.tiny else [8, 14]:
            with attempt(f"{workers} workers"):
                loader = reading.training_loader(
                    manifest, data_folder, workers, cls.clips
                )
                add(f"{workers} workers", *feed(loader, cls, options))


def lengthen(path, times):
    """Repeat a manifest's lines under other names: what workers have read
    ahead when an epoch begins should be little of it."""
    head, *lines = path.read_text().splitlines()
    lines = [f"{n}-{line}" for n in range(times) for line in lines]
    path.write_text("\n".join([head, *lines]) + "\n")


def feed(loader, cls, options):
    """The cells of a row."""
    problem = cls(options.device)
    samples = problem.batch.lower[0].shape[1]
    step, _ = libraries.ours("Alternating")(problem)
    step()

    def train():
        for batch in loader:
            problem.batch = LevelBatch(
                *(
                    (
                        level.sig.data[:, :samples].to(options.device),
                        level.label_encoded.data[:, 0].to(options.device),
                    )
                    for level in batch
                )
            )
            step()

    # Workers are started by the first.
    reading.read_epoch(loader)
    clips = 2 * cls.clips * len(loader)
    read = clips / timed(lambda: reading.read_epoch(loader))
    from_disk = clips / timed(train)
    at_hand = 2 * cls.clips / statistics.median(timed(step) for _ in range(5))
    speeds = (f"{speed:.0f}" for speed in (read, at_hand, from_disk))
    return *speeds, f"{100 * from_disk / at_hand:.0f} %"


# ----------------------------------------------------------------------- unseen
def unseen(options):
    """V2 in full size, plain and bi-level, on attacks that training never saw

    EER in percent on eval; ``--passes`` backward passes of 32 clips each. Rates
    are those of experiments/reference_table."""
    experiments = ROOT / "experiments"
    sys.path[:0] = [str(experiments), str(experiments / "unseen_attacks")]
    from arms import Arm
    from recorded_runs import recorded_run, spread
    from reference_table.systems import SYSTEMS
    from run import overrides

    kind = "v2_small" if options.tiny else "v2"
    rates = SYSTEMS[kind].overrides
    as_published = {"leaky_folds": "True", "epoch_ends": "shorter", **rates}
    kinds = {
        "plain": (f"train_{kind}", Arm("", 1, rates)),
        "bi-level": (f"train_{kind}_bilevel", Arm("", 2, rates, levels=2)),
        "bi-level, as published": (
            "train_v2_bilevel_as_published",
            Arm("", 2, as_published, levels=2),
        ),
    }
    passes = options.passes
    if options.tiny:
        passes, kinds = 2, {"bi-level": kinds["bi-level"]}
    begin("training", "seeds", "unseen", "known", "passes", "minutes")
    with tempfile.TemporaryDirectory() as folder:
        folder = options.output_folder or Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data_folder = corpus(options, folder)
        attacks = read_asvspoof2019_protocol(data_folder, "train").attack
        attacks = attacks.to_list()

        def train(name, seed):
            yaml, arm = kinds[name]
            changed = overrides(arm, data_folder, attacks, seed, passes, folder)
            output = folder / name / str(seed)
            return recorded_run(output, yaml, changed, device=options.device)

        seeds = range(1, 2 if options.tiny else 4)
        jobs = 3 if options.device == "cuda" else 1
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            made = {
                name: [pool.submit(train, name, seed) for seed in seeds]
                for name in kinds
            }
            for name in tqdm(kinds, "trainings"):
                with attempt(name):
                    found = [run.result() for run in made[name]]
                    seconds = statistics.median(r["seconds"] for r in found)
                    add(
                        *(name, len(found)),
                        spread([run["unseen"] for run in found]),
                        spread([run["known"] for run in found]),
                        *(found[0]["passes"], f"{seconds / 60:.1f}"),
                    )


# ------------------------------------------------------------------------- main
#: Tables of a section, and how many seconds it may take.
SECTIONS = {
    "right": ((machine, scores, half, exact, repeated), 150),
    "waiting": ((waits, busy), 60),
    "fast": ((forward, training, parts, levels), 180),
    "fed": ((fed,), 50),
    "compiled": ((compiled,), 150),
    "unseen": ((unseen,), 600),
}


def run_apart(section, seconds):
    """Run a section in a process of its own; whether it worked in time."""
    command = [sys.executable, *sys.argv, "--only", section]
    # What torch's deterministic algorithms ask for.
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"\n**stopped after {seconds:.0f} s**", flush=True)
        return False
    finally:
        # With what it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_section(section, options):
    """Print the tables of a section; whether all of them worked."""
    for make in SECTIONS[section][0]:
        heading, _, text = make.__doc__.partition("\n")
        text = " ".join(text.split())
        print(f"\n### {heading}\n" + f"\n{text}\n" * bool(text), flush=True)
        with attempt(heading):
            make(options)
    return not FAILED


def main():
    """Run the sections one after the other, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS)
    )
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--data_folder", type=Path)
    parser.add_argument("--detectors", type=Path, nargs="+", default=[])
    parser.add_argument(
        "--passes", type=int, default=348, help="of a run of `unseen`"
    )
    parser.add_argument("--output_folder", type=Path, help="of `unseen`")
    parser.add_argument("--only", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; --device cpu tries the script")
    sys.path.insert(0, str(RECIPE))
    if options.only:
        sys.exit(not run_section(options.only, options))
    end, failed = time.monotonic() + 60 * options.minutes, []
    for section in options.sections:
        left = end - time.monotonic()
        if left < 5 or not run_apart(section, min(SECTIONS[section][1], left)):
            failed.append(section)
    if failed:
        raise SystemExit(f"not complete: {', '.join(failed)}")


if __name__ == "__main__":
    main()
