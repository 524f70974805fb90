"""``speechbrain-bilevel score``: scores a list of trials."""

import argparse
import contextlib
import dataclasses
import os

from speechbrain_bilevel.errors import InputError


def add_score(commands):
    """Adds the command to the parser.

    Arguments
    ---------
    commands : argparse subparsers
    """
    parser = commands.add_parser(
        "score",
        help="score a list of trials",
        description="Writes a score file, 'utt source key score', of all "
        "trials of a protocol or list. The same command goes on where an "
        "earlier one stopped. To share the work out to processes: torchrun "
        "--nproc_per_node 2 --no-python speechbrain-bilevel score ...",
    )
    parser.add_argument(
        "trials",
        metavar="TRIALS",
        help="protocol of a corpus, manifest, or list with a header",
    )
    parser.add_argument("scores", metavar="SCORES", help="score file to write")
    parser.add_argument(
        "--source",
        required=True,
        metavar="FOLDER",
        help="pretrained folder, or user/name of a hub repository",
    )
    parser.add_argument(
        "--data-folder",
        metavar="FOLDER",
        help="where relative paths of audio start, and what $data_root stands "
        "for in manifests; by default the folder that TRIALS is in",
    )
    parser.add_argument(
        "--trim-silence",
        action="store_true",
        help="cut the silence before and behind the speech",
    )
    parser.add_argument(
        "--batch-size",
        type=_at_least(1),
        default=16,
        metavar="N",
        help="trials that the network sees at once; by default 16",
    )
    parser.add_argument(
        "--num-workers",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="processes that read audio; by default 0, the main process reads",
    )
    parser.add_argument(
        "--device",
        help="cpu, cuda or cuda:N; by default the GPU if there is one",
    )
    parser.set_defaults(run=_score)


def _at_least(least):
    def count(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least}"
            )
        return int(text)

    return count


def _score(args):
    from speechbrain_bilevel.inference import SpoofDetector
    from speechbrain_bilevel.scoring import score_trials

    trials = _read_trials(args.trials, args.data_folder)
    if os.path.exists(args.scores) and os.path.samefile(
        args.trials, args.scores
    ):
        raise InputError(
            f"{args.scores}: is the list of trials; give another name for the "
            "score file"
        )
    with _process_group():
        detector = SpoofDetector.from_hparams(
            args.source, run_opts={"device": _device(args.device)}
        )
        score_trials(
            detector,
            trials,
            args.scores,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            trim_silence=args.trim_silence,
        )
    return 0


@contextlib.contextmanager
def _process_group():
    """Under torchrun, lets the processes talk to each other."""
    import torch
    from speechbrain.utils.distributed import ddp_init_group

    # What they tell each other is little, so GPUs do with gloo too.
    ddp_init_group({"distributed_backend": "gloo"})
    try:
        yield
    finally:
        # Left to itself, gloo may abort a process that has done its work.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _read_trials(path, data_folder):
    """The trials, their paths such that they lead to the audio from here."""
    from speechbrain_bilevel.dataio.protocols import read_protocol

    folder = os.path.dirname(path) if data_folder is None else data_folder
    trials = [
        dataclasses.replace(
            trial,
            path=os.path.join(folder, trial.path.removeprefix("$data_root/")),
        )
        for trial in read_protocol(path)
    ]
    if not any(os.path.exists(trial.path) for trial in trials):
        raise InputError(
            f"{path}: no audio file is where it says, the first not at "
            f"{trials[0].path}; tell by --data-folder where paths start"
        )
    return trials


def _device(name):
    """The device of this process, as SpeechBrain wants it named."""
    import torch
    from speechbrain.utils.distributed import get_local_rank, infer_device

    name = infer_device() if name is None else name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"--device {name}: no device; expected cpu, cuda or cuda:N"
        ) from error
    if device.type != "cuda":
        return name
    index = device.index
    if index is None:
        index = get_local_rank() or 0
    if index >= torch.cuda.device_count():
        raise InputError(
            f"--device {name}: this would be GPU number {index}, counted from "
            f"0, and {torch.cuda.device_count()} can be used; give another, or "
            "start fewer processes"
        )
    return f"cuda:{index}"
