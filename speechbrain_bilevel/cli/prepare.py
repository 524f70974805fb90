"""``speechbrain-bilevel prepare``: write the manifest of a corpus."""

from speechbrain_bilevel.cli.options import add_reading_arguments


def add_prepare(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "prepare",
        help="check a corpus and write a manifest of it",
        description="Checks that all audio of a corpus can be read and writes "
        "a CSV of it. Knows ASVspoof2019 LA and what is laid out like it, "
        "ASVspoof2021 LA and DF, ASVspoof5, In-the-Wild, MLAAD, SpoofCeleb, "
        "ADD, Codecfake, Kaldi's folders (wav.scp, utt2label), the Hugging "
        "Face hub's AudioFolder and parquet files, folders that say real or "
        "fake (FakeOrReal, DFADD, WaveFake), and lists of one's own: with a "
        "header, at least path and label (bonafide or spoof).",
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
        help="protocol or list, instead of the one in DATA_FOLDER; paths are "
        "relative to its own folder or to DATA_FOLDER",
    )
    parser.add_argument(
        "--partition",
        metavar="NAME",
        help="such as train, dev, eval, progress (default: eval, or the only "
        "one that there is)",
    )
    parser.add_argument(
        "--bonafide-folder",
        metavar="FOLDER",
        help="bona fide speech to add to a corpus of spoofs only, such as "
        "MLAAD and WaveFake; all audio in it is taken",
    )
    add_reading_arguments(parser, "the list", "path - label")
    parser.set_defaults(run=_prepare)


def _prepare(args):
    from speechbrain_bilevel.dataio.prepare import write_manifest

    print(
        write_manifest(
            args.data_folder,
            args.manifest,
            args.partition,
            args.protocol,
            columns=args.columns,
            bonafide=args.bonafide,
            bonafide_folder=args.bonafide_folder,
        )
    )
    return 0
