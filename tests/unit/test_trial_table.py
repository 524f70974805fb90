"""The compact table of trials: a list in all but the memory that it takes."""

import pickle
import tracemalloc

import numpy
import pytest

from speechbrain_bilevel.dataio import compact
from speechbrain_bilevel.dataio.protocols import Trial, collect_trials
from speechbrain_bilevel.dataio.trial_table import TrialTable
from speechbrain_bilevel.utils.errors import InputError

# More than are held as objects at a time, and no multiple of that.
N_MANY = 2 * compact._CHUNK + 77


def make_trial(number):
    # Names of one, two and three bytes a character, and of none.
    letter = ("x", "é", "語", "")[number % 4]
    return Trial(
        f"{letter}{number}",
        f"folder/{letter * (number % 9)}",
        f"S{number % 300}",
        ("-", "A01", "Ä2")[number % 3],
        "bonafide" if number % 3 == 0 else "spoof",
        "train",
    )


@pytest.fixture(scope="module")
def trials():
    return [make_trial(number) for number in range(N_MANY)]


@pytest.fixture(scope="module")
def table(trials):
    return TrialTable(iter(trials))


def test_iterates_like_a_list(trials, table):
    assert len(table) == N_MANY
    assert list(table) == trials
    assert list(table.texts("utt")) == [trial.utt for trial in trials]


@pytest.mark.parametrize("at", [0, 1, 4097, N_MANY - 1, -1, -N_MANY])
def test_indices(trials, table, at):
    assert table[at] == trials[at]
    assert table[numpy.int64(at)] == trials[at]


@pytest.mark.parametrize("at", [N_MANY, -N_MANY - 1])
def test_indices_beyond_the_ends(table, at):
    with pytest.raises(IndexError):
        table[at]
    with pytest.raises(IndexError):
        table.take([at])


@pytest.mark.parametrize(
    "part",
    [
        slice(3),
        slice(5, 20000),
        slice(None, None, -1),
        slice(-3, None),
        slice(1, 20000, 3),
        slice(9, 9),
    ],
)
def test_slices(trials, table, part):
    some = table[part]
    assert isinstance(some, TrialTable)
    assert some == trials[part] and list(some) == trials[part]
    # Also of a slice of a slice.
    assert some[2:7] == trials[part][2:7]


def test_rows_in_any_order_and_repeatedly(trials, table):
    rows = numpy.random.default_rng(0).integers(N_MANY, size=N_MANY)
    taken = table.take(rows)
    assert list(taken) == [trials[row] for row in rows]
    assert taken[-1] == trials[rows[-1]]


def test_rows_by_a_mask(trials, table):
    mask = numpy.arange(N_MANY) % 5 == 2
    assert table.take(mask) == trials[2::5]
    assert not table.take(numpy.zeros(N_MANY, dtype=bool))


def test_empty():
    table = TrialTable()
    assert not table and list(table) == [] and table == []
    assert table.counts("label") == {} and table.repeats("utt") == {}
    assert table.take([]) == table == pickle.loads(pickle.dumps(table))


def test_equality(trials, table):
    some = table[:3]
    assert some == trials[:3] and trials[:3] == some and some == table[:3]
    assert some != trials[:2] and some != trials[1:4]
    assert some != [*trials[:2], "x"] and some != 3


def test_columns_of_numbers(trials, table):
    for name in ("speaker", "attack", "label", "partition"):
        codes, names = table.column(name)
        values = [getattr(trial, name) for trial in trials]
        assert [names[code] for code in codes] == values
        assert list(names) == list(dict.fromkeys(values))
    assert table.counts("attack") == {
        name: sum(trial.attack == name for trial in trials)
        for name in ("-", "A01", "Ä2")
    }
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 1


def test_a_part_has_only_its_own_names(table):
    # A sampler that counted the others would have classes without a clip.
    codes, names = table[1:3].column("attack")
    assert codes.tolist() == [0, 1] and names == ("A01", "Ä2")


def test_what_a_trial_takes():
    def paths():
        for number in range(50000):
            path = f"corpora/{'x' * 34}/{number:012}.flac"
            yield Trial(f"{number:012}", path, "S", "A", "spoof", "train")

    tracemalloc.start()
    table = TrialTable(paths())
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table[0].path) == 60
    # As objects they would take 300, and no less on the way there.
    assert held < 120 * len(table) and peak < 200 * len(table)
    assert len(pickle.dumps(table)) < 100 * len(table)


def test_pickling(trials, table):
    copied = pickle.loads(pickle.dumps(table.with_root("/data")))
    assert copied == table.with_root("/data")
    # A part does not carry the whole along.
    assert len(pickle.dumps(table[100:103])) < 2000


def test_roots(trials, table):
    some = TrialTable([trials[0], Trial("u", "/a.wav", *"abc", "eval")])
    moved = some.with_root("inner").with_root("/data")
    assert [trial.path for trial in moved] == [
        f"/data/inner/{trials[0].path}",
        "/a.wav",
    ]
    assert moved[0].path == moved[:1][0].path == next(moved.texts("path"))
    assert some[0] == trials[0]


def test_other_paths(trials, table):
    moved = table.with_root("/data").with_paths(map(str, range(N_MANY)))
    assert moved[4097].path == "4097" and moved[4097].utt == table[4097].utt
    assert list(moved.texts("path")) == [str(n) for n in range(N_MANY)]


@pytest.mark.parametrize("collide", [False, True])
def test_repeats(monkeypatch, collide):
    if collide:
        monkeypatch.setattr(compact, "hash", lambda _: 0, raising=False)
    utts = ["a", "b", "c", "b", "a", "b"]
    table = TrialTable(Trial(utt, "p", *"xyz", "eval") for utt in utts)
    assert table.repeats("utt") == {3: 1, 4: 0, 5: 1}
    assert table[:3].repeats("utt") == {}
    assert list(table.repeats("path")) == [1, 2, 3, 4, 5]


def test_more_than_4_gigabytes():
    # 32 bits would begin again at 0.
    lengths = numpy.full(3, 1 << 31, numpy.uint32)
    bounds = compact._add_up(lengths)
    assert bounds.tolist() == [0, 1 << 31, 2 << 31, 3 << 31]
    data = numpy.frombuffer(b"abcd", numpy.uint8)
    texts = compact.Texts(data, numpy.array([0, 1, 1, 4]))
    assert list(texts.take(numpy.array([2, 0, 1]))) == ["bcd", "a", ""]


def test_faults_of_all_kinds_are_shown_in_the_order_of_the_lines():
    def parse(utt):
        if utt == "bad":
            raise InputError("is bad")
        return Trial(utt, utt, *"xyz", "eval")

    rows = enumerate("a bad a b bad b a bad c bad".split(), start=1)
    with pytest.raises(InputError) as caught:
        collect_trials("list.csv", rows, parse, "Expected names")
    assert str(caught.value) == (
        "list.csv: 7 of 10 lines cannot be used:\n"
        "  line 2: is bad\n"
        "  line 3: a is already on line 1\n"
        "  line 5: is bad\n"
        "  line 6: b is already on line 4\n"
        "  line 7: a is already on line 1\n"
        "  and 2 more\n"
        "Expected names"
    )
