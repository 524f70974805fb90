"""Score tables written by hand."""

import numpy as np
import pandas as pd

from speechbrain_bilevel.dataio import BONAFIDE, SPOOF


def cm_scores(bonafide, path="cm.txt", speakers=None, **attacks):
    """Scores of bona fide trials and of those of each attack.

    Trials are called u0, u1, ... in this order; ``speakers`` has one for each.
    """
    groups = {"-": bonafide, **attacks}
    attack = [name for name, group in groups.items() for _ in group]
    scores = pd.DataFrame(
        {
            "utt": [f"u{i}" for i in range(len(attack))],
            "score": np.concatenate(
                [np.array(g, float) for g in groups.values()]
            ),
            "label": [BONAFIDE if name == "-" else SPOOF for name in attack],
            "attack": attack,
        }
    ).astype({"label": "category", "attack": "category"})
    if speakers is not None:
        scores["speaker"] = pd.Categorical(speakers)
    scores.attrs["path"] = path
    return scores
