"""Arguments that several commands share."""

import argparse
import math
import os
import re

from speechbrain_bilevel.utils.errors import InputError


def whole_number(least, most=math.inf):
    """Return a type for ``argparse``: a whole number within these limits."""

    def number(text):
        if not re.fullmatch("[0-9]+", text) or not least <= int(text) <= most:
            limit = f" and at most {most}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number of at least {least}{limit}"
            )
        return int(text)

    return number


def finite_number(text):
    """Convert to a finite number, as a type for ``argparse``."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def add_reading_arguments(parser, what, example):
    """Add the options that say how the lines of ``what`` are to be read."""
    parser.add_argument(
        "--columns",
        metavar="WORDS",
        help=f"what the columns of {what} are, a word for each and - for one "
        f'to ignore, as in "{example}"; by default this is recognized',
    )
    parser.add_argument(
        "--bonafide",
        choices=("0", "1"),
        default="",
        help="which of the labels 0 and 1 is bona fide; without it, they are "
        "refused",
    )


def add_trials_arguments(parser):
    """Add the options that say where and how the trials are read."""
    parser.add_argument(
        "--data-folder",
        metavar="FOLDER",
        help="the corpus' folder, where relative paths of audio start; by "
        "default the folder that TRIALS is in",
    )
    parser.add_argument(
        "--partition",
        metavar="NAME",
        help="which trials; default: all of a protocol, eval of a folder",
    )
    add_reading_arguments(parser, "TRIALS", "path - label")


def add_source_arguments(parser):
    """Add the options for a detector and its device."""
    parser.add_argument(
        "--source",
        required=True,
        metavar="FOLDER",
        help="pretrained folder, or user/name of a hub repository",
    )
    parser.add_argument(
        "--device",
        help="cpu, cuda or cuda:N; by default the GPU if there is one",
    )


def add_detector_arguments(parser):
    """Add the options for the detector of a command and how it is run."""
    add_source_arguments(parser)
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run whatever the folder's hyperparams.yaml says, for networks "
        "outside of speechbrain_bilevel; without it, nothing of it is run",
    )
    parser.add_argument(
        "--engine",
        choices=("torch", "onnxruntime", "openvino", "auto"),
        default="torch",
        help="what runs the network (default: torch); the others are faster on "
        "a CPU, for folders that `export --onnx` wrote. auto: the fastest that "
        "is installed",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16", "int8"),
        default="fp32",
        help="by default fp32; bf16 and fp16 are for GPUs, bf16 and int8 (see "
        "`export --int8`) for the engine openvino",
    )


def load_detector(args, for_recordings=False):
    """Return the detector of a command: for recordings only, or SpeechBrain's.

    The former starts faster. Refuse a device that does not exist.
    """
    if for_recordings and not args.trust_code:
        from speechbrain_bilevel.inference.engines import open_detector

        return open_detector(
            args.source, args.engine, args.device, args.precision
        )
    from speechbrain_bilevel.inference.detector import SpoofDetector
    from speechbrain_bilevel.utils.distributed import local_device

    if args.trust_code and args.engine not in ("torch", "auto"):
        raise InputError(
            f"--engine {args.engine}: has no code of its own to trust; leave "
            "out --trust-code"
        )
    device = args.device
    if args.engine == "torch" or device is not None:
        device = local_device(device)
    return SpoofDetector.from_hparams(
        args.source,
        trust_code=args.trust_code,
        engine=args.engine,
        run_opts={"device": device, "precision": args.precision},
    )


def read_trials(path, folder=None, partition=None, **reading):
    """Return the trials of a command, whose paths can be opened.

    Raise an ``InputError`` if there are none, or none of their files exists.
    """
    from speechbrain_bilevel.dataio.parquet import HUB, file_version
    from speechbrain_bilevel.dataio.prepare import (
        audio_root,
        find_trials,
        join_paths,
    )

    if os.path.isdir(path) or path.startswith(HUB):
        if folder is not None:
            raise InputError(
                "--data-folder is for a list; audio of a folder is looked for "
                "in it: leave it out"
            )
        folder, protocol = path, None
    else:
        folder = folder or os.path.dirname(path) or "."
        partition, protocol = partition or "all", path
    trials = find_trials(
        folder,
        partition,
        protocol,
        **reading,
        need_labels=False,
    )
    trials = join_paths(trials, audio_root(folder))
    if not any(map(file_version, trials.path)):
        raise InputError(
            f"{path}: none of its audio files exists, the first one would be "
            f"{trials.path[0]}; pass --data-folder, where paths start"
        )
    return trials


def refuse_existing(folder):
    """Refuse a folder to write that is there, unless it is empty."""
    from speechbrain_bilevel.utils.files import locked

    with locked(folder):
        is_empty = os.path.isdir(folder) and not os.listdir(folder)
        if os.path.lexists(folder) and not is_empty:
            raise InputError(
                f"{folder}: exists; choose a new name, or delete it"
            )


class Parser(argparse.ArgumentParser):
    """A parser that takes ``-1e-3`` for a number, not for an option."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # argparse itself recognizes only -1 and -.5.
        self._negative_number_matcher = re.compile(
            r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE
        )
