"""``speechbrain-bilevel classify``: score audio files, one verdict each."""

import csv
import itertools
import json
import os
import sys

from speechbrain_bilevel.cli.options import (
    add_detector_arguments,
    finite_number,
    load_detector,
    whole_number,
)
from speechbrain_bilevel.utils.errors import InputError, printable


def add_classify(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "classify",
        help="score audio files",
        description="Print 'bonafide' or 'spoof', the score (higher is more "
        "bona fide), how much was heard and the file, a line each. Unreadable "
        "files are reported on stderr and skipped; the exit code is then 2.",
    )
    add_detector_arguments(parser)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="audio file, folder of such, or pattern like 'calls/*.wav'",
    )
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="how to print it; by default a table",
    )
    parser.add_argument(
        "--segments",
        action="store_true",
        help="score all of each recording, by overlapping windows, and print "
        "the suspicious spans; otherwise the network sees its beginning only",
    )
    parser.add_argument(
        "--window",
        type=finite_number,
        metavar="S",
        help="with --segments: length of a window in seconds, for networks "
        "that take any; by default the one that it was trained on",
    )
    parser.add_argument(
        "--step",
        type=finite_number,
        metavar="S",
        help="with --segments: seconds from window to window; by default half "
        "a window",
    )
    parser.add_argument(
        "--channels",
        type=_channels,
        default="mix",
        metavar="mix|each|N",
        help="hear the mean of all channels (the default), each one by one, of "
        "which the lowest score decides, or number N, from 1 on",
    )
    parser.add_argument(
        "--plot",
        metavar="FOLDER",
        help="with --segments: draw the waveform of each recording with the "
        "score over time, a PNG each",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=8,
        metavar="N",
        help="files, or windows, that the network sees at once; by default 8",
    )
    parser.set_defaults(run=_classify)


def _classify(args):
    for option in ("plot", "window", "step"):
        if getattr(args, option) is not None and not args.segments:
            raise InputError(f"--{option}: is for windows; add --segments")
    draw = _Plots(args.plot) if args.plot else None
    detector = load_detector(args, for_recordings=True)
    if args.segments:
        verdicts = _score_whole(detector, args, draw)
    else:
        verdicts = detector.iterate_files(
            args.paths, args.batch_size, channels=args.channels
        )
    show = {"table": _table, "json": _json, "csv": _csv}[args.format]
    n_scored = n_failed = 0
    for verdict in show(verdicts):
        for note in verdict.notes:
            print(f"note: {printable(verdict.path)}: {note}", file=sys.stderr)
        if verdict.error is None:
            n_scored += 1
        else:
            print(f"error: {printable(verdict.error)}", file=sys.stderr)
            n_failed += 1
    if n_failed:
        total = n_scored + n_failed
        print(f"{n_failed} of {total} files have no verdict", file=sys.stderr)
    if n_scored and args.format == "table":
        print(_explanation(detector.decision), file=sys.stderr)
    return 2 if n_failed else 0


def _explanation(decision):
    if decision.calibration is None:
        return (
            f"above {decision.threshold:g} is bona fide; not calibrated, so "
            "scores only rank recordings"
        )
    return (
        "scores are log-likelihood ratios: at +2.3 what was heard is 10 times "
        "as probable from bona fide as from spoofed speech, at -2.3 the other "
        "way around"
    )


def _channels(text):
    return text if text in ("mix", "each") else whole_number(1)(text)


def _score_whole(detector, args, draw):
    """Score all of each recording, and draw the verdict if requested."""
    from speechbrain_bilevel.dataio.audio import find_audio
    from speechbrain_bilevel.inference.verdicts import Verdict

    for path in find_audio(args.paths):
        try:
            verdict = detector.segments(
                path,
                args.window,
                args.step,
                batch_size=args.batch_size,
                channels=args.channels,
            )
            if draw:
                draw(verdict)
        except InputError as error:
            verdict = Verdict(path, error=str(error))
        yield verdict


class _Plots:
    """Draws verdicts into a folder, each under its own name."""

    def __init__(self, folder):
        from speechbrain_bilevel.evaluation.plots import require_matplotlib
        from speechbrain_bilevel.utils.files import MARK, check_target

        require_matplotlib()
        check_target(os.path.join(folder, "plot.png"), MARK.encode())
        self.folder, self.names = folder, set()

    def __call__(self, verdict):
        from speechbrain_bilevel.inference.verdicts import draw_verdict
        from speechbrain_bilevel.utils.files import (
            MARK,
            check_target,
            write_atomically,
        )

        stem = os.path.basename(verdict.path)
        numbered = (f"{stem} ({n})" for n in itertools.count(1))
        names = itertools.chain([stem], numbered)
        name = next(name for name in names if name not in self.names)
        self.names.add(name)
        check_target(os.path.join(self.folder, f"{name}.png"), MARK.encode())
        write_atomically(self.folder, {f"{name}.png": draw_verdict(verdict)})


def _table(verdicts):
    """Print a line for each verdict, and for each suspicious span."""
    for verdict in verdicts:
        if verdict.error is None:
            print(f"{_in_words(verdict)}  {printable(verdict.path)}")
            for number, channel in enumerate(verdict.channels, 1):
                print(f"    channel {number}: {_in_words(channel)}")
            for span in getattr(verdict, "suspicious", ()):
                print(
                    f"    spoof {_number(span.score)}  {span.start:.1f} to "
                    f"{span.end:.1f} s"
                )
            sys.stdout.flush()
        yield verdict


def _number(score):
    # Of an uncalibrated network, it may have hundreds of digits.
    return f"{score:+10.4f}" if abs(score) < 1e6 else f"{score:+10.4g}"


def _in_words(verdict):
    if verdict.error is not None:
        return "no verdict"
    return f"{verdict.label:8} {_number(verdict.score)} {verdict.heard:6.1f} s"


def _json(verdicts):
    """Print a list of objects, one per line, as soon as they are available."""
    start = "["
    for verdict in verdicts:
        print(start + "\n" + json.dumps(_as_dict(verdict)), end="", flush=True)
        start = ","
        yield verdict
    print(start.replace(",", "") + "\n]")


def _as_dict(verdict):
    fields = verdict.row | {"notes": list(verdict.notes)}
    if verdict.channels:
        fields["channels"] = [_as_dict(part) for part in verdict.channels]
    for name in ("suspicious", "segments"):
        if hasattr(verdict, name):
            fields[name] = [
                {"start": part.start, "end": part.end, "score": part.score}
                for part in getattr(verdict, name)
            ]
    return fields


def _csv(verdicts):
    from speechbrain_bilevel.inference.verdicts import FIELDS

    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    for verdict in verdicts:
        writer.writerow(verdict.row)
        sys.stdout.flush()
        yield verdict
