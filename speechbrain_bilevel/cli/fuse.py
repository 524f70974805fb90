"""``speechbrain-bilevel calibrate`` and ``fuse``: better scores from scores."""

import sys

from speechbrain_bilevel.cli.evaluate import system_names
from speechbrain_bilevel.cli.options import (
    add_reading_arguments,
    finite_number,
)
from speechbrain_bilevel.utils.errors import InputError, printable


def add_calibrate(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "calibrate",
        help="turn scores into log-likelihood ratios",
        description="Learns a weight and a bias on dev and writes weight * "
        "score + bias: the log-likelihood ratio (natural logarithm) of bona "
        "fide against spoof. EER and minDCF stay as they are; Cllr and actDCF, "
        "which take scores for log-likelihood ratios, fall.",
    )
    parser.add_argument(
        "scores", nargs=1, metavar="SCORES", help="scores to calibrate"
    )
    parser.add_argument(
        "--learn",
        required=True,
        nargs=1,
        metavar="DEV",
        help="scores of the same system on dev, to learn from",
    )
    _add_common_arguments(parser)
    parser.set_defaults(run=lambda args: _apply(args, "calibrated"))


def add_fuse(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "fuse",
        help="fuse the scores of several systems",
        description="Writes weighted sums of the scores exactly as the files "
        "give them. Nothing is normalized first: with equal --weights, the "
        "system whose scores spread widest counts most. With --learn, weights "
        "and a bias come from logistic regression on dev, and the sums are "
        "log-likelihood ratios (natural logarithm). Cllr and actDCF take all "
        "scores for such.",
    )
    parser.add_argument(
        "scores", nargs="+", metavar="SCORES", help="a file for each system"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--weights",
        nargs="+",
        type=finite_number,
        metavar="WEIGHT",
        help="a weight for each system",
    )
    how.add_argument(
        "--learn",
        nargs="+",
        metavar="DEV",
        help="scores of each system on dev, in the same order, to learn from",
    )
    _add_common_arguments(parser)
    parser.set_defaults(run=_fuse)


def _add_common_arguments(parser):
    add_reading_arguments(parser, "SCORES and DEV", "utt - score")
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="score file to write"
    )
    parser.add_argument(
        "--protocol", metavar="FILE", help="trials and keys of SCORES"
    )
    parser.add_argument(
        "--partition",
        metavar="NAME",
        help="which trials of --protocol; default: eval where there are any",
    )
    parser.add_argument(
        "--dev-protocol", metavar="FILE", help="trials and keys of DEV"
    )
    parser.add_argument(
        "--dev-partition",
        metavar="NAME",
        help="which trials of --dev-protocol; default: dev where there are any",
    )


def _fuse(args):
    if len(args.scores) < 2:
        raise InputError(
            f"one score file ({args.scores[0]}); expected one for each of two "
            "or more systems. For a single system there is `calibrate`"
        )
    if (args.dev_protocol or args.dev_partition) and not args.learn:
        raise InputError(
            "--dev-protocol and --dev-partition belong to --learn; leave them "
            "out"
        )
    return _apply(args, "fusion")


def _apply(args, title):
    """Find the weights, write the sums, and print how good they are."""
    from speechbrain_bilevel.evaluation.score_files import write_cm_scores
    from speechbrain_bilevel.utils.files import check_target

    check_target(args.output)
    trials, scores, readings = _read_systems(
        args, args.scores, args.protocol, args.partition, "eval"
    )
    if args.learn:
        fusion, report = _learn(args, trials, title)
    else:
        fusion, report = _take_weights(args), []
    report = [*readings, *report]
    fused = trials.assign(score=fusion(scores))
    report += _table(args.output, fused, args.scores, scores, title)
    # Another run may have been faster.
    check_target(args.output)
    write_cm_scores(args.output, fused)
    for path, weight in zip(args.scores, fusion.weights):
        if weight < 0:
            _warn(
                f"{path} has the negative weight {weight:.4g}: the higher its "
                "score, the more the fusion takes the trial for spoof"
            )
        print(f"weight {weight:.9g}  {path}")
    print(f"bias {fusion.bias:.9g}")
    print("\n".join(report))
    return 0


def _take_weights(args):
    from speechbrain_bilevel.metrics.calibration import LinearFusion

    _check_count("--weights", args.weights, args.scores)
    if not any(args.weights):
        raise InputError("--weights are all 0; expected another number")
    return LinearFusion(tuple(args.weights), 0.0)


def _learn(args, trials, title):
    """Return the weights learned on dev, and the table of dev."""
    from speechbrain_bilevel.dataio import BONAFIDE
    from speechbrain_bilevel.metrics.calibration import learn_fusion

    _check_count("--learn", args.learn, args.scores)
    dev, scores, readings = _read_systems(
        args,
        args.learn,
        args.dev_protocol,
        args.dev_partition,
        "dev",
        need_keys=True,
    )
    n_shared = len(set(dev.utt) & set(trials.utt))
    if n_shared:
        _warn(
            f"LEARNED ON WHAT IS SCORED: {n_shared} of the {len(trials)} "
            "trials are also among those learned from. The figures flatter, "
            "and say nothing about new trials"
        )
    fusion = learn_fusion(scores, dev.label == BONAFIDE, args.learn)
    fused = dev.assign(score=fusion(scores))
    table = _table("dev", fused, args.learn, scores, title)
    return fusion, [*readings, *table]


def _check_count(option, values, paths):
    if len(values) != len(paths):
        raise InputError(
            f"{option} has {len(values)} values for {len(paths)} score files; "
            "expected one for each, in the same order"
        )


def _read_systems(args, paths, protocol, partition, default, need_keys=False):
    """Return trials in the first file's order, a column for each system, and
    what each file was taken for."""
    from speechbrain_bilevel.dataio.protocols import read_protocol
    from speechbrain_bilevel.evaluation.format import read_as
    from speechbrain_bilevel.evaluation.score_files import (
        align_scores,
        read_cm_scores,
    )

    if partition and not protocol:
        raise InputError(
            f"partition {partition}: without a protocol it is unknown which "
            "trials these are; give --protocol or --dev-protocol"
        )
    trials = None
    if protocol:
        trials = read_protocol(protocol, bonafide=args.bonafide)
    if not partition and protocol and (trials.partition == default).any():
        partition = default
    systems = [
        read_cm_scores(
            path, trials, partition, need_keys, args.columns, args.bonafide
        )
        for path in paths
    ]
    return *align_scores(systems), [*map(read_as, paths, systems)]


def _table(name, fused, paths, scores, title):
    """Return lines of a table: each system alone, then the result."""
    from speechbrain_bilevel.evaluation.format import eer_warning, shout
    from speechbrain_bilevel.evaluation.score_files import split_classes
    from speechbrain_bilevel.metrics.asvspoof5 import act_dcf, cllr, min_dcf
    from speechbrain_bilevel.metrics.eer import eer

    if "label" not in fused:
        return ["", f"{name}: without keys there are no figures (--protocol)"]
    if fused.label.nunique() < 2:
        return ["", f"{name}: one class alone has no figures"]
    names = [printable(each, 40) for each in system_names(paths)] + [title]
    width = max(map(len, names))
    n_bonafide, n_spoof = map(len, split_classes(fused))
    lines = ["", f"{name}: {n_bonafide} bona fide, {n_spoof} spoof"]
    lines.append(f"{'':{width}}     Cllr   actDCF   minDCF    EER %")
    for each, column in zip(names, [*scores.T, fused.score]):
        bonafide, spoof = split_classes(fused.assign(score=column))
        rate, _ = eer(bonafide, spoof)
        lines.append(
            f"{each:{width}} {cllr(bonafide, spoof):8.4f} "
            f"{act_dcf(bonafide, spoof):8.4f} "
            f"{min_dcf(bonafide, spoof)[0]:8.4f} {100 * rate:8.3f}"
        )
        warning = shout(*eer_warning(each, rate, eer(-bonafide, -spoof)[0]))
        if warning:
            print(warning, file=sys.stderr)
    return lines


def _warn(text):
    print(f"warning: {text}", file=sys.stderr)
