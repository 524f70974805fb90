"""Text files of strangers, and pieces of them in messages."""

import csv
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
    if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
        raise InputError(f"{_MAX_LINE_BYTES} bytes and no end; this is no text")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(
            "not UTF-8 text (if it is text, save it again as UTF-8; if it is "
            "packed, unpack it)"
        )
    text = text.rstrip("\r\n")
    if "\r" in text:
        raise InputError(
            "its lines end with carriage returns alone; save it again with "
            "the line ends of Unix or Windows"
        )
    return text


def split(line, separator=None):
    """The cells of a line, without the blanks around them.

    Arguments
    ---------
    line : str
    separator : str, optional
        "," or a tab, with quotes as in CSV; None for blanks.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If a quote is not closed on the line, or text follows a closing one.

    Example
    -------
    >>> split('"Doe, Jane.wav", 1', ",")
    ['Doe, Jane.wav', '1']
    """
    if separator is None:
        return line.split()
    reader = csv.reader(
        [line], delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        return [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise InputError(
            f'the quotes (") of {shorten(line)} do not pair ({error}); '
            "expected each cell on one line, and none or two around it"
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


def printable(text, longest=None):
    """A name from a user as it can be shown: no line ends, not too long.

    Arguments
    ---------
    text : str
        Name of a system, a file or an attack.
    longest : int, optional
        Names with more characters lose their middle.

    Returns
    -------
    text : str
        The name; what cannot be printed is replaced.

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
    first = ", ".join(printable(name, 60) for name in names[:shown])
    return f"{len(names)} ({first}{rest})"
