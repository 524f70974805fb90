"""Score tables written by hand."""

import numpy as np

from speechbrain_bilevel.evaluation.score_files import CMScores


def cm_scores(bonafide, path="cm.txt", speakers=None, **attacks):
    """Scores of bona fide trials and of those of each attack.

    Trials are called u0, u1, ... in this order; ``speakers`` has one for each.
    """
    groups = {"-": bonafide, **attacks}
    attack = [name for name, group in groups.items() for _ in group]
    return CMScores(
        utt=np.array([f"u{i}" for i in range(len(attack))], dtype=object),
        attack=np.array(attack, dtype=object),
        is_bonafide=np.array([name == "-" for name in attack]),
        score=np.concatenate([np.array(g, float) for g in groups.values()]),
        path=path,
        speaker=None if speakers is None else np.array(speakers, object),
    )
