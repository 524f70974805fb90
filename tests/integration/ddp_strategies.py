"""Every strategy on a small problem, for ``torchrun``: writes the gradients of
all steps and the final weights.

Each process sees its own part of every batch; their mean loss is that of the
joined batch, which one process alone sees. Where a batch is a task, one process
accumulates the tasks that two see.
"""

import sys
from pathlib import Path

import speechbrain as sb
import torch
from small_problem import SmallBrain, loader, small_batches, weights
from speechbrain.processing.features import InputNormalization
from strategies import (
    FROM_START,
    STRATEGIES,
    network,
    part_of,
    strategy_brain,
    strategy_state,
)

from speechbrain_bilevel.hypergradients.partition import plain_name
from speechbrain_bilevel.utils.distributed import (
    average_gradients,
    closing_process_group,
    rank,
    world_size,
)

CASES = {
    "plain": {},
    "clipped": {"max_grad_norm": 0.3, "grad_accumulation_factor": 2},
    "inputs_normalized": {},
    "batch_normalized": {},
}


class Noting(SmallBrain):
    """Notes the gradients that each optimizer step is made with."""

    def on_fit_start(self):
        super().on_fit_start()
        self.gradients = {}
        for level, optimizer in self.optimizers_dict.items():
            optimizer.register_step_pre_hook(
                lambda *_, level=level: self.note(level)
            )

    def note(self, level):
        gradients = [
            p.grad.flatten() for p in self.bilevel_step.params[level].values()
        ]
        self.gradients.setdefault(level, []).append(torch.cat(gradients))

    def compute_forward(self, batch, stage):
        if "inputs" in self.modules:
            inputs = self.modules.inputs(batch[:, None, :3])[:, 0]
            batch = torch.cat([inputs, batch[:, 3:]], dim=1)
        # DDP's own exchange would wait for gradients that a level leaves out.
        head = self.modules["head"]
        assert not getattr(head, "require_backward_grad_sync", False)
        return super().compute_forward(batch, stage)


def result(name, case):
    """Vectors by name: final weights, and gradients of all steps."""
    norm = torch.nn.BatchNorm1d(3) if case == "batch_normalized" else None
    modules = network(norm=norm)
    if case == "inputs_normalized":
        modules["inputs"] = InputNormalization()
    options = dict(CASES[case])
    parts = options.get("grad_accumulation_factor", 1)
    if name in FROM_START and world_size() == 1:
        parts *= 2
        options["grad_accumulation_factor"] = parts
    brain = strategy_brain(
        name, modules, Noting, distributed_backend="gloo", **options
    )
    mine = [
        part_of(small_batches(2), start, parts * world_size())
        for start in range(rank(), parts * world_size(), world_size())
    ]
    brain.fit([1, 2], loader([part for batch in zip(*mine) for part in batch]))
    wrapped = torch.nn.parallel.DistributedDataParallel
    assert isinstance(brain.modules["head"], wrapped) == (world_size() > 1)
    found = {plain_name(key): value for key, value in weights(brain).items()}
    for level, gradients in brain.gradients.items():
        found[f"{level} gradients"] = torch.stack(gradients)
    for number, tensor in enumerate(strategy_state(brain)):
        found[f"state {number}"] = tensor
    return found


def results():
    """The results of all strategies, in all cases."""
    return {
        f"{name}, {case}": result(name, case)
        for name in STRATEGIES
        for case in CASES
    }


def check_missing_gradients():
    """A gradient that only some processes have counts as zero on the others."""
    shared, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    if rank() == 0:
        shared.grad = torch.ones(2)
    average_gradients([shared, unused])
    assert unused.grad is None
    assert shared.grad.tolist() == [1 / world_size()] * 2


def threads():
    """The names of this process's threads; none where Linux does not say."""
    tasks = Path("/proc/self/task").glob("*/comm")
    return [path.read_text().strip() for path in tasks]


if __name__ == "__main__":
    with closing_process_group():
        sb.utils.distributed.ddp_init_group(
            {"distributed_backend": "gloo", "device": "cpu"}
        )
        check_missing_gradients()
        torch.save(results(), f"{sys.argv[1]}.{rank()}")
    assert "pt_gloo_runloop" not in threads()
