"""Text files of strangers, and pieces of them in messages."""

import functools

from speechbrain_bilevel.errors import InputError

# A file without line ends (audio, an archive) must not fill the memory.
_MAX_LINE_BYTES = 1 << 16


def read_lines(path, expected):
    """Yields the lines of a text file, without the blank ones at its end.

    Arguments
    ---------
    path : str or Path
        UTF-8 text; a byte order mark and Windows line ends are fine.
    expected : str
        What the file should be and what to do, for messages.

    Yields
    ------
    number : int
        From 1.
    line : str
        Without its end; "" if it is blank.

    Raises
    ------
    InputError
        The file cannot be read or is no text.

    Example
    -------
    >>> path = getfixture("tmp_path") / "protocol.txt"
    >>> _ = path.write_bytes(b"a b\\r\\n \\nc d\\n\\n\\n")
    >>> list(read_lines(path, "Expected letters"))
    [(1, 'a b'), (2, ''), (3, 'c d')]
    """
    n_blank = 0
    try:
        with open(path, "rb") as file:
            lines = iter(functools.partial(file.readline, _MAX_LINE_BYTES), b"")
            for number, line in enumerate(lines, start=1):
                try:
                    text = _decode(line)
                except InputError as error:
                    raise InputError(
                        f"{path}, line {number}: {error}. {expected}"
                    ) from None
                if number == 1:
                    # Some editors put a byte order mark in front.
                    text = text.removeprefix("\ufeff")
                if not text or text.isspace():
                    n_blank += 1
                    continue
                for blank in range(number - n_blank, number):
                    yield blank, ""
                n_blank = 0
                yield number, text
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). {expected}"
        ) from error


def _decode(line):
    if len(line) == _MAX_LINE_BYTES:
        raise InputError(f"{_MAX_LINE_BYTES} bytes and no end; this is no text")
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(
            "not UTF-8 text (if it is text, save it again as UTF-8)"
        ) from None


def shorten(text, length=60):
    """Quotes a piece of a file, which may be very long, for a message.

    Arguments
    ---------
    text : str
        The piece.
    length : int
        Characters that are shown.

    Returns
    -------
    str
        In quotes, with dots when something was left out.

    Example
    -------
    >>> shorten("spoofed", length=5)
    "'spoof...'"
    """
    return repr(text if len(text) <= length else text[:length] + "...")


def listed(names, shown=5):
    """How many names there are, and the first few of them, for a message.

    Arguments
    ---------
    names : list of str
    shown : int
        How many of them.

    Returns
    -------
    str

    Example
    -------
    >>> listed(["a", "b", "c"], shown=2)
    '3 (a, b, ...)'
    """
    if not names:
        return "0"
    rest = ", ..." if len(names) > shown else ""
    return f"{len(names)} ({', '.join(names[:shown])}{rest})"
