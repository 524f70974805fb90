"""Train the log-mel CNN as a start to adapt from: plainly, or meta-trained.

All starts make the same number of backward passes of 32 clips.
"""

from dataclasses import dataclass, field, replace

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_bilevel import BilevelMixin
from speechbrain_bilevel.augment.time_domain import RandomCrop
from speechbrain_bilevel.dataio.audio import fit_length, hear
from speechbrain_bilevel.dataio.batch import PairedBatch
from speechbrain_bilevel.dataio.sampling import TaskBatchSampler, class_weights
from speechbrain_bilevel.hypergradients import (
    IMAML,
    MAML,
    MetaSGD,
    ProtoMAML,
    Reptile,
)
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.nnet.schedulers import warmup_cosine

SUPPORT = QUERY = 16
TASKS = 2
#: What crops are taken from, in samples.
HEARD = 48000
CLASSIFIER = "network.classifier"


@dataclass(frozen=True)
class Start:
    """How a start is trained.

    ``passes`` are backward passes for each task, of 16 clips; ``settings`` are
    those to choose from on the folds; ``plain`` is the share of the passes that
    plain training makes first.
    """

    title: str
    make: object
    passes: object
    settings: list = field(default_factory=lambda: [{}])
    plain: float = 0.0


def _three_steps(*sizes):
    """The settings that are tried."""
    return [dict(steps=3, step_size=size) for size in sizes]


STARTS = {
    "plain": Start("plain training", None, None, plain=1.0),
    "fomaml": Start(
        "MAML, first order",
        lambda **o: MAML(first_order=True, **o),
        lambda steps, **_: steps + 1,
        _three_steps(0.02, 0.1),
    ),
    "maml": Start(
        "MAML, exact",
        MAML,
        # The last step's graph serves its product, too.
        lambda steps, **_: 3 * steps,
        _three_steps(0.02, 0.1),
    ),
    "anil": Start(
        "ANIL (only the classifier adapts)",
        lambda **o: MAML(adapted=[CLASSIFIER], first_order=True, **o),
        lambda steps, **_: steps + 1,
        _three_steps(0.1, 0.5),
    ),
    "metasgd": Start(
        "Meta-SGD, first order",
        lambda **o: MetaSGD(first_order=True, **o),
        lambda steps, **_: steps + 1,
        _three_steps(0.02, 0.1),
    ),
    "imaml": Start(
        "iMAML",
        lambda **o: IMAML(strength=1.0, iterations=2, **o),
        # Three products, each with a gradient for its graph.
        lambda steps, **_: steps + 7,
        _three_steps(0.02, 0.1),
    ),
    "protomaml": Start(
        "ProtoMAML, first order",
        lambda **o: ProtoMAML(
            head=CLASSIFIER, labels="label", first_order=True, **o
        ),
        # The prototypes' way back is a pass, too.
        lambda steps, **_: steps + 2,
        _three_steps(0.02, 0.1),
    ),
    "reptile": Start(
        "Reptile",
        Reptile,
        lambda steps, **_: steps,
        [dict(steps=4, step_size=size) for size in (0.02, 0.1)],
    ),
}
# A half is plain, the other as above, with the step size chosen there.
for name, title in (("fomaml", "MAML"), ("protomaml", "ProtoMAML")):
    STARTS[f"plain_{name}"] = replace(
        STARTS[name],
        title=f"plain, then {title}, first order",
        settings=_three_steps(0.1),
        plain=0.5,
    )


class StartBrain(BilevelMixin, sb.Brain):
    """Cross-entropy of random crops."""

    def compute_forward(self, batch, stage):
        """Waveforms -> logits, [batch, 2]."""
        return self.modules.network(self.hparams.crop(batch.wav.data))

    def compute_objectives(self, predictions, batch, stage):
        """The loss."""
        labels = batch.label.data.flatten()
        return torch.nn.functional.cross_entropy(predictions, labels)


class Clips(torch.utils.data.Dataset):
    """Clips in memory, with the labels 1 for bona fide and 0 for spoofed."""

    def __init__(self, trials):
        self.wavs = [
            torch.from_numpy(fit_length(hear(path, HEARD).wav, HEARD))
            for path in trials.path
        ]
        self.labels = torch.from_numpy(
            (trials.label == "bonafide").to_numpy().astype(int)
        )

    def __len__(self):
        return len(self.wavs)

    def __getitem__(self, index):
        return {
            "id": str(index),
            "wav": self.wavs[index],
            "label": self.labels[index : index + 1],
        }


def train(name, settings, clips, attacks, seed, budget):
    """Train a start with as many passes as the budget; return the network.

    ``attacks`` are the groups that tasks are of; "-" belongs to all.
    """
    start = STARTS[name]
    sb.utils.seed.seed_everything(seed)
    network = build("MelCNN", {})
    steps = round(start.plain * budget)
    if steps:
        random = torch.Generator().manual_seed(seed)
        sampler = torch.utils.data.WeightedRandomSampler(
            class_weights(attacks), 32 * steps, generator=random
        )
        loader = {"batch_size": 32, "sampler": sampler}
        _fit(network, clips, steps, collate_fn=PaddedBatch, **loader)
    if start.make is not None:
        cost = TASKS * start.passes(**settings) * SUPPORT / 32
        steps = round((1 - start.plain) * budget / cost)
        sampler = TaskBatchSampler(
            *(attacks, clips.labels.numpy().astype(str), SUPPORT, QUERY),
            length=steps * TASKS,
            seed=seed,
        )
        loader = {"batch_sampler": sampler, "collate_fn": PairedBatch(SUPPORT)}
        _fit(network, clips, steps, start.make(**settings), TASKS, **loader)
    return network.eval()


def _fit(network, clips, steps, strategy=None, accumulated=1, **loader):
    """Train a network for an epoch of so many steps."""
    brain = StartBrain(
        modules={"network": network},
        opt_class=lambda p: torch.optim.Adam(p, lr=1e-3),
        hparams={
            "hypergradient": strategy,
            "crop": RandomCrop(network.num_samples),
            "lr_schedule": lambda o: warmup_cosine(o, steps, 0.04),
        },
        run_opts={
            "device": "cpu",
            "noprogressbar": True,
            "grad_accumulation_factor": accumulated,
        },
    )
    brain.fit([1], clips, train_loader_kwargs=loader)
