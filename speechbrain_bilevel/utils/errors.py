"""Errors for unusable input, and excerpts of untrusted text for messages."""

import contextlib
import logging
import os
import re
import signal
import sys


class InputError(ValueError):
    """The user's input (a file, a line, a key) cannot be used.

    The message names the file and the line or key, and says what was expected
    and what to do. Scripts turn it into exit code 2 without a traceback.
    """


@contextlib.contextmanager
def exit_on_input_error():
    """End the program in order, without a traceback, on what is no bug.

    On an ``InputError`` or an ``OSError`` (a full disk, no permission) with
    exit code 2 and one message of at most 1,000 characters, on Ctrl-C with 130,
    and in silence when nothing reads its output, as in ``| head``.

    Example
    -------
    >>> with exit_on_input_error():
    ...     raise InputError("no such folder")
    Traceback (most recent call last):
    ...
    SystemExit: 2
    """
    # Else a full disk costs a traceback for each line that is not logged.
    logging.raiseExceptions = False
    interrupted = False

    def interrupt(number, frame):
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        # Some modules survive an interrupted import, and fail later.
        if interrupted or isinstance(error, KeyboardInterrupt):
            _exit(130, "\ninterrupted")
        if isinstance(error, InputError):
            _exit(2, f"error: {_own_words(error)}")
        if isinstance(error, BrokenPipeError):
            _exit(128 + signal.SIGPIPE)
        if isinstance(error, OSError):
            where = error.filename or "standard output, or a file"
            reason = error.strerror or _own_words(error)
            _exit(2, f"error: {where}: {reason}; nothing more was written")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _exit(code, message=None):
    if message:
        with contextlib.suppress(OSError):
            print(without_middle(message, 1000), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        # What is left of the output must go somewhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _own_words(error):
    """Return the message, without the traceback of a DataLoader's worker."""
    text = str(error)
    if "\nOriginal Traceback " in text:
        text = re.split(r"^(?:\w+\.)*\w*Error: ", text, flags=re.M)[-1]
    return text.strip()


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
    return without_middle(text, longest) if longest else text


def without_middle(text, longest):
    """Cut the middle of a text of more characters than ``longest``."""
    if len(text) > longest:
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
