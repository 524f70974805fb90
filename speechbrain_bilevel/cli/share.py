"""``speechbrain-bilevel export``, ``push`` and ``import``: share detectors."""

import os

from speechbrain_bilevel.cli.options import read_trials, refuse_existing
from speechbrain_bilevel.utils.errors import InputError


def add_export(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "export",
        help="write a trained detector as a folder to share",
        description="Write the network of the best epoch, calibrated on the "
        "scores of dev, with a model card that has the figures of the scores "
        "of eval, training data, intended use and limits. The folder is for "
        "SpoofDetector.from_hparams, for SpeechBrain's EncoderClassifier, and "
        "for `push`.",
    )
    parser.add_argument(
        "source",
        metavar="EXPERIMENT",
        help="output folder of train.py; or a pretrained folder, to calibrate "
        "or measure it",
    )
    parser.add_argument("folder", metavar="OUT", help="folder to write")
    parser.add_argument("--name", help="for the card; by default that of OUT")
    parser.add_argument(
        "--corpus", metavar="NAME", help="for the card: the training data"
    )
    parser.add_argument(
        "--license",
        metavar="ID",
        help="for the card: the hub's name of the license, e.g. apache-2.0",
    )
    for partition, use, protocol in (
        ("dev", "calibrate", "--dev-protocol"),
        ("eval", "measure", "--protocol"),
    ):
        parser.add_argument(
            f"--{partition}-scores",
            metavar="FILE",
            help=f"EXPERIMENT's own scores on {partition}, to {use} it; by "
            f"default {partition}_scores.txt in it",
        )
        parser.add_argument(
            protocol, metavar="FILE", help=f"trials and keys of {partition}"
        )
    parser.add_argument(
        "--asv-scores", metavar="FILE", help="ASV scores of eval, for the t-DCF"
    )
    parser.add_argument(
        "--arena",
        action="append",
        default=[],
        metavar="DATASET=SCORES",
        help="add the files of a submission to the Speech Anti-Spoofing Arena: "
        "EXPERIMENT's own scores on a data set of it, such as "
        "SpeechAntiSpoofingBenchmarks/InTheWild=wild.txt; repeatable",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="add network.onnx, for --engine onnxruntime and openvino",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="add network_int8.onnx too, whose convolutions are of 8-bit "
        "numbers; needs --clips",
    )
    parser.add_argument(
        "--clips",
        metavar="TRIALS",
        help="list of the training, or folder of its corpus: recordings by "
        "which network.onnx is compared with torch (default: noise), and the "
        "ranges of 8-bit numbers are found",
    )
    parser.add_argument(
        "--data-folder",
        metavar="FOLDER",
        help="where relative paths of --clips start; by default the folder "
        "that the list is in",
    )
    parser.add_argument(
        "--int8-scores",
        metavar="FILE",
        help="scores of network_int8.onnx on eval, for the card",
    )
    parser.add_argument(
        "--space",
        action="store_true",
        help="add network.onnx, and in the folder space/ app.py and "
        "requirements.txt, for `push --space`",
    )
    parser.set_defaults(run=_export)


def _export(args):
    from speechbrain_bilevel.dataio import BONAFIDE, SPOOF
    from speechbrain_bilevel.evaluation.score_files import read_cm_scores
    from speechbrain_bilevel.inference.export import export
    from speechbrain_bilevel.metrics.eer import interpolated_eer

    arguments = {k: v for k, v in vars(args).items() if k != "run"}
    folder = arguments.pop("data_folder")
    refuse_existing(args.folder)
    pairs = [text.partition("=")[::2] for text in args.arena]
    if not all(map(all, pairs)):
        raise InputError(f"--arena {args.arena[-1]}: expected DATASET=SCORES")
    arguments["arena"] = {name: read_cm_scores(path) for name, path in pairs}
    for option, given, needed, others in (
        ("clips", args.clips, args.onnx or args.int8 or args.space, "--onnx"),
        ("data-folder", folder, args.clips, "--clips"),
        ("int8-scores", args.int8_scores, args.int8, "--int8"),
    ):
        if given and not needed:
            raise InputError(f"--{option}: has no use without {others}")
    if args.clips:
        trials = read_trials(args.clips, folder, _train_of(args.clips))
        arguments["clips"] = trials.path.tolist()
    config, _ = export(**arguments)
    for name, table in arguments["arena"].items():
        keys = [table.score[table.label == key] for key in (BONAFIDE, SPOOF)]
        rate = 100 * interpolated_eer(*keys)[0]
        print(f"{name}: eer_percent {rate!r}, n_trials {len(table)}")
    how = "calibrated" if config.calibration else "not calibrated"
    print(f"{args.folder}: {how}; see its README.md before you share it")
    return 0


def _train_of(path):
    """Return the partition of a folder; a list is taken as it is."""
    return "train" if os.path.isdir(path) else None


def add_push(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "push",
        help="upload a detector to the Hugging Face hub",
        description="Upload a folder that `export` wrote, in one commit. Log "
        "in first by `hf auth login`, or set HF_TOKEN.",
    )
    parser.add_argument("folder", metavar="OUT", help="folder to upload")
    parser.add_argument("repo_id", metavar="USER/NAME", help="repository")
    parser.add_argument(
        "--private", action="store_true", help="only its owner may see it"
    )
    parser.add_argument(
        "--space",
        action="store_true",
        help="make a Space of it, a page on the hub to try recordings on, "
        "from a folder that `export --space` wrote",
    )
    parser.set_defaults(run=_push)


def _push(args):
    from speechbrain_bilevel.inference.hub import push

    print(push(args.folder, args.repo_id, args.private, args.space))
    return 0


def add_import(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "import",
        help="make a detector of weights published elsewhere",
        description="Write a pretrained folder of weights that the authors of "
        "a network published; docs/sharing.md names their repositories. It is "
        "not calibrated: `score` dev with it, then `export` it with "
        "--dev-scores.",
    )
    choices = ["aasist", "aasist-l", "lfcc-lcnn", "lfcc-lcnn-lstm"]
    choices += ["lfcc-lcnn-2021", "rawgat-st", "rawgat-st-add"]
    choices += ["rawgat-st-concat", "rawnet2", "ssl-aasist", "v2"]
    parser.add_argument("network", choices=choices)
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help="state dict with the published names, by torch or safetensors, "
        "also in a checkpoint of training or of DataParallel; no code in it "
        "is run",
    )
    parser.add_argument("folder", metavar="OUT", help="folder to write")
    parser.set_defaults(run=_import)


def _import(args):
    from speechbrain_bilevel.inference.importers import import_weights

    refuse_existing(args.folder)
    unwrapped = import_weights(args.network, args.weights, args.folder)
    if unwrapped:
        print(f"{args.weights}: taken off: {', '.join(unwrapped)}")
    print(f"{args.folder}: not calibrated; see its README.md")
    return 0
