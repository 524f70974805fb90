"""Steps of a small problem, for ``torchrun``: writes the final weights.

Each process sees its own part of every batch; their mean loss is that of the
joined batch, which one process alone sees.
"""

import sys
from pathlib import Path

import speechbrain as sb
import torch
from small_problem import loader, small_batches, small_brain, weights

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.utils.distributed import (
    average_gradients,
    closing_process_group,
    rank,
    world_size,
)

TASKS = Path("/proc/self/task")


def threads():
    """The names of this process's threads; none where Linux does not say."""
    return [path.read_text().strip() for path in TASKS.glob("*/comm")]


def check_missing_gradients():
    """A gradient that only some processes have counts as zero on the others."""
    shared, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    if rank() == 0:
        shared.grad = torch.ones(2)
    average_gradients([shared, unused])
    assert unused.grad is None
    assert shared.grad.tolist() == [1 / world_size()] * 2


def main():
    """Trains, and writes the weights."""
    sb.utils.distributed.ddp_init_group(
        {"distributed_backend": "gloo", "device": "cpu"}
    )
    mine = [
        LevelBatch(*(level[rank() :: world_size()] for level in batch))
        for batch in small_batches()
    ]
    brain = small_brain(distributed_backend="gloo", max_grad_norm=0.05)
    brain.fit([1, 2], loader(mine))
    check_missing_gradients()
    torch.save(weights(brain), f"{sys.argv[1]}.{rank()}")


if __name__ == "__main__":
    with closing_process_group():
        main()
    assert "pt_gloo_runloop" not in threads()
