#!/usr/bin/env python3
"""EER and min t-DCF of one or more score files of ASVspoof2019 LA.

To run this script:

> python evaluate_tdcf.py scores.txt --data_folder /path/to/LA

It is `speechbrain-bilevel evaluate` with the ASV scores and the protocol of the
corpus: exactly the trials of the protocol have to have scores, and intervals
are over its speakers. --partition dev evaluates scores of dev.

Exit code: 0, or 2 if a file cannot be used; the message names file and line.
"""

import argparse
from pathlib import Path

from speechbrain_bilevel.cli.evaluate import add_arguments, run
from speechbrain_bilevel.dataio.protocols import asvspoof2019_protocol_path
from speechbrain_bilevel.utils.errors import exit_on_input_error

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_arguments(parser)
    parser.add_argument(
        "--data_folder",
        required=True,
        metavar="LA",
        help="the corpus, with its protocols and ASV scores",
    )
    parser.add_argument("--partition", choices=("dev", "eval"), default="eval")
    args = parser.parse_args()
    folder, partition = Path(args.data_folder), args.partition
    args.protocol = asvspoof2019_protocol_path(folder, partition)
    asv_scores = (
        folder
        / "ASVspoof2019_LA_asv_scores"
        / f"ASVspoof2019.LA.asv.{partition}.gi.trl.scores.txt"
    )
    args.asv_protocol = None
    args.asv_scores = asv_scores if asv_scores.is_file() else None
    with exit_on_input_error():
        run(args)
