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
    hashes : array of 64 bits, optional
        ``name_hash`` of each name, where it is known already.

    Example
    -------
    >>> index = NameIndex(["utt_1", "utt_2"])
    >>> index.find(["utt_2", "utt_3"]).tolist()
    [1, -1]
    """

    def __init__(self, names, hashes=None):
        self.names = names
        if hashes is None:
            hashes = _hashes(names)
        hashes = np.asarray(hashes)
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
        hashes = _hashes(names)
        starts = np.searchsorted(self._hashes, hashes, "left").tolist()
        ends = np.searchsorted(self._hashes, hashes, "right").tolist()
        found = np.full(len(names), -1)
        for number, (name, start, end) in enumerate(zip(names, starts, ends)):
            for place in self._order[start:end].tolist():
                if self.names[place] == name:
                    found[number] = place
                    break
        return found

    def repeats(self):
        """Finds the names that stand at more than one position.

        Returns
        -------
        dict of str to list of int
            Their positions, ascending; first the name that appears first.

        Example
        -------
        >>> NameIndex(["a", "b", "c", "b"]).repeats()
        {'b': [1, 3]}
        """
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        places = {}
        for place in np.sort(self._order[np.union1d(same, same + 1)]).tolist():
            places.setdefault(self.names[place], []).append(place)
        return {name: each for name, each in places.items() if len(each) > 1}


def name_hash(name):
    """A number of 64 bits that is the same in every process.

    Arguments
    ---------
    name : str

    Returns
    -------
    int

    Example
    -------
    >>> name_hash("utt_1")
    3630155008509296907
    """
    # Python's own hash is another one in every process.
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _hashes(names):
    return np.fromiter(map(name_hash, names), np.uint64, len(names))
