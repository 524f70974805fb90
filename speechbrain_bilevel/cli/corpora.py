"""``speechbrain-bilevel toy``: corpora on disk."""


def add_toy(commands):
    """Adds the command to the parser.

    Arguments
    ---------
    commands : argparse subparsers
    """
    parser = commands.add_parser(
        "toy",
        help="write a small synthetic corpus to try things out",
        description="Writes a synthetic corpus in the layout of ASVspoof2019 "
        "LA. Results on it mean nothing.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the LA folder to write")
    parser.set_defaults(run=_toy)


def _toy(args):
    from speechbrain_bilevel.dataio.toy import write_toy_corpus

    write_toy_corpus(args.folder)
    return 0
