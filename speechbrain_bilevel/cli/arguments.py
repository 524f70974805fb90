"""What arguments of several commands have to be."""

import argparse
import math
import re


def whole_number(least):
    """A whole number from ``least``, for ``argparse``.

    Arguments
    ---------
    least : int

    Returns
    -------
    callable
        From the argument's text to the number.

    Example
    -------
    >>> whole_number(1)("16")
    16
    """

    def number(text):
        if not re.fullmatch("[0-9]+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least}"
            )
        return int(text)

    return number


def finite_number(text):
    """A finite number, for ``argparse``.

    Arguments
    ---------
    text : str

    Returns
    -------
    float

    Example
    -------
    >>> finite_number("-1e-3")
    -0.001
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


class Parser(argparse.ArgumentParser):
    """Takes ``-1e-3`` for a number and not for an option."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # argparse itself knows -1 and -.5 only.
        self._negative_number_matcher = re.compile(
            r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE
        )
