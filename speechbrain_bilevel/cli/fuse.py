"""``speechbrain-bilevel calibrate`` and ``fuse``: better scores from scores."""

import sys
from dataclasses import replace

import numpy as np

from speechbrain_bilevel.cli.evaluate import system_names
from speechbrain_bilevel.cli.options import finite_number
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.evaluation.score_files import (
    check_trials,
    read_cm_scores,
    refuse_other_keys,
    reordered,
    write_cm_scores,
)
from speechbrain_bilevel.evaluation.text import eer_warning
from speechbrain_bilevel.metrics.asvspoof5 import act_dcf, cllr, min_dcf
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.utils.errors import InputError, printable
from speechbrain_bilevel.utils.files import check_target, refuse_overwriting


def add_calibrate(commands):
    """Adds the command to the parser.

    Arguments
    ---------
    commands : argparse subparsers
    """
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
    parser.set_defaults(run=_calibrate)


def add_fuse(commands):
    """Adds the command to the parser.

    Arguments
    ---------
    commands : argparse subparsers
    """
    parser = commands.add_parser(
        "fuse",
        help="fuse the scores of several systems",
        description="Writes weighted sums of the scores exactly as the files "
        "give them. Nothing is normalised first: with equal --weights, the "
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


def _calibrate(args):
    return _apply(args, "calibrated")


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


def _apply(args, fused_name):
    """Finds the weights, writes the sums, then tells how good they are."""
    check_target(args.output)
    inputs = [*args.scores, *(args.learn or []), args.protocol]
    refuse_overwriting([args.output], [*inputs, args.dev_protocol])
    trials, scores = _read_systems(
        args.scores, args.protocol, args.partition, "eval"
    )
    if args.learn:
        fusion, report = _learned(args, trials, fused_name)
    else:
        fusion, report = _given(args), []
    fused = replace(trials, score=fusion(scores))
    report += _figures(args.output, fused, args.scores, scores, fused_name)
    write_cm_scores(args.output, fused)
    _warn_of_negative_weights(args.scores, fusion.weights)
    for path, weight in zip(args.scores, fusion.weights):
        print(f"weight {weight:.9g}  {path}")
    print(f"bias {fusion.bias:.9g}")
    print("\n".join(report))
    return 0


def _given(args):
    """The weights of the command line."""
    from speechbrain_bilevel.metrics.calibration import LinearFusion

    _check_count("--weights", args.weights, args.scores)
    if not any(args.weights):
        raise InputError("--weights are all 0; expected another number")
    return LinearFusion(tuple(args.weights), 0.0)


def _learned(args, trials, fused_name):
    """The weights that dev teaches, and the figures on dev."""
    from speechbrain_bilevel.metrics.calibration import learn_fusion

    _check_count("--learn", args.learn, args.scores)
    dev, scores = _read_systems(
        args.learn, args.dev_protocol, args.dev_partition, "dev", need_keys=True
    )
    _warn_of_shared_trials(dev, trials)
    fusion = learn_fusion(scores, dev.is_bonafide, args.learn)
    fused = replace(dev, score=fusion(scores))
    return fusion, _figures("dev", fused, args.learn, scores, fused_name)


def _check_count(option, values, paths):
    if len(values) != len(paths):
        raise InputError(
            f"{option} has {len(values)} values for {len(paths)} score files; "
            "expected one for each, in the same order"
        )


def _read_systems(paths, protocol, partition, usual, need_keys=False):
    """The trials, in the first file's order, and a column for each system."""
    if partition and not protocol:
        raise InputError(
            f"partition {partition}: without a protocol nothing tells which "
            "trials these are; give --protocol or --dev-protocol"
        )
    trials = protocol and read_protocol(protocol)
    if not partition and any(t.partition == usual for t in trials or []):
        partition = usual
    first, *others = (
        read_cm_scores(path, trials, partition, need_keys) for path in paths
    )
    systems = [first, *(_in_order_of(first, other) for other in others)]
    keyed = [system for system in systems if system.is_bonafide is not None]
    for system in keyed[1:]:
        refuse_other_keys(keyed[0], system)
    return (keyed or systems)[0], np.column_stack([s.score for s in systems])


def _in_order_of(first, other):
    """The other system's trials in the order of the first's."""
    check_trials(other, first.utt.tolist(), first.path)
    position = {utt: index for index, utt in enumerate(other.utt)}
    return reordered(other, [position[utt] for utt in first.utt])


def _figures(title, fused, paths, scores, fused_name):
    """Lines of a table: each system alone, then what came of them."""
    is_bonafide = fused.is_bonafide
    if is_bonafide is None:
        return ["", f"{title}: without keys there are no figures (--protocol)"]
    if is_bonafide.all() or not is_bonafide.any():
        return ["", f"{title}: one class alone has no figures"]
    n_bonafide = is_bonafide.sum()
    n_spoof = len(is_bonafide) - n_bonafide
    names = [printable(name, 40) for name in system_names(paths)]
    names.append(fused_name)
    width = max(map(len, names))
    lines = ["", f"{title}: {n_bonafide} bona fide, {n_spoof} spoof"]
    lines.append(f"{'':{width}}     Cllr   actDCF   minDCF    EER %")
    for name, column in zip(names, [*scores.T, fused.score]):
        classes = column[is_bonafide], column[~is_bonafide]
        lines.append(
            f"{name:{width}} {cllr(*classes):8.4f} {act_dcf(*classes):8.4f} "
            f"{min_dcf(*classes)[0]:8.4f} {100 * eer(*classes)[0]:8.3f}"
        )
        negated = (-each for each in classes)
        warning = eer_warning(name, eer(*classes)[0], eer(*negated)[0])
        if warning:
            print(warning, file=sys.stderr)
    return lines


def _warn_of_shared_trials(dev, trials):
    shared = len(set(dev.utt) & set(trials.utt))
    if shared:
        _warn(
            f"LEARNED ON WHAT IS SCORED: {shared} of the {len(trials.utt)} "
            "trials are also among those learned from. The figures flatter, "
            "and say nothing about new trials"
        )


def _warn_of_negative_weights(paths, weights):
    for path, weight in zip(paths, weights):
        if weight < 0:
            _warn(
                f"{path} has the negative weight {weight:.4g}: the higher its "
                "score, the more the fusion takes the trial for spoof"
            )


def _warn(text):
    print(f"warning: {text}", file=sys.stderr)
