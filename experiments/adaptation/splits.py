"""Which clips a detector is trained on, adapted to and measured on.

A *recording* is what no two parts share: all clips of a speaker on a page, or,
on pages of fewer than five speakers, all of a speaker that have the same number
in their names (a sentence).
"""

import re

import numpy as np
import pandas as pd

from speechbrain_bilevel.dataio.prepare import find_trials, join_paths

#: Attacks that the detector of a fold has not seen.
HELD_OUT = (("A01", "A02"), ("A03", "A04"), ("A05", "A06"))
_FEW_SPEAKERS = 5


def read(data_folder, sources, partition):
    """Return the trials of a partition with ``page`` and ``recording``.

    ``sources`` is a table with the columns utt, repo (the page), speaker and
    repo_path.
    """
    trials = find_trials(data_folder, partition)
    trials = join_paths(trials, data_folder)
    table = pd.read_csv(sources, sep="\t", dtype=str).set_index("utt")
    table = table.loc[trials.utt]
    trials["page"] = table.repo.to_numpy()
    speakers = table.groupby("repo").speaker.nunique()
    names = []
    for row in table.itertuples():
        name = f"{row.repo} {row.speaker}"
        if speakers[row.repo] < _FEW_SPEAKERS:
            last = row.repo_path.rpartition("/")[2]
            name += " " + " ".join(re.findall(r"\d+", last))
        names.append(name)
    trials["recording"] = names
    return trials


def halves(names, rng):
    """Divide names into two random halves; return the first as a set."""
    names = rng.permutation(sorted(set(names)))
    return set(names[: len(names) // 2])


def fold(train, dev, held_out, seed):
    """Return trials to train on, to adapt to and to test on, of a fold.

    Training has neither the held-out attacks nor dev. Their recordings, and
    dev's bona fide ones, are divided into halves to adapt to and to test on.
    """
    rng = np.random.default_rng(seed)
    seen = ~train.attack.isin(held_out)
    kept = dev.attack.isin((*held_out, "-"))
    rest = pd.concat([train[~seen], dev[kept]])
    pool = set()
    for _, of_class in rest.groupby("label", observed=True):
        pool |= halves(of_class.recording, rng)
    is_pool = rest.recording.isin(pool)
    return train[seen], rest[is_pool], rest[~is_pool]


def split(trials, seed):
    """Return trials to adapt to, of the same pages, and of other pages.

    Half of the pages are known, those with one class only apart from those with
    both, so that either half has both classes. Of the recordings of a known
    page, half are to adapt to.
    """
    rng = np.random.default_rng(seed)
    kinds = trials.groupby("page").label.agg(lambda of: "".join(sorted({*of})))
    known = set()
    for kind in sorted(set(kinds)):
        known |= halves(kinds.index[kinds == kind], rng)
    other = trials[~trials.page.isin(known)]
    trials = trials[trials.page.isin(known)]
    pool = set()
    for _, of_page in trials.groupby("page"):
        pool |= halves(of_page.recording, rng)
    is_pool = trials.recording.isin(pool)
    return trials[is_pool], trials[~is_pool], other


def draw(pool, count, seed):
    """Draw clips to adapt to, half of them bona fide; recordings take turns."""
    rng = np.random.default_rng(seed)
    found = []
    for _, of_class in pool.groupby("label", observed=True):
        of_class = of_class.iloc[rng.permutation(len(of_class))]
        turn = of_class.groupby("recording").cumcount()
        of_class = of_class.iloc[np.argsort(turn, kind="stable")]
        found.append(of_class[: count // 2])
    return pd.concat(found, ignore_index=True)
