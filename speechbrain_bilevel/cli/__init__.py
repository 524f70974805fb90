"""The ``speechbrain-bilevel`` command."""

import argparse
import logging
import sys

from speechbrain_bilevel.cli.corpora import add_prepare, add_toy
from speechbrain_bilevel.cli.detect import add_classify
from speechbrain_bilevel.cli.evaluate import add_evaluate
from speechbrain_bilevel.cli.fusion import add_calibrate, add_fuse
from speechbrain_bilevel.cli.score import add_score
from speechbrain_bilevel.errors import exit_on_input_error


def main(arguments=None):
    """Runs the command; exit code 2 when some input could not be used.

    Arguments
    ---------
    arguments : list of str
        What follows the command's name; by default ``sys.argv``'s.
    """
    args = _parser().parse_args(arguments)
    # SpeechBrain tells of each fetched file; a verdict should stand alone.
    logging.getLogger("speechbrain").setLevel(logging.WARNING)
    with exit_on_input_error():
        sys.exit(args.run(args))


def _parser():
    parser = argparse.ArgumentParser(
        prog="speechbrain-bilevel", description="Tells bona fide from spoof."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in (
        add_classify,
        add_toy,
        add_evaluate,
        add_prepare,
        add_calibrate,
        add_fuse,
        add_score,
    ):
        add_command(commands)
    return parser
