"""Errors for unusable input, and excerpts of untrusted text for messages."""

import contextlib
import sys


class InputError(ValueError):
    """The user's input (a file, a line, a key) cannot be used.

    The message names the file and the line or key, and says what was expected
    and what to do. Scripts turn it into exit code 2 without a traceback.
    """


@contextlib.contextmanager
def exit_on_input_error():
    """Exit with code 2 and one message on an ``InputError``, 130 on Ctrl-C.

    Example
    -------
    >>> with exit_on_input_error():
    ...     raise InputError("no such folder")
    Traceback (most recent call last):
    ...
    SystemExit: 2
    """
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def shorten(text, length=60):
    """Quote a piece of untrusted text, cut to a number of characters.

    Example
    -------
    >>> shorten("spoofed", length=5)
    "'spoof...'"
    """
    return repr(text if len(text) <= length else text[:length] + "...")


def printable(text, longest=None):
    """Make a name printable on one line, and cut its middle if it is long.

    Example
    -------
    >>> printable("a_very_long_name.txt", 11)
    'a_ver…e.txt'
    """
    text = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    if longest and len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}…{text[half + 1 - longest :]}"
    return text


def listed(names, shown=5):
    """Count names and show the first ones.

    Example
    -------
    >>> listed(["a", "b", "c"], shown=2)
    '3 (a, b, ...)'
    """
    if not names:
        return "0"
    rest = ", ..." if len(names) > shown else ""
    first = ", ".join(printable(name, 60) for name in names[:shown])
    return f"{len(names)} ({first}{rest})"
