"""``speechbrain-bilevel prepare``: write the manifest of a corpus."""


def add_prepare(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "prepare",
        help="check a corpus and write a manifest of it",
        description="Checks that all audio of a corpus can be read and writes "
        "a CSV of it. Knows ASVspoof2019 LA, ASVspoof2021 LA and DF, "
        "ASVspoof5, In-the-Wild, parquet files of the datasets library, and "
        "lists of one's own: CSV or TSV with a header, at least path and label "
        "(bonafide or spoof).",
    )
    parser.add_argument(
        "data_folder",
        metavar="DATA_FOLDER",
        help="the corpus' folder, a list whose paths are relative to it, or "
        "hf://datasets/USER/NAME",
    )
    parser.add_argument(
        "manifest", metavar="MANIFEST.csv", help="what to write"
    )
    parser.add_argument(
        "--protocol",
        metavar="FILE",
        help="protocol or list, instead of the one in DATA_FOLDER; all paths "
        "are relative to DATA_FOLDER",
    )
    parser.add_argument(
        "--partition",
        default="eval",
        help="such as train, dev, eval, progress (default: %(default)s)",
    )
    parser.set_defaults(run=_prepare)


def _prepare(args):
    from speechbrain_bilevel.dataio.prepare import write_manifest

    print(
        write_manifest(
            args.data_folder, args.manifest, args.partition, args.protocol
        )
    )
    return 0
