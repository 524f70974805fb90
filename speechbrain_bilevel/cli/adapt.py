"""``speechbrain-bilevel adapt``: fit a detector to recordings of one's own."""

import os

from speechbrain_bilevel.cli.options import (
    add_source_arguments,
    add_trials_arguments,
    finite_number,
    read_trials,
    refuse_existing,
    whole_number,
)
from speechbrain_bilevel.utils.errors import InputError


def add_adapt(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "adapt",
        help="fit a detector to a few labelled recordings of your own",
        description="Train a detector further on a list of recordings, bona "
        "fide and spoofed ones; 8 are enough to start, 100 are much better. "
        "What is trained, and for how long, is chosen by cross-validation over "
        "recordings. Where that shows no gain, nothing is written. What was "
        "gained holds for recordings of the same sources.",
    )
    parser.add_argument(
        "trials",
        metavar="TRIALS",
        help="list with labels, e.g. a CSV with the columns path and label; "
        "or the protocol or folder of a corpus",
    )
    parser.add_argument("folder", metavar="OUT", help="folder to write")
    add_source_arguments(parser)
    add_trials_arguments(parser)
    parser.add_argument(
        "--by",
        metavar="COLUMN",
        help="column of TRIALS that says which recording a clip was cut from, "
        "or speaker, to choose what works for other speakers; by default each "
        "file is a recording of its own",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        choices=("back_end", "normalization", "lora", "all"),
        help="what may be trained: back_end (all behind the front end), "
        "normalization (with the classifier), lora (low-rank changes of all "
        "weights), all; by default, all of these are tried",
    )
    parser.add_argument(
        "--minutes",
        type=finite_number,
        default=5.0,
        metavar="N",
        help="about how long it may take; what takes longer is not tried, and "
        "that is said (default: 5)",
    )
    parser.add_argument(
        "--old",
        metavar="TRIALS",
        help="what the source was made for, to measure what is forgotten: a "
        "list, or the folder of a corpus, whose dev set is taken",
    )
    parser.add_argument("--name", help="for the card; by default that of OUT")
    parser.add_argument(
        "--license", metavar="ID", help="for the card: see `export`"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="(default: 0)"
    )
    parser.set_defaults(run=_adapt)


def _adapt(args):
    from speechbrain_bilevel.inference.adaptation import METHODS, adapt_folder
    from speechbrain_bilevel.utils.distributed import local_device

    refuse_existing(args.folder)
    reading = {"columns": args.columns, "bonafide": args.bonafide}
    keep = () if args.by in (None, "speaker") else (args.by,)
    trials = read_trials(
        args.trials, args.data_folder, args.partition, keep=keep, **reading
    )
    recordings = None
    if args.by is not None:
        if args.by not in trials:
            raise InputError(f"{args.trials}: has no column {args.by}")
        recordings = trials[args.by].astype(str).to_numpy()
        unknown = int((recordings == "-").sum())
        if unknown:
            raise InputError(
                f"{args.trials}: {args.by} is unknown in {unknown} of "
                f"{len(trials)} lines; complete them, or leave out --by"
            )
    old = None
    if args.old:
        part = "dev" if os.path.isdir(args.old) else None
        old = read_trials(args.old, partition=part)
    _, summary = adapt_folder(
        args.source,
        trials,
        args.folder,
        recordings,
        old,
        args.name,
        args.license,
        local_device(args.device),
        methods=args.methods or METHODS,
        minutes=args.minutes,
        seed=args.seed,
    )
    print(f"{summary}\n{args.folder}: see its README.md")
    return 0
