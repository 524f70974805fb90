"""Arguments that several commands share."""

import argparse
import math
import re


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


def add_detector_arguments(parser):
    """Add the options for the detector of a command and its device."""
    parser.add_argument(
        "--source",
        required=True,
        metavar="FOLDER",
        help="pretrained folder, or user/name of a hub repository",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="run whatever the folder's hyperparams.yaml says, for networks "
        "outside of speechbrain_bilevel; without it, nothing of it is run",
    )
    parser.add_argument(
        "--device",
        help="cpu, cuda or cuda:N; by default the GPU if there is one",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="by default fp32; the others are faster on GPUs",
    )


def run_options(args):
    """Return SpeechBrain's run_opts; refuse a device that does not exist."""
    from speechbrain_bilevel.utils.distributed import local_device

    return {"device": local_device(args.device), "precision": args.precision}


class Parser(argparse.ArgumentParser):
    """A parser that takes ``-1e-3`` for a number, not for an option."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # argparse itself recognizes only -1 and -.5.
        self._negative_number_matcher = re.compile(
            r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE
        )
