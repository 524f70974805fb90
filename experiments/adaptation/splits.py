"""Which clips a detector is trained on, adapted to and measured on.

A *recording* is what no two parts share: all clips of a speaker on a page whose
names have the same number, that is, a sentence, as said by the speaker and by
each of the systems. The parts of a fold share no *unit*: all clips of a speaker
on a page, or, on pages of fewer than five speakers, a recording.
"""

import numpy as np
import pandas as pd

from speechbrain_bilevel.dataio.prepare import find_trials, join_paths

#: Attacks that the detector of a fold has not seen.
HELD_OUT = (("A01", "A02"), ("A03", "A04"), ("A05", "A06"))
_FEW = 5


def read(data_folder, sources, partition):
    """Return the trials of a partition with page, recording and unit.

    ``sources`` is a table with the columns utt, repo (the page), speaker and
    repo_path.
    """
    trials = find_trials(data_folder, partition)
    trials = join_paths(trials, data_folder)
    table = pd.read_csv(sources, sep="\t", dtype=str).set_index("utt")
    table = table.loc[trials.utt]
    trials["page"] = table.repo.to_numpy()
    numbers = table.repo_path.str.rpartition("/")[2].str.findall(r"\d+")
    voices = table.repo + " " + table.speaker
    recordings = voices + " " + numbers.str.join(" ")
    several = table.groupby("repo").speaker.transform("nunique") >= _FEW
    trials["voice"] = voices.to_numpy()
    trials["recording"] = recordings.to_numpy()
    trials["unit"] = recordings.where(~several, voices).to_numpy()
    return trials


def halves(names, rng):
    """Divide names into two random halves; return the first as a set."""
    names = rng.permutation(sorted(set(names)))
    return set(names[: len(names) // 2])


def fold(train, dev, held_out, seed):
    """Return trials to train on, to adapt to and to test on, of a fold.

    Training has neither the held-out attacks nor dev. Their units, and dev's
    bona fide ones, are divided into halves to adapt to and to test on.
    """
    rng = np.random.default_rng(seed)
    seen = ~train.attack.isin(held_out)
    kept = dev.attack.isin((*held_out, "-"))
    rest = pd.concat([train[~seen], dev[kept]])
    pool = set()
    for _, of_class in rest.groupby("label", observed=True):
        pool |= halves(of_class.unit, rng)
    is_pool = rest.unit.isin(pool)
    return train[seen], rest[is_pool], rest[~is_pool]


def split(trials, seed):
    """Return trials to adapt to, and three sets to test on.

    Half of the pages are known, those with one class only apart from those with
    both, so that either half has both classes. Of the recordings of a known
    page, half are to adapt to. The tests: the others; those of them whose
    speaker is not among those to adapt to; the other pages.
    """
    rng = np.random.default_rng(seed)
    kinds = trials.groupby("page").label.agg(lambda of: "".join(sorted({*of})))
    known = set()
    for kind in sorted(set(kinds)):
        known |= halves(kinds.index[kinds == kind], rng)
    other = trials[~trials.page.isin(known)]
    trials = trials[trials.page.isin(known)]
    chosen = set()
    for _, of_page in trials.groupby("page"):
        chosen |= halves(of_page.recording, rng)
    is_pool = trials.recording.isin(chosen)
    pool, same = trials[is_pool], trials[~is_pool]
    return pool, same, same[~same.voice.isin(pool.voice)], other


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
