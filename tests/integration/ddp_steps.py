"""Steps of a small problem, for ``torchrun``: writes the final weights.

Each process sees its own part of every batch; their mean loss is that of the
joined batch, which one process alone sees.
"""

import sys

import speechbrain as sb
import torch
from small_problem import loader, small_batches, small_brain, weights

from speechbrain_bilevel.distributed import rank, world_size
from speechbrain_bilevel.problem import LevelBatch

if __name__ == "__main__":
    sb.utils.distributed.ddp_init_group(
        {"distributed_backend": "gloo", "device": "cpu"}
    )
    mine = [
        LevelBatch(*(level[rank() :: world_size()] for level in batch))
        for batch in small_batches()
    ]
    brain = small_brain(distributed_backend="gloo", max_grad_norm=0.05)
    brain.fit([1, 2], loader(mine))
    torch.save(weights(brain), f"{sys.argv[1]}.{rank()}")
