"""A manifest's lines, one by one: how they are read and what is refused."""

import codecs
import csv
import re

from speechbrain_bilevel.errors import InputError

_EXPECTED = (
    "Expected a manifest: a CSV file in UTF-8 whose header names a column ID, "
    "then a clip on each line; prepare the corpus again or correct the line"
)
_VARIABLE = re.compile(r"\$([\w.]+)")


class ManifestLines:
    """Takes the lines of a manifest apart, as SpeechBrain's reader does.

    Unlike there, a cell cannot go on in the next line, and what is wrong with
    a line is told with its number.

    Arguments
    ---------
    path : str or Path
        The manifest, for messages.
    header : bytes
        Its first line.
    replacements : dict
        What to put in the place of each ``$name`` outside of the column ID.

    Raises
    ------
    InputError
        If the header has no column ID or a column twice.

    Example
    -------
    >>> lines = ManifestLines("a.csv", b"ID,wav\\n", {"data_root": "/LA"})
    >>> lines.columns
    ['ID', 'wav']
    >>> lines.split(b'u1,"$data_root/1,2.flac"\\n')
    ['u1', '/LA/1,2.flac']
    """

    def __init__(self, path, header, replacements):
        self.path = path
        self.replacements = replacements
        self.id_at = self.duration_at = None
        try:
            self.columns = self.split(header.removeprefix(codecs.BOM_UTF8))
        except (csv.Error, ValueError) as error:
            raise self.refusal(", line 1", error) from error
        if len(set(self.columns)) < len(self.columns):
            raise self.refusal(", line 1", "names a column twice")
        self.id_at = self.place("ID")
        if "duration" in self.columns:
            self.duration_at = self.place("duration")

    def split(self, line):
        """The cells of a line.

        Arguments
        ---------
        line : bytes

        Returns
        -------
        list of str
            None of an empty line.

        Raises
        ------
        csv.Error, ValueError
            If the line is not CSV, not UTF-8, or a $name has no replacement.
        """
        # Strict, so that a quote that is not closed is not passed over.
        reader = csv.reader([line.decode()], skipinitialspace=True, strict=True)
        cells = next(reader, [])
        if b"$" in line:
            for at, cell in enumerate(cells):
                if "$" in cell and at != self.id_at:
                    cells[at] = _VARIABLE.sub(self._replacement, cell)
        return cells

    def checked(self, line, number):
        """The cells of a line that was not looked at before.

        Arguments
        ---------
        line : bytes
        number : int
            From 1.

        Returns
        -------
        list of str
            None of an empty line.

        Raises
        ------
        InputError
            If ``split`` finds fault with it, it has too few or too many cells,
            or the duration is no number.
        """
        try:
            cells = self.split(line)
            if len(cells) not in (0, len(self.columns)):
                raise ValueError(
                    f"{len(cells)} cells, not the {len(self.columns)} of the "
                    "header"
                )
            if cells and self.duration_at is not None:
                float(cells[self.duration_at])
        except (csv.Error, ValueError) as error:
            raise self.refusal(f", line {number}", error) from error
        return cells

    def place(self, column):
        """Where in a line a column stands.

        Arguments
        ---------
        column : str

        Returns
        -------
        int

        Raises
        ------
        InputError
            If there is none of the name.
        """
        if column not in self.columns:
            raise self.refusal(", line 1", f"has no column {column}")
        return self.columns.index(column)

    def refusal(self, place, fault):
        """What to tell about a fault of the file.

        Arguments
        ---------
        place : str
            Behind the path, such as ", line 2".
        fault : object

        Returns
        -------
        InputError
        """
        return InputError(f"{self.path}{place}: {fault}. {_EXPECTED}")

    def _replacement(self, match):
        if match[1] not in self.replacements:
            raise ValueError(f"nothing is given to put in place of {match[0]}")
        return str(self.replacements[match[1]])
