#!/usr/bin/env python3
"""EER and min t-DCF of one or more score files of ASVspoof2019 LA.

To run this script:

> python evaluate_tdcf.py scores.txt --asv_scores asv_scores.txt

Score files have lines `utt source key score`, ASV scores `source key score`;
without these there is no t-DCF. With

> python evaluate_tdcf.py scores.txt --data_folder /path/to/LA

exactly the trials of the corpus' protocol have to have scores, intervals are
over its speakers, and its ASV scores are used, if it has any. --partition dev
evaluates scores of dev. This is `speechbrain-bilevel evaluate` with the files
of this corpus.

Exit code: 0, or 2 if a file cannot be used; the message names file and line.
"""

import argparse
from pathlib import Path

from speechbrain_bilevel.cli.evaluate import add_arguments, run
from speechbrain_bilevel.dataio.protocols import asvspoof2019_protocol_path
from speechbrain_bilevel.utils.errors import InputError, exit_on_input_error


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument(
        "--asv_scores",
        metavar="FILE",
        help="scores of the ASV system, for the t-DCF",
    )
    parser.add_argument(
        "--data_folder",
        metavar="LA",
        help="the corpus, with its protocols and ASV scores",
    )
    parser.add_argument(
        "--partition",
        choices=("dev", "eval"),
        help="which protocol of the corpus; default: eval",
    )
    parser.set_defaults(protocol=None, asv_protocol=None)
    return parser.parse_args()


def find_files(args):
    """Find the protocol and, where the corpus has any, the ASV scores."""
    if args.data_folder is None:
        if args.partition:
            raise InputError(
                "--partition belongs to --data_folder; leave it out"
            )
        return
    folder, partition = Path(args.data_folder), args.partition or "eval"
    args.protocol = asvspoof2019_protocol_path(folder, partition)
    name = f"ASVspoof2019.LA.asv.{partition}.gi.trl.scores.txt"
    asv_scores = folder / "ASVspoof2019_LA_asv_scores" / name
    if args.asv_scores is None and asv_scores.is_file():
        args.asv_scores = asv_scores


if __name__ == "__main__":
    args = parse_arguments()
    with exit_on_input_error():
        find_files(args)
        run(args)
