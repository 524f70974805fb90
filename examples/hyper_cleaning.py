"""Hyper-cleaning: half of the labels are wrong, and 80 clean trials show which.

> python examples/hyper_cleaning.py
"""

import torch
from torch.nn.functional import cross_entropy
from toy_keywords import CLEAN, TRAIN, KeywordBrain, NoisyKeywords, f1, network

from speechbrain_bilevel import BilevelMixin
from speechbrain_bilevel.dataio import sampling
from speechbrain_bilevel.dataio.batch import PairedBatch
from speechbrain_bilevel.hypergradients import OneStepUnrolled
from speechbrain_bilevel.nnet.losses import LossWeights


class WeighingBrain(BilevelMixin, KeywordBrain):
    def lower_objectives(self, predictions, batch, stage):
        losses = cross_entropy(predictions, batch.word, reduction="none")
        return (self.modules.weights(batch.trial) * losses).mean()


def train(task, seed, hypergradient, trials=TRAIN):
    torch.manual_seed(seed)
    brain = WeighingBrain(
        modules={"network": network(), "weights": LossWeights(len(TRAIN))},
        opt_class=lambda p: torch.optim.Adam(p, lr=3e-3, weight_decay=0.03),
        hparams={
            "hypergradient": hypergradient,
            "upper": ["weights"],
            "upper_opt_class": lambda p: torch.optim.Adam(p, lr=0.1),
            "task": task,
            "accuracies": [],
        },
        run_opts={"noprogressbar": True},
    )
    folds, sizes = [sampling.Fold(trials, CLEAN)], (50, len(CLEAN))
    loader = {
        "batch_sampler": sampling.PairedBatchSampler(folds, *sizes, seed),
        "collate_fn": PairedBatch(sizes[0]),
    }
    brain.fit(range(1, 41), task, train_loader_kwargs=loader)
    return brain.hparams.accuracies, brain.modules.weights


def run(seed):
    task = NoisyKeywords(seed)
    plain, _ = train(task, seed, None)
    with_clean, _ = train(task, seed, None, trials=range(len(task)))
    learned, weights = train(task, seed, OneStepUnrolled())
    wrong = weights(torch.tensor(TRAIN)) < 0.5
    ends = [accuracies[-1][1] for accuracies in (plain, with_clean, learned)]
    return [*ends, max(plain)[1], f1(wrong, task.wrong)]


if __name__ == "__main__":
    print("seed    plain  +clean  learned  plain, best epoch  F1")
    for s in range(5):
        print(s, *(f"{value:7.3f}" for value in run(s)))
