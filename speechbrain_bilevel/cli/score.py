"""``speechbrain-bilevel score``: scores a list of trials."""

import datetime
import os

from speechbrain_bilevel.cli.options import (
    add_detector_arguments,
    run_options,
    whole_number,
)
from speechbrain_bilevel.utils.errors import InputError


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
    add_detector_arguments(parser)
    parser.add_argument(
        "--data-folder",
        metavar="FOLDER",
        help="the corpus' folder, where relative paths of audio start; by "
        "default the folder that TRIALS is in",
    )
    heard = parser.add_mutually_exclusive_group()
    heard.add_argument(
        "--trim-silence",
        action="store_true",
        help="cut the silence before and behind the speech",
    )
    heard.add_argument(
        "--whole",
        action="store_true",
        help="score whole recordings as long as they are, from 1 s up, not "
        "their beginnings of the length that the network was trained on; of "
        "what is longer than 60 s, the first 60 s. Not with V2, which takes "
        "one length only",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=16,
        metavar="N",
        help="trials that the network sees at once, of whole recordings that "
        "last longer as many fewer; by default 16",
    )
    parser.add_argument(
        "--num-workers",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="processes that read audio; by default 0, the main process reads",
    )
    parser.set_defaults(run=_score)


def _score(args):
    from speechbrain.utils.distributed import if_main_process

    from speechbrain_bilevel.inference.detector import SpoofDetector
    from speechbrain_bilevel.inference.scoring import score_trials
    from speechbrain_bilevel.utils.distributed import closing_process_group

    trials = _read_trials(args.trials, args.data_folder)
    with closing_process_group():
        _start_process_group()
        detector = SpoofDetector.from_hparams(
            args.source,
            trust_code=args.trust_code,
            run_opts=run_options(args),
        )
        score_trials(
            detector,
            trials,
            args.scores,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            trim_silence=args.trim_silence,
            whole=args.whole,
        )
        if if_main_process():
            print(f"{args.scores}: {len(trials)} trials")
    return 0


def _start_process_group():
    """Under torchrun, lets the processes talk to each other."""
    import torch

    if "RANK" in os.environ:
        # What they tell each other is little, so GPUs do with gloo too; and
        # they tell it at the end, for which the fastest has to wait.
        timeout = datetime.timedelta(days=365)
        torch.distributed.init_process_group("gloo", timeout=timeout)


def _read_trials(path, data_folder):
    """The trials, their paths such that they lead to the audio from here."""
    from speechbrain_bilevel.dataio.prepare import locate_audio
    from speechbrain_bilevel.dataio.protocols import read_protocol, recognise

    folder = os.path.dirname(path) if data_folder is None else data_folder
    corpus, trials = recognise(path), read_protocol(path)
    if not corpus.is_list:
        trials = locate_audio(trials, folder, corpus)
    trials = trials.with_root(folder)
    if not any(os.path.exists(trial.path) for trial in trials):
        raise InputError(
            f"{path}: no audio file is where it says, the first not at "
            f"{trials[0].path}; tell by --data-folder where paths start"
        )
    return trials
