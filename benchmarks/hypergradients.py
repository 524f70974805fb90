#!/usr/bin/env python3
"""Race the hypergradient strategies against plain training and libraries.

> python benchmarks/hypergradients.py
> python benchmarks/hypergradients.py --problem quadratic --strategies cg

Prints a table for each problem. Each row is measured in a process of its own,
in which the row's steps alternate with plain ones, so that a change of the
machine's speed meets both. Progress goes to stderr.
"""

import argparse
import importlib.util
import json
from operator import attrgetter

import libraries
import torch
from measure import KEEP, apart, peak_memory, quartiles, table, timed
from problems import PROBLEMS, REFERENCES, UNROLLED, QuadraticProblem, flat
from tqdm import tqdm

PLAIN = "Two plain steps"
TERMS, ITERATIONS = 3, 5

# ----------------------------------------------------------------------- rows
LIBRARIES = {"TorchOpt": "torchopt", "higher": "higher", "Betty": "betty"}
# A row's rivals are those on the other side of the line that it is in.
RIVALS = (
    ("Alternating, bare autograd", "Alternating"),
    ("TorchOpt one step; higher one step", "OneStepUnrolled at_step, reverse"),
    ("Betty darts", "OneStepUnrolled at_step, difference"),
    ("Betty neumann", "NeumannAID"),
    ("Betty cg; TorchOpt cg", "CGAID"),
    ("Betty sama", "SAMA"),
)


def rows():
    """For each row's name, how its step is made and which of ``REFERENCES`` it
    computes: the first that the problem knows."""
    ours, betty = libraries.ours, libraries.betty
    lr, size = attrgetter("lower_lr"), attrgetter("step_size")
    cg = {"iterations": ITERATIONS, "damping": attrgetter("damping")}
    unrolled = ours("TruncatedUnrolled", steps=UNROLLED, lower_steps=UNROLLED)
    neumann = ours("NeumannAID", terms=TERMS, step_size=size)
    table = {
        PLAIN: (libraries.plain, ""),
        "Alternating, bare autograd": (libraries.bare, "exact step"),
        "Alternating": (ours("Alternating"), "exact step"),
    }
    for where, hvp_mode in (
        ("at_step", "reverse"),
        ("at_step", "forward"),
        ("at_step", "difference"),
        ("ahead", "reverse"),
    ):
        table[f"OneStepUnrolled {where}, {hvp_mode}"] = (
            ours("OneStepUnrolled", evaluate=where, hvp_mode=hvp_mode),
            where.removeprefix("at_"),
        )
    # Betty's iterations follow the first term.
    series = {"neumann_iterations": TERMS - 1, "neumann_alpha": size}
    return table | {
        f"TruncatedUnrolled, {UNROLLED} steps": (unrolled, "steps"),
        f"NeumannAID, {TERMS} terms": (neumann, "exact"),
        f"CGAID, {ITERATIONS} iterations": (ours("CGAID", **cg), "exact"),
        "CGAID, warm start": (ours("CGAID", warm_start=True, **cg), "exact"),
        "SOBA": (ours("SOBA", step_size=size), "exact"),
        "F2SA": (ours("F2SA", penalty=100.0), "exact"),
        "F2SA, order 2": (ours("F2SA", penalty=100.0, order=2), "exact"),
        "BOME": (ours("BOME", step_size=size), ""),
        "SAMA": (ours("SAMA"), "step"),
        "MLDG": (ours("MLDG", step_size=lr), ""),
        "TorchOpt one step": (libraries.torchopt_one_step, "step"),
        "TorchOpt cg": (libraries.torchopt_cg(ITERATIONS), "exact"),
        "higher one step": (libraries.higher_one_step, "step"),
        "Betty darts": (betty("darts"), "unit"),
        "Betty neumann": (betty("neumann", **series), "exact"),
        "Betty cg": (betty("cg", cg_iterations=ITERATIONS), "exact"),
        "Betty sama": (betty("sama"), "unit step"),
    }


def rival(name):
    """What a row is to be compared with."""
    for pair in RIVALS:
        for mine, others in (pair, pair[::-1]):
            if any(name.startswith(part) for part in mine.split("; ")):
                return others
    return "-"


# ---------------------------------------------------------------- measurement
def measure(name, problem, rounds, device):
    """One row, in a process that has measured nothing else.

    Returns
    -------
    dict
        "times": of each round, relative to plain steps; "error" and
        "reference", or None
    """
    make, references = rows()[name]
    # What is imported or built once is not what a step costs.
    make(QuadraticProblem(device))[0]()
    step, _ = make(PROBLEMS[problem](device))
    step()
    ordinary, _ = libraries.plain(PROBLEMS[problem](device))
    repeats = PROBLEMS[problem].repeats
    times = [
        seconds(step, repeats) / seconds(ordinary, repeats)
        for _ in range(rounds + 1)
    ]
    found = {"times": times[1:], "error": None}
    for kind in references.split():
        reference = PROBLEMS[problem](device, held=True).reference(kind)
        if reference is not None:
            held = PROBLEMS[problem](device, held=True)
            error = upper_gradient(held, make) - reference
            found["error"] = (error.norm() / reference.norm()).item()
            found["reference"] = kind
            break
    return found


def seconds(step, repeats):
    """The time that some steps take."""
    return timed(lambda: [step() for _ in range(repeats)])


def step_memory(problem, make):
    """The bytes that two steps, the first included, need at most beside the
    network and its batches; optimizers and copies of parameters count."""
    for level in ("lower", "upper"):
        problem.evaluate(level).backward()
    problem.network.zero_grad()

    def steps():
        step, _ = make(problem)
        for _ in range(2):
            step()

    return peak_memory(steps)


def upper_gradient(problem, make):
    """What the upper optimizer is given at step ``settle``."""
    step, optimizer = make(problem)
    taken = []

    def take(optimizer, args, kwargs):
        (group,) = optimizer.param_groups
        taken[:] = [flat(p.grad for p in group["params"])]

    optimizer.register_step_pre_hook(take)
    for _ in range(problem.settle):
        step()
    return taken[0]


# ---------------------------------------------------------------------- table
def measured_apart(name, problem, args):
    """``measure`` and ``step_memory``, each in a fresh process; a text where
    that did not work."""
    library = LIBRARIES.get(name.split()[0])
    if library and importlib.util.find_spec(library) is None:
        return "not installed"
    words = ["--row", name, "--problem", problem]
    for option in ("rounds", "device", "threads"):
        words += [f"--{option}", str(getattr(args, option))]
    found = apart(__file__, *words, **KEEP)
    if isinstance(found, dict):
        # What is freed is given back at once, so that only what is in use
        # counts.
        found["peak"] = apart(
            __file__, *words, "--memory", MALLOC_TRIM_THRESHOLD_="0"
        )
    return found


def cells(found, plain_peak):
    """Time, memory and error of a row as text."""
    if isinstance(found, str):
        return [found, "-", "-"]
    memory = error = "-"
    # What is smaller is lost among pages.
    if plain_peak and plain_peak > 2**24:
        memory = f"{found['peak'] / plain_peak:.2f}"
    if found["error"] is not None:
        error = f"{found['error']:.1e} ({found['reference']})"
    return [quartiles(found["times"]), memory, error]


def report(problem, args):
    """Print the table of a problem."""
    names = [
        name
        for name in rows()
        if name == PLAIN
        or any(part.lower() in name.lower() for part in args.strategies)
    ]
    if problem != "quadratic":
        names = [name for name in names if name != "TorchOpt cg"]
    found = {
        name: measured_apart(name, problem, args)
        for name in tqdm(names, desc=problem)
    }
    reference = found[PLAIN]
    if isinstance(reference, str):
        raise SystemExit(f"{PLAIN}: {reference}")
    heads = "strategy", "compare with", "time", "peak memory", "error"
    table(
        heads,
        [
            [name, rival(name), *cells(found[name], reference["peak"])]
            for name in names
        ],
    )


def main():
    """Measure one row, or report on all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, help="default: all")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--strategies", nargs="+", default=[""], help="parts of rows' names"
    )
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds: quartiles need at least 2")
    torch.set_num_threads(args.threads)
    if args.memory:
        make, _ = rows()[args.row]
        make(QuadraticProblem(args.device))[0]()
        print(step_memory(PROBLEMS[args.problem](args.device), make))
        return
    if args.row:
        found = measure(args.row, args.problem, args.rounds, args.device)
        print(json.dumps(found))
        return
    for problem in [args.problem] if args.problem else PROBLEMS:
        print(f"{problem}, {args.device}, {args.threads} threads\n")
        report(problem, args)
        print()
    print(
        "Time (median and quartiles) and memory are relative to two plain steps"
        "\nof SpeechBrain, one on each level's batch. The error of the upper"
        "\ngradient is relative, in double precision with x held, against:\n"
    )
    print("\n".join(f"- {name}: {what}" for name, what in REFERENCES.items()))


if __name__ == "__main__":
    main()
