"""A bi-level problem small enough to solve by hand: a linear network with an
encoder (upper level) and a head (lower level), in double precision."""

import speechbrain as sb
import torch

from speechbrain_bilevel.core import BilevelMixin
from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import Alternating


class SmallBrain(BilevelMixin, sb.Brain):
    """Least squares; a batch is a tensor [trials, 4], the last column is the
    target."""

    def compute_forward(self, batch, stage):
        return self.modules.head(self.modules.encoder(batch[:, :3]))[:, 0]

    def compute_objectives(self, predictions, batch, stage):
        return ((predictions - batch[:, 3]) ** 2).mean()


def small_brain(cls=SmallBrain, hparams=(), checkpointer=None, **run_opts):
    """A Brain with fixed initial weights and plain SGD on both levels."""
    torch.manual_seed(0)
    modules = {
        "encoder": torch.nn.Linear(3, 2).double(),
        "head": torch.nn.Linear(2, 1).double(),
    }
    run_opts = {"max_grad_norm": 1e9, "noprogressbar": True, **run_opts}
    return cls(
        modules=modules,
        opt_class=lambda p: torch.optim.SGD(p, lr=0.1),
        hparams={
            "hypergradient": Alternating(),
            "upper": ["encoder"],
            "upper_opt_class": lambda p: torch.optim.SGD(p, lr=0.2),
            **dict(hparams),
        },
        run_opts={"device": "cpu", **run_opts},
        checkpointer=checkpointer,
    )


def small_batches(steps=4, trials=8):
    """Fixed training batches for both levels."""
    generator = torch.Generator().manual_seed(1)

    def draw():
        shape = (trials, 4)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return [LevelBatch(draw(), draw()) for _ in range(steps)]


def loader(batches):
    """A DataLoader that yields ready batches."""
    return torch.utils.data.DataLoader(
        batches, batch_size=None, collate_fn=lambda batch: batch
    )


def weights(brain):
    """All parameters of a Brain by name, detached copies."""
    return {
        name: parameter.detach().clone()
        for name, parameter in brain.modules.named_parameters()
    }
