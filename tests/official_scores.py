"""Scores of a published system, and the official figures of three of them.

``data/official_scores.npz`` holds what the published bi-level system gave to
the 71,237 trials of ASVspoof2019 LA eval (``bilevel_E2E.txt`` of
github.com/menglu-lml/ASV_Deepfake_with_bilevel, MIT license; its scores are
single precision numbers): ``scores``, ascending, and ``attacks``, the number of
the attack of each, 0 for bona fide; and ``asv_rates``, the five numbers that
the function of this name gives for the corpus' own ASV scores.
"""

from pathlib import Path

import numpy as np

from speechbrain_bilevel.metrics.tdcf import ASVRates

#: EER in per cent, legacy and revised min t-DCF, with the digits known.
FIGURES = {
    "bilevel_E2E": ("5.653530214", "0.155582056", "0.20855"),
    "RawGAT-ST_add": ("1.1586", "0.03737", "0.09776"),
    "AIR_LFCC-ResNet18_softmax": ("5.058", "0.1208", "0.1760"),
}
ASV_SCORES = "data/protocols/ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"
CM_PROTOCOL = "data/protocols/ASVspoof2019.LA.cm.eval.trl.txt"


def official_scores():
    """Bona fide scores, scores by attack, and ASV error rates."""
    with np.load(
        Path(__file__).with_name("data") / "official_scores.npz"
    ) as file:
        scores, attacks = file["scores"].astype(float), file["attacks"]
        rates = ASVRates(*file["asv_rates"].tolist())
    by_attack = {f"A{n:02}": scores[attacks == n] for n in range(7, 20)}
    return scores[attacks == 0], by_attack, rates


def rounded(value, digits):
    """The value with as many decimals as ``digits``, a text, has."""
    return f"{value:.{len(digits.partition('.')[2])}f}"
