"""``speechbrain-bilevel score``: score a list of trials."""

import datetime
import os

from speechbrain_bilevel.cli.options import (
    add_detector_arguments,
    add_trials_arguments,
    load_detector,
    read_trials,
    whole_number,
)


def add_score(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "score",
        help="score a list of trials",
        description="Writes a score file, 'utt source key score', of all "
        "trials of a protocol or list; of a list without labels, such as a "
        "challenge's, 'utt score'. The same command resumes where an "
        "earlier one stopped. To share the work out to processes: torchrun "
        "--nproc_per_node 2 --no-python speechbrain-bilevel score ...",
    )
    parser.add_argument(
        "trials",
        metavar="TRIALS",
        help="protocol of a corpus, manifest, list with or without labels, the "
        "folder of a corpus, or hf://datasets/USER/NAME on the hub",
    )
    parser.add_argument("scores", metavar="SCORES", help="score file to write")
    add_detector_arguments(parser)
    add_trials_arguments(parser)
    parser.add_argument(
        "--layout",
        choices=("asvspoof2019", "asvspoof2021", "asvspoof5"),
        help="of the score file; the last two are those that the challenges "
        "take (default: asvspoof2019, or asvspoof2021 without labels)",
    )
    parser.add_argument(
        "--trim-silence",
        action="store_true",
        help="cut the silence before and after the speech",
    )
    parser.add_argument(
        "--full-length",
        action="store_true",
        help="score recordings as long as they are, from 1 to 60 s, not their "
        "beginnings of the length that the network was trained on. Not with "
        "V2, which takes one length only",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=16,
        metavar="N",
        help="trials that the network sees at once; with --full-length, "
        "proportionally fewer of longer recordings (default: %(default)s)",
    )
    parser.add_argument(
        "--num-workers",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="processes that read audio; 0: the main process reads "
        "(default: %(default)s)",
    )
    parser.set_defaults(run=_score)


def _score(args):
    from speechbrain.utils.distributed import if_main_process

    from speechbrain_bilevel.inference.scoring import score_trials
    from speechbrain_bilevel.utils.distributed import closing_process_group

    trials = read_trials(
        args.trials,
        args.data_folder,
        args.partition,
        columns=args.columns,
        bonafide=args.bonafide,
    )
    with closing_process_group():
        _start_process_group()
        detector = load_detector(args)
        score_trials(
            detector,
            trials,
            args.scores,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            trim_silence=args.trim_silence,
            full_length=args.full_length,
            layout=args.layout,
        )
        if if_main_process():
            print(f"{args.scores}: {len(trials)} trials")
    return 0


def _start_process_group():
    """Connect the processes if torchrun started them."""
    import torch

    if "RANK" in os.environ:
        # They exchange little data, so gloo is enough for GPUs too; they do so
        # at the end, when the fastest process has to wait.
        timeout = datetime.timedelta(days=365)
        torch.distributed.init_process_group("gloo", timeout=timeout)
