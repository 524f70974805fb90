"""The ``speechbrain-bilevel`` command."""

import argparse
import logging
import sys

from speechbrain_bilevel.errors import InputError, exit_on_input_error


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

    classify = commands.add_parser(
        "classify",
        help="judge audio files",
        description="Prints 'bonafide' or 'spoof', the score (higher is more "
        "bona fide) and the file, a line each.",
    )
    classify.add_argument(
        "--source",
        required=True,
        metavar="FOLDER",
        help="pretrained folder, or user/name of a hub repository",
    )
    classify.add_argument("files", nargs="+", metavar="FILE")
    classify.set_defaults(run=_classify)

    toy = commands.add_parser(
        "toy",
        help="write a small synthetic corpus to try things out",
        description="Writes a synthetic corpus in the layout of ASVspoof2019 "
        "LA. Results on it mean nothing.",
    )
    toy.add_argument("folder", metavar="FOLDER", help="the LA folder to write")
    toy.set_defaults(run=_toy)
    return parser


def _classify(args):
    from speechbrain_bilevel.inference import SpoofDetector

    detector = SpoofDetector.from_hparams(args.source)
    failed = False
    for path in args.files:
        try:
            _, score, _, label = detector.classify_file(path)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{label[0]:8} {score.item():+10.4f}  {path}")
    return 2 if failed else 0


def _toy(args):
    from speechbrain_bilevel.dataio.toy import write_toy_corpus

    write_toy_corpus(args.folder)
    return 0


if __name__ == "__main__":
    main()
