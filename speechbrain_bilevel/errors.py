"""What a user is told when their input is wrong, and the exit code that goes with it."""

import contextlib
import sys


class InputError(ValueError):
    """Something the user gave (a file, a line, a key) cannot be used.

    The message names the file and the line or key, says what was expected and
    what to do. Scripts turn it into exit code 2 without a traceback.

    Example
    -------
    >>> raise InputError("scores.txt, line 3: the score is NaN")
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.errors.InputError: scores.txt, line 3: the score is NaN
    """


@contextlib.contextmanager
def exit_on_input_error():
    """Ends the program with exit code 2 and one message on an ``InputError``.

    Ctrl-C ends it with 130 and no traceback.

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
        message = "stopped; the same command starts again, or goes on if it can"
        print(f"\n{message}", file=sys.stderr)
        sys.exit(130)
