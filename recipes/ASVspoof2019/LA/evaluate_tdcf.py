#!/usr/bin/env python3
"""EER and min t-DCF of one or more score files of ASVspoof2019 LA.

To run this script:

> python evaluate_tdcf.py scores.txt --asv-scores \\
>     LA/ASVspoof2019_LA_asv_scores/ASVspoof2019.LA.asv.eval.gi.trl.scores.txt

A score file has one trial a line, `utt source key score`, with key `bonafide`
or `spoof` and a higher score for bona fide. Printed are the pooled EER, the
min t-DCF (legacy 2019 form, only with --asv-scores) and the EER of every
attack. Several score files are also compared side by side. The ASV scores
come with the corpus and must be of the same partition. With --data-folder LA
the trials are checked: exactly those of the eval protocol must have scores.

Exit code: 0, or 2 if a file cannot be used; the message names file and line.
"""

import argparse
from pathlib import Path

from speechbrain_bilevel.dataio.protocols import read_asvspoof2019_protocol
from speechbrain_bilevel.errors import exit_on_input_error
from speechbrain_bilevel.metrics.report import (
    evaluate,
    format_report,
    side_by_side,
)
from speechbrain_bilevel.metrics.scores import (
    check_trials,
    read_asv_scores,
    read_cm_scores,
)


def parse_arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="EER and min t-DCF of ASVspoof2019 LA score files."
    )
    parser.add_argument(
        "scores",
        nargs="+",
        metavar="SCORES",
        help="score file with lines `utt source key score`",
    )
    parser.add_argument(
        "--asv-scores",
        metavar="FILE",
        help="ASV score file with lines `source key score`, for the t-DCF",
    )
    parser.add_argument(
        "--data-folder",
        metavar="LA",
        help="corpus whose eval protocol the scores must match",
    )
    return parser.parse_args()


def column_names(paths):
    """File names without folder and ending where these tell files apart."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(stems) else paths


if __name__ == "__main__":
    arguments = parse_arguments()
    with exit_on_input_error():
        asv = arguments.asv_scores and read_asv_scores(arguments.asv_scores)
        systems = [read_cm_scores(path) for path in arguments.scores]
        if arguments.data_folder:
            trials = read_asvspoof2019_protocol(arguments.data_folder, "eval")
            for scores in systems:
                check_trials(scores, [trial.utt for trial in trials])
        evaluations = [evaluate(scores, asv) for scores in systems]
    print("\n\n".join(map(format_report, evaluations)))
    if len(evaluations) > 1:
        names = column_names(arguments.scores)
        print("\n" + side_by_side(dict(zip(names, evaluations))))
