"""Making a table of trials from the lines of a list, or saying what is wrong."""

import array

from speechbrain_bilevel.dataio.trial_table import TrialTable
from speechbrain_bilevel.errors import InputError

_SHOWN = 5


def collect_trials(path, rows, parse, expected):
    """Makes trials of rows; shows all that is wrong with them at once.

    Arguments
    ---------
    path : str or Path
        Where the rows are from, for messages.
    rows : iterable of (int, object)
        Line number and content of each row, taken one by one.
    parse : callable
        Makes a ``Trial`` of a row's content; raises ``InputError`` with what
        is wrong with it.
    expected : str
        What rows should be and what to do, for messages.

    Returns
    -------
    TrialTable
        In the order of the rows; at least one, no name twice.

    Raises
    ------
    InputError
        There is no row, or there are bad ones; these are counted and the first
        ones shown.

    Example
    -------
    >>> from speechbrain_bilevel.dataio.trials import Trial
    >>> def parse(utt):
    ...     return Trial(utt, f"{utt}.wav", "-", "-", "bonafide", "eval")
    >>> rows = [(1, "a"), (2, "b")]
    >>> [trial.path for trial in collect_trials("x", rows, parse, "Names")]
    ['a.wav', 'b.wav']
    >>> collect_trials("x", [(1, "a"), (2, "a")], parse, "Expected names")
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.errors.InputError: x: 1 of 2 lines cannot be used:
      line 2: a is already on line 1
    Expected names
    """
    # The first faults, and of the trials the numbers of their lines.
    faults, lines = [], array.array("Q")
    n_unread = 0

    def trials():
        nonlocal n_unread
        for number, row in rows:
            try:
                trial = parse(row)
            except InputError as fault:
                n_unread += 1
                if n_unread <= _SHOWN:
                    faults.append((number, str(fault)))
            else:
                lines.append(number)
                yield trial

    table = TrialTable(trials())
    repeats = table.repeats("utt")
    for row, first in list(repeats.items())[:_SHOWN]:
        fault = f"{table[row].utt} is already on line {lines[first]}"
        faults.append((lines[row], fault))
    n_faults = n_unread + len(repeats)
    if n_faults:
        raise InputError(
            f"{path}: {n_faults} of {n_unread + len(table)} lines cannot be "
            f"used:\n{_list_faults(sorted(faults), n_faults)}\n{expected}"
        )
    if not len(table):
        raise InputError(
            f"{path}: empty. Expected one trial a line; "
            "unpack the corpus again or write one"
        )
    return table


def _list_faults(faults, n_faults):
    shown = [f"  line {line}: {fault}" for line, fault in faults[:_SHOWN]]
    if n_faults > _SHOWN:
        shown.append(f"  and {n_faults - _SHOWN} more")
    return "\n".join(shown)
