"""``speechbrain-bilevel page``: try recordings in a browser."""

from speechbrain_bilevel.cli.options import (
    add_detector_arguments,
    whole_number,
)
from speechbrain_bilevel.utils.errors import InputError


def add_page(commands):
    """Add the command to the argparse subparsers."""
    parser = commands.add_parser(
        "page",
        help="try recordings in a browser",
        description="Serve a page on this machine, and for this machine only: "
        "drop or record audio, read the verdict, see the score over time, "
        "download a table. Ends with Ctrl-C.",
    )
    add_detector_arguments(parser)
    parser.add_argument(
        "--port",
        type=whole_number(1, 65535),
        metavar="N",
        help="by default the first free one from 7860 on",
    )
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="only print the address",
    )
    parser.set_defaults(run=_page)


def _page(args):
    from speechbrain_bilevel.inference.page import serving, wait

    if args.trust_code:
        raise InputError("--trust-code: is not for the page; leave it out")
    with serving(
        args.source,
        args.port,
        not args.no_browser,
        engine=args.engine,
        device=args.device,
        precision=args.precision,
    ) as address:
        print(f"{address} (Ctrl-C ends it)", flush=True)
        wait()
    return 0
