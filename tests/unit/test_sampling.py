"""Folds over attacks and paired batches: what each level gets to see."""

import collections

import numpy as np
import pytest

from speechbrain_bilevel.dataio.batch import PairedBatch
from speechbrain_bilevel.dataio.sampling import (
    Fold,
    PairedBatchSampler,
    class_weights,
    group_folds,
)
from speechbrain_bilevel.utils.errors import InputError

OFFICIAL = {f"A{n:02d}": 3800 for n in range(1, 7)} | {"-": 2580}


def trials(counts, seed=0):
    """The attacks of a training set, in some order."""
    names = np.repeat(list(counts), list(counts.values()))
    return np.random.default_rng(seed).permutation(names)


def spoofs_of(fold, attacks):
    """Which attacks each level of a fold has."""
    return [set(attacks[level]) - {"-"} for level in fold]


@pytest.fixture(scope="module")
def official():
    """The attacks of ASVspoof2019 LA's training set."""
    return trials(OFFICIAL)


@pytest.mark.parametrize("leaky", [False, True])
def test_official_sizes(official, leaky):
    folds = group_folds(official, leaky=leaky)
    assert len(folds) == 3
    for fold in folds:
        assert len(fold.lower) == len(set(fold.lower)) == 4 * (3800 + 430)
        assert len(fold.upper) == len(set(fold.upper)) == 2 * (3800 + 430)


def test_published_folds_leak(official):
    folds = group_folds(official, leaky=True)
    leaks = 0
    for fold in folds:
        lower, upper = spoofs_of(fold, official)
        assert {"A01", "A02"} <= lower
        overlap = set(fold.lower) & set(fold.upper)
        leaked = lower & upper
        assert leaked == upper & {"A01", "A02"}
        # Each attack comes with its bona fide trials.
        assert len(overlap) == len(leaked) * (3800 + 430)
        leaks += bool(leaked)
    assert leaks >= 1
    held_out = [spoofs_of(fold, official)[1] for fold in folds]
    assert sum(map(len, held_out)) == len(set.union(*held_out)) == 6


def test_published_bonafide_goes_in_the_order_of_the_protocol(official):
    bonafide = np.flatnonzero(official == "-")
    for fold in group_folds(official, leaky=True):
        expected = [
            bonafide[n * 430 : (n + 1) * 430]
            for n in range(6)
            if f"A{n + 1:02d}" in official[fold.upper]
        ]
        found = fold.upper[official[fold.upper] == "-"]
        assert sorted(found) == sorted(np.concatenate(expected))


# Attacks, trials of each, bona fide trials, folds.
SHAPES = [(6, 10, 43, 3), (6, 5, 6, 3), (7, 4, 25, 3), (4, 9, 5, 2)]
SHAPES += [(5, 1, 11, 5), (3, 2, 100, 3)]


@pytest.mark.parametrize("seed", [1, 2, 1234])
@pytest.mark.parametrize("names, each, bonafide, n_folds", SHAPES)
def test_corrected_folds_never_leak(names, each, bonafide, n_folds, seed):
    counts = {f"A{n:02d}": each for n in range(names)} | {"-": bonafide}
    attacks = trials(counts, seed)
    everything = list(range(len(attacks)))
    folds = group_folds(attacks, n_folds, seed)
    assert len(folds) == n_folds
    for fold in folds:
        lower, upper = spoofs_of(fold, attacks)
        assert lower and upper and not lower & upper
        # No trial in both levels, none twice, none lost.
        assert sorted(np.concatenate(fold)) == everything
        assert all("-" in attacks[level] for level in fold)
    # Each trial, and so each attack, is held out exactly once.
    uppers = np.concatenate([fold.upper for fold in folds])
    assert sorted(uppers) == everything
    shares = [np.sum(attacks[fold.upper] == "-") for fold in folds]
    most = -(-names // n_folds) * -(-bonafide // names)
    least = names // n_folds * (bonafide // names)
    assert least <= min(shares) and max(shares) <= most


def test_the_seed_decides_the_folds(official):
    def uppers(seed):
        return [fold.upper.tolist() for fold in group_folds(official, 3, seed)]

    def held_out(seed):
        return {tuple(sorted(set(official[upper]))) for upper in uppers(seed)}

    assert uppers(1) == uppers(1)
    assert uppers(1) != uppers(2)
    # Which attacks share a fold, too, not only the bona fide trials.
    assert held_out(1) != held_out(2)


def test_a_seed_means_the_same_folds_and_batches_for_good():
    """A run that was begun with an older version resumes with its folds."""
    folds = group_folds([*"-A-B-C-ABC"], num_folds=3, seed=1234)
    uppers = [fold.upper.tolist() for fold in folds]
    assert uppers == [[2, 4, 1, 7], [6, 3, 8], [0, 5, 9]]
    sampler = PairedBatchSampler(folds, 2, 2, seed=1234)
    sampler.set_epoch(2)
    assert list(sampler) == [[1, 7, 8, 6], [0, 5, 3, 8], [2, 9, 6, 3]]


@pytest.mark.parametrize(
    "counts, folds, message",
    [
        ({"A01": 9, "A02": 9, "-": 9}, 3, r"has 2 attacks \(A01, A02\) and 9"),
        ({"A01": 9, "A02": 9, "A03": 9, "-": 2}, 3, "and 2 bona fide trials"),
        ({"A01": 9, "A02": 9, "A03": 9}, 3, "and 0 bona fide trials"),
        ({"-": 9}, 2, "has 0 attacks"),
        ({"A01": 9, "A02": 9, "-": 9}, 1, "num_folds: 1 leaves no attack"),
        (
            {"A01": 9, "A02": 9, "-": 9},
            0,
            "num_folds: 0 .* expected at least 2",
        ),
    ],
)
@pytest.mark.parametrize("leaky", [False, True])
def test_too_little_for_the_folds(counts, folds, message, leaky):
    with pytest.raises(InputError, match=message):
        group_folds(trials(counts), folds, leaky=leaky)


def test_the_published_epoch_has_264_batches(official):
    folds = group_folds(official, leaky=True)
    sampler = PairedBatchSampler(folds, 32, 32, epoch_ends="shorter")
    batches = list(sampler)
    assert len(sampler) == len(batches) == 264
    assert all(len(batch) == 32 + 32 for batch in batches)
    # It ends with the shorter stream: no trial of either comes twice.
    for half in (slice(32), slice(32, None)):
        drawn = [trial for batch in batches for trial in batch[half]]
        assert len(set(drawn)) == 264 * 32


def test_the_corrected_epoch_goes_through_the_lower_stream(official):
    sampler = PairedBatchSampler(group_folds(official), 32, 32)
    batches = list(sampler)
    assert len(sampler) == len(batches) == 4 * 4230 // 32
    lower = [trial for batch in batches for trial in batch[:32]]
    assert len(set(lower)) == len(lower)


# Of unequal length, so that streams run out within an epoch.
FOLDS = [
    Fold(np.arange(20), np.arange(20, 25)),
    Fold(np.arange(100, 111), np.arange(111, 125)),
    Fold(np.arange(200, 233), np.arange(233, 240)),
]


def epoch(number, seed=1, sizes=(4, 3), folds=FOLDS):
    """The batches of an epoch."""
    sampler = PairedBatchSampler(folds, *sizes, seed=seed)
    sampler.set_epoch(number)
    assert len(sampler) == len(list(sampler))
    return list(sampler)


@pytest.mark.parametrize("number", range(1, 8))
def test_epochs_take_the_folds_in_turn(number):
    fold = FOLDS[(number - 1) % 3]
    batches = epoch(number)
    # (20 + 11 + 33) / 4 lower trials a batch, on average over the folds.
    assert len(batches) == (5 + 2 + 8) // 3
    for batch in batches:
        assert len(batch) == 4 + 3
        assert all(type(trial) is int for trial in batch)
        assert set(batch[:4]) <= set(fold.lower)
        assert set(batch[4:]) <= set(fold.upper)


def test_an_epoch_is_its_number_and_the_seed():
    assert epoch(2) == epoch(2)
    # 1 and 4 have the same fold.
    assert epoch(1) != epoch(4)
    assert epoch(1) != epoch(1, seed=2)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(4, 3), (1, 8), (3, 1), (5, 20)])
def test_every_trial_is_used_before_any_is_used_again(number, sizes):
    batches = epoch(number, sizes=sizes)
    fold = FOLDS[number - 1]
    for half, level in (
        (slice(sizes[0]), fold.lower),
        (slice(sizes[0], None), fold.upper),
    ):
        drawn = [trial for batch in batches for trial in batch[half]]
        for start in range(0, len(drawn), len(level)):
            once = collections.Counter(drawn[start : start + len(level)])
            assert set(once.values()) == {1}


def test_a_stream_that_runs_out_is_shuffled_again():
    batches = epoch(1, sizes=(1, 5), folds=FOLDS[:1])
    assert len({tuple(batch[1:]) for batch in batches}) > 1


@pytest.mark.parametrize(
    "lower, upper, ends",
    [(22, 1, "lower"), (22, 1, "shorter"), (1, 15, "shorter")],
)
def test_too_few_trials_for_a_batch(lower, upper, ends):
    with pytest.raises(InputError, match=rf"batch of {lower} \+ {upper};"):
        PairedBatchSampler(FOLDS, lower, upper, epoch_ends=ends)


@pytest.mark.parametrize(
    "sizes, name", [((40, 1), "batch_size"), ((1, 10**5), "upper_batch_size")]
)
def test_a_batch_is_no_larger_than_the_training_set(sizes, name):
    with pytest.raises(InputError, match=f"^{name}: .* expected 1 to 25 tr"):
        PairedBatchSampler(FOLDS, *sizes)
    with pytest.raises(InputError, match="^batch_size: 0; expected 1 to 25"):
        PairedBatchSampler(FOLDS, 0, 1)


def test_a_batch_is_taken_apart_where_it_was_put_together():
    batch = epoch(1)[0]
    pair = PairedBatch(lower_size=4)([{"id": str(trial)} for trial in batch])
    assert pair.lower.id + pair.upper.id == [str(trial) for trial in batch]
    assert len(pair.lower.id) == 4


def test_balanced_batches_are_half_bona_fide_and_give_attacks_equal_parts():
    attacks = trials({"-": 40, "A01": 300, "A02": 30, "A03": 30, "A04": 100})
    folds = group_folds(attacks, num_folds=2)
    weights = class_weights(attacks)
    sampler = PairedBatchSampler(folds, 100, 50, weights=weights)
    for epoch, fold in enumerate(folds, start=1):
        sampler.set_epoch(epoch)
        batches = [np.array(batch) for batch in sampler]
        for level, places in ((0, slice(100)), (1, slice(100, None))):
            drawn = np.concatenate([batch[places] for batch in batches])
            assert set(drawn) <= set(fold[level])
            counts = collections.Counter(attacks[drawn])
            names = set(attacks[fold[level]]) - {"-"}
            for name in names:
                expected = len(drawn) / 2 / len(names)
                # Three and a half standard deviations of a binomial count.
                assert abs(counts[name] - expected) < 3.5 * expected**0.5
            bonafide = len(drawn) / 2
            assert abs(counts["-"] - bonafide) < 3.5 * (bonafide / 2) ** 0.5


def test_balanced_epochs_differ_and_can_be_drawn_again():
    attacks = trials({"-": 40, "A01": 30, "A02": 30})
    sampler = PairedBatchSampler(
        group_folds(attacks, num_folds=2), 8, 8, weights=class_weights(attacks)
    )
    epochs = []
    for epoch in (1, 3, 1):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]
