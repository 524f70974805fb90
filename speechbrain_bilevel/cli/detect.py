"""``speechbrain-bilevel classify``: judges audio files."""

import sys

from speechbrain_bilevel.errors import InputError


def add_classify(commands):
    """Adds the command to the parser.

    Arguments
    ---------
    commands : argparse subparsers
    """
    parser = commands.add_parser(
        "classify",
        help="judge audio files",
        description="Prints 'bonafide' or 'spoof', the score (higher is more "
        "bona fide) and the file, a line each.",
    )
    parser.add_argument(
        "--source",
        required=True,
        metavar="FOLDER",
        help="pretrained folder, or user/name of a hub repository",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.set_defaults(run=_classify)


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
