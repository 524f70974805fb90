"""``speechbrain-bilevel evaluate``: all figures of one or more score files."""

import argparse
from pathlib import Path

from speechbrain_bilevel.cli.options import (
    add_reading_arguments,
    finite_number,
    whole_number,
)
from speechbrain_bilevel.utils.errors import InputError

DESCRIPTION = """\
EER, min t-DCF (2019 and 2021) and the metrics of ASVspoof 5 from score files
alone, pooled and of each attack, with 95 % intervals; several systems are set
side by side and, on the same trials, compared by a paired test.

Score files of ASVspoof 2019, 2021 and 5, NII's toolkit, DeepFense, pandas and
others are recognized, and what each was taken for is printed; a higher score
means bona fide. The protocol is that of a corpus (see `prepare`), a key, a
manifest or a list with `path,label`."""

#: All figures of each resample are kept in memory; far fewer are enough.
MAX_RESAMPLES = 100_000


def add_evaluate(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "evaluate",
        help="error rates and costs of score files, with intervals",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "--asv-scores",
        metavar="FILE",
        help="ASV scores, lines `source key score`, for the t-DCF",
    )
    parser.add_argument(
        "--asv-protocol",
        metavar="FILE",
        help="trial_metadata.txt of ASVspoof2021's ASV scores, which have "
        "lines `speaker utt score`",
    )
    parser.add_argument(
        "--protocol",
        metavar="FILE",
        help="which trials have to have scores, their keys and speakers",
    )
    parser.add_argument(
        "--partition",
        metavar="NAME",
        help="which trials of the protocol; default: eval where there are any",
    )
    parser.set_defaults(run=run)


def add_arguments(parser):
    """Add the arguments for an evaluation of any corpus to a parser."""
    parser.add_argument("scores", nargs="+", metavar="SCORES")
    add_reading_arguments(parser, "SCORES", "utt - score")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write metrics.json, metrics.txt, report.html and PNG plots there",
    )
    parser.add_argument(
        "--resample",
        choices=("speakers", "utterances"),
        help="what the intervals are over; default: speakers where the "
        "protocol has ten or more, else utterances",
    )
    parser.add_argument(
        "--resamples",
        type=whole_number(0, MAX_RESAMPLES),
        default=1000,
        metavar="N",
        help="number of resamples, 0 to 100000; 0: no intervals (default: "
        "1000)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="of the resamples"
    )
    parser.add_argument(
        "--threshold",
        type=finite_number,
        metavar="X",
        help="give the error rates and t-DCF at this score too, e.g. one that "
        "was fixed on dev",
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="give the figures of each value of this column of the protocol, "
        "e.g. codec or speaker; may be repeated. By attack they always are",
    )


def run(args):
    """Print the report, write it to ``--output``; return the exit code."""
    from speechbrain_bilevel.dataio.protocols import read_protocol
    from speechbrain_bilevel.evaluation import score_files
    from speechbrain_bilevel.evaluation.bootstrap import default_resampling
    from speechbrain_bilevel.evaluation.evaluate import evaluate
    from speechbrain_bilevel.evaluation.format import format_report
    from speechbrain_bilevel.evaluation.report import check_report, write_report

    _refuse_idle_options(args)
    if args.output is not None:
        check_report(args.output)
    asv = None
    if args.asv_scores:
        # As for the countermeasure, official figures are those of eval.
        asv = score_files.read_asv_scores(
            args.asv_scores, args.asv_protocol, args.partition or "eval"
        )
    trials = None
    if args.protocol:
        trials = read_protocol(
            args.protocol, bonafide=args.bonafide, keep=args.by
        )
    systems = [
        score_files.read_cm_scores(
            path,
            trials,
            args.partition,
            columns=args.columns,
            bonafide=args.bonafide,
        )
        for path in args.scores
    ]
    resample = args.resample or default_resampling(systems)
    report = evaluate(
        systems,
        asv,
        resample=resample if args.resamples else None,
        n_resamples=args.resamples,
        seed=args.seed,
        names=system_names(args.scores),
        threshold=args.threshold,
        by=args.by,
    )
    if args.output is not None:
        write_report(report, args.output)
    print(format_report(report))
    if args.output is not None:
        print(f"\nreport: {Path(args.output, 'report.html')}")
    return 0


def _refuse_idle_options(args):
    """Refuse options that would have no effect."""
    if args.asv_protocol and not args.asv_scores:
        raise InputError("--asv-protocol belongs to --asv-scores; leave it out")
    if args.by and not args.protocol:
        raise InputError(
            "--by names a column of a protocol; give the protocol too"
        )
    if args.partition and not (args.protocol or args.asv_protocol):
        raise InputError(
            "--partition is one of a protocol; give --protocol too, or leave "
            "it out"
        )


def system_names(paths):
    """Return the shortest names that distinguish the score files.

    These are file names without ending; if they are equal, parts of the path in
    front of them.

    Example
    -------
    >>> system_names(["plain/eval_scores.txt", "bilevel/eval_scores.txt"])
    ['plain', 'bilevel']
    """
    parts = [_without_ending(Path(path)).parts for path in paths]
    if len(paths) > 1:
        while len({part[-1] for part in parts}) == 1 < min(map(len, parts)):
            parts = [part[:-1] for part in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    # One file given twice, or files that differ in their ending only.
    return [f"{path} ({i})" for i, path in enumerate(paths, start=1)]


def _without_ending(path):
    # A part of the name, as in lr_0.1, may look like an ending.
    is_ending = path.suffix in (".txt", ".csv", ".tsv")
    return path.with_suffix("") if is_ending else path
