"""The ``speechbrain-bilevel`` command."""

import logging
import sys

from speechbrain_bilevel.cli.adapt import add_adapt
from speechbrain_bilevel.cli.classify import add_classify
from speechbrain_bilevel.cli.evaluate import add_evaluate
from speechbrain_bilevel.cli.fuse import add_calibrate, add_fuse
from speechbrain_bilevel.cli.options import Parser
from speechbrain_bilevel.cli.page import add_page
from speechbrain_bilevel.cli.prepare import add_prepare
from speechbrain_bilevel.cli.score import add_score
from speechbrain_bilevel.cli.share import add_export, add_import, add_push
from speechbrain_bilevel.utils.errors import exit_on_input_error

_COMMANDS = (
    add_classify,
    add_page,
    add_prepare,
    add_score,
    add_evaluate,
    add_calibrate,
    add_fuse,
    add_adapt,
    add_export,
    add_push,
    add_import,
)


def main(arguments=None):
    """Run the command and return its exit code.

    It exits with code 2 on input that cannot be used. ``arguments`` are those
    after the command's name; by default ``sys.argv``'s.
    """
    with exit_on_input_error():
        # File names may have characters that the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
        parser = Parser(
            prog="speechbrain-bilevel",
            description="Tell bona fide from spoofed speech.",
        )
        commands = parser.add_subparsers(required=True, metavar="COMMAND")
        for add_command in _COMMANDS:
            add_command(commands)
        args = parser.parse_args(arguments)
        # SpeechBrain logs each fetched file; a verdict should stand alone.
        logging.getLogger("speechbrain").setLevel(logging.WARNING)
        return args.run(args)
