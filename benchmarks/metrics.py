#!/usr/bin/env python3
"""Time the metrics on as many trials as ASVspoof2019 LA eval has.

> python benchmarks/metrics.py
> python benchmarks/metrics.py --scores scores.txt --asv-scores asv.txt

Prints a table. The scores are Gaussian unless files are given. Rows are timed
in turns, so that a change of the machine's speed meets all; the yardstick is
scikit-learn's det_curve on the same arrays.
"""

import argparse
import functools
import statistics

import numpy as np
import pandas as pd
from measure import in_turns, quartiles, ratio, table, timed
from sklearn.metrics import det_curve as sklearn_det_curve

from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.score_files import (
    ASVScores,
    read_asv_scores,
    read_cm_scores,
    split_classes,
)
from speechbrain_bilevel.metrics.asvspoof5 import (
    act_dcf,
    cllr,
    min_adcf,
    min_dcf,
)
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.metrics.tdcf import asv_rates, min_tdcf

YARDSTICK = "scikit-learn det_curve"
N_BONAFIDE, N_SPOOF = 7355, 63882
ATTACKS, SPEAKERS, RESAMPLES = 13, 67, 1000


def made_up_scores():
    """Gaussian scores of a countermeasure and of an ASV system."""
    rng = np.random.default_rng(0)
    total = N_BONAFIDE + N_SPOOF
    is_bonafide = rng.permutation(total) < N_BONAFIDE
    attack = np.char.add("A", rng.integers(ATTACKS, size=total).astype(str))
    scores = pd.DataFrame(
        {
            "utt": [f"LA_E_{i}" for i in range(total)],
            "attack": np.where(is_bonafide, "-", attack),
            "label": np.where(is_bonafide, "bonafide", "spoof"),
            "score": rng.normal(size=total) + 3 * is_bonafide,
            "speaker": rng.integers(SPEAKERS, size=total).astype(str),
        }
    )
    scores.attrs["path"] = "made up"
    asv = ASVScores(
        target=rng.normal(4, 1, 5370),
        nontarget=rng.normal(0, 1, 33327),
        spoof=rng.normal(3, 1, 63882),
    )
    return scores, asv


def rows(scores, asv):
    """What is timed, by name."""
    bonafide, spoof = split_classes(scores)
    rates = asv_rates(asv.target, asv.nontarget, asv.spoof)
    keys, values = scores.label == "bonafide", scores.score.to_numpy()

    def eer_and_both_tdcfs():
        eer(bonafide, spoof)
        min_tdcf(bonafide, spoof, rates)
        min_tdcf(bonafide, spoof, rates, form="revised")

    return {
        YARDSTICK: lambda: sklearn_det_curve(keys, values),
        "`eer`": lambda: eer(bonafide, spoof),
        "`min_tdcf`, legacy": lambda: min_tdcf(bonafide, spoof, rates),
        "`min_tdcf`, revised": lambda: min_tdcf(
            bonafide, spoof, rates, form="revised"
        ),
        "EER and both t-DCFs": eer_and_both_tdcfs,
        "`min_dcf`": lambda: min_dcf(bonafide, spoof),
        "`act_dcf`": lambda: act_dcf(bonafide, spoof),
        "`cllr`": lambda: cllr(bonafide, spoof),
        "`min_adcf`, on the ASV scores": lambda: min_adcf(
            asv.target, asv.nontarget, asv.spoof
        ),
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", help="score file, utt source key score")
    parser.add_argument("--asv-scores", help="ASV score file")
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    scores, asv = made_up_scores()
    if arguments.scores:
        scores = read_cm_scores(arguments.scores)
    if arguments.asv_scores:
        asv = read_asv_scores(arguments.asv_scores)

    seconds = in_turns(rows(scores, asv), arguments.rounds)
    yardstick = seconds[YARDSTICK]
    cells = [
        [
            name,
            quartiles([1000 * s for s in values], "{:.1f}"),
            f"{ratio(values, yardstick):.2f}",
        ]
        for name, values in seconds.items()
    ]
    attacks = len(set(scores.attack)) - 1
    for resample in "utterances", "speakers":
        if resample == "speakers" and "speaker" not in scores:
            continue
        settings = [scores], asv, resample, RESAMPLES
        took = timed(functools.partial(evaluate, *settings))
        name = f"all figures, {attacks} attacks, {RESAMPLES} resamples over"
        relative = took / statistics.median(yardstick)
        row = [f"{name} {resample}", f"{1000 * took:.0f}", f"{relative:.0f}"]
        cells.append(row)
    print(f"{len(scores.score)} trials\n")
    table(("", "ms: median (quartiles)", f"/ {YARDSTICK}"), cells)


if __name__ == "__main__":
    main()
