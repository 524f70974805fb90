"""Names found by hashes: right even where two names have the same one."""

import pytest

from speechbrain_bilevel.dataio import name_index
from speechbrain_bilevel.dataio.name_index import NameIndex

NAMES = ["d", "a", "c", "b", "a", "e", "d"]


@pytest.fixture(params=["64 bits", "2 bits", "none"], autouse=True)
def hashes(request, monkeypatch):
    """As they are, or so short that names collide."""
    kept = {"64 bits": 2**64 - 1, "2 bits": 3, "none": 0}[request.param]
    real = name_index.name_hash
    monkeypatch.setattr(name_index, "name_hash", lambda name: real(name) & kept)


def test_names_that_collide_are_told_apart():
    found = NameIndex(NAMES).find(["e", "x", "d", "a", "b", "c"])
    assert found.tolist() == [5, -1, 0, 1, 3, 2]


def test_repeated_names_come_as_they_appear_first():
    repeats = NameIndex(NAMES).repeats()
    assert list(repeats.items()) == [("d", [0, 6]), ("a", [1, 4])]
    assert NameIndex(NAMES[1:4]).repeats() == {}


def test_hashes_may_be_given():
    hashes = [name_index.name_hash(name) for name in NAMES]
    index = NameIndex(NAMES, hashes)
    assert index.find(["e", "x"]).tolist() == [5, -1]


def test_no_names():
    index = NameIndex([])
    assert index.repeats() == {}
    assert index.find(["a"]).tolist() == [-1] and len(index.find([])) == 0
