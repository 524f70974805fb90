"""A changed view of a long list, made as it is looked at."""

from collections.abc import Sequence


class View(Sequence):
    """What a function makes of each item of a sequence, made on the fly.

    Of ten million trials, a list of what is needed of each would take
    gigabytes.

    Arguments
    ---------
    items : Sequence
    change : callable
        From an item to what is seen instead of it. Worker processes of a
        DataLoader may have to pickle it.

    Example
    -------
    >>> view = View(["a", "b"], str.upper)
    >>> len(view), view[1], list(view)
    (2, 'B', ['A', 'B'])
    """

    def __init__(self, items, change):
        self._items = items
        self._change = change

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        return self._change(self._items[index])

    def __iter__(self):
        return map(self._change, self._items)
