"""Writes the toy corpus from the command line.

To run it, in the folder of the recipe:
> python -m toy_corpus FOLDER
"""

import argparse

from speechbrain_bilevel.utils.errors import exit_on_input_error
from toy_corpus import write_toy_corpus

parser = argparse.ArgumentParser(
    prog="python -m toy_corpus",
    description="Write a synthetic corpus in the layout of ASVspoof2019 LA. "
    "Results on it mean nothing.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
parser.add_argument("folder", help="where to write it, e.g. toy/LA")
parser.add_argument(
    "--clips_per_attack", type=int, default=16, help="in train; elsewhere half"
)
parser.add_argument("--bonafide", type=int, default=96, help="clips in train")
parser.add_argument("--seed", type=int, default=0, help="at least 0")
with exit_on_input_error():
    write_toy_corpus(**vars(parser.parse_args()))
