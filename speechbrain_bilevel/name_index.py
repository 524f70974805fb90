"""Where a name stands in a long list, without an object for every name."""

import hashlib

import numpy as np


class NameIndex:
    """Finds the positions of names by their hashes.

    It takes 12 bytes a name, where a dict takes over 100, so that ten million
    trials are no matter. A hash only tells where to look: the name there is
    compared, so two names of one hash are still two.

    Arguments
    ---------
    names : Sequence of str
        Looked at again for each name that is found; it is not copied.

    Example
    -------
    >>> index = NameIndex(["utt_1", "utt_2"])
    >>> index.find(["utt_2", "utt_3"]).tolist()
    [1, -1]
    """

    def __init__(self, names):
        self.names = names
        hashes = _hashes(names, len(names))
        # Stable: of one name, the first position comes first.
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._order = order.astype(np.min_scalar_type(len(names)))

    def find(self, names):
        """The position of each of some names.

        Arguments
        ---------
        names : list of str

        Returns
        -------
        numpy.ndarray
            The first position of each, -1 where there is no such name.
        """
        hashes = _hashes(names, len(names))
        starts = np.searchsorted(self._hashes, hashes, "left").tolist()
        ends = np.searchsorted(self._hashes, hashes, "right").tolist()
        found = np.full(len(names), -1)
        for number, (name, start, end) in enumerate(zip(names, starts, ends)):
            for place in self._order[start:end].tolist():
                if self.names[place] == name:
                    found[number] = place
                    break
        return found

    def repeated(self):
        """Looks for names that stand at more than one position.

        Returns
        -------
        count : int
            How many such names there are.
        first : str or None
            The one that appears first.

        Example
        -------
        >>> NameIndex(["a", "b", "c", "b"]).repeated()
        (1, 'b')
        """
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        places = {}
        for place in np.union1d(same, same + 1).tolist():
            place = int(self._order[place])
            places.setdefault(self.names[place], []).append(place)
        firsts = [min(each) for each in places.values() if len(each) > 1]
        return len(firsts), self.names[min(firsts)] if firsts else None


def _hashes(names, count):
    return np.fromiter(map(_hash, names), np.uint64, count)


def _hash(name):
    # Python's own is another one in every process.
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
