"""Every strategy, and a smooth bi-level network problem to try it on: the loss
of the head (lower level) depends on the encoder (upper level) through the
network; see ``small_problem`` for the batches."""

import speechbrain as sb
import torch
from small_problem import SmallBrain, loader, small_batches, weights

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import (
    BOME,
    CGAID,
    F2SA,
    IMAML,
    MAML,
    MLDG,
    SAM,
    SAMA,
    SOBA,
    Alternating,
    LaggedAlternating,
    MetaSGD,
    NeumannAID,
    OneStepUnrolled,
    ProtoMAML,
    Reptile,
    TruncatedUnrolled,
)

#: The last epoch, which LaggedAlternating has to know.
EPOCHS = 2
MODES = ("reverse", "forward", "difference")


def with_each_mode(name, make):
    """Entries of STRATEGIES for each backend of second derivatives."""
    return {
        f"{name} {hvp_mode}": lambda hvp_mode=hvp_mode: make(hvp_mode)
        for hvp_mode in MODES
    }


#: Name of each strategy to what makes a new one.
STRATEGIES = {
    "Alternating": Alternating,
    "LaggedAlternating": lambda: LaggedAlternating(EPOCHS),
    **with_each_mode("at_step", lambda p: OneStepUnrolled("at_step", p)),
    **with_each_mode("ahead", lambda p: OneStepUnrolled("ahead", p)),
    "Truncated": lambda: TruncatedUnrolled(2),
    "Neumann": lambda: NeumannAID(4, 0.2),
    "CG": lambda: CGAID(3, damping=1.0),
    "CG warm": lambda: CGAID(2, damping=1.0, warm_start=True),
    **with_each_mode("SOBA", lambda p: SOBA(0.2, 0.1, p)),
    "F2SA 1": lambda: F2SA(10.0),
    "F2SA 2": lambda: F2SA(10.0, order=2),
    "BOME": lambda: BOME(0.1, steps=2),
    "SAMA": SAMA,
    "MLDG": lambda: MLDG(0.1),
    "SAM": lambda: SAM(0.05),
    **with_each_mode("MAML", lambda p: MAML(2, 0.1, hvp_mode=p)),
    "MAML first order": lambda: MAML(2, 0.1, first_order=True),
    "ANIL": lambda: MAML(2, 0.1, adapted=["head"]),
    "MetaSGD": lambda: MetaSGD(2, 0.1),
    "IMAML": lambda: IMAML(2, 0.1, strength=4.0, iterations=2),
    "Reptile": lambda: Reptile(3, 0.1),
    # All trials are of one class, as the network has one output.
    "ProtoMAML": lambda: ProtoMAML(
        2, 0.01, head="head.4", labels=lambda batch: batch[:, 0].long() * 0
    ),
}
#: Those to which a micro-batch is a task: joining two makes another task.
FROM_START = (
    *(f"MAML {hvp_mode}" for hvp_mode in MODES),
    *("MAML first order", "ANIL", "MetaSGD", "IMAML", "Reptile", "ProtoMAML"),
)
ONE_LEVEL = ("MLDG", "SAM", *FROM_START)
#: Those that name no module of ``network()``.
FOR_ANY_BRAIN = [n for n in STRATEGIES if n not in ("ANIL", "ProtoMAML")]
#: Those with an upper level.
TWO_LEVELS = [name for name in STRATEGIES if name not in ONE_LEVEL]


def network(dropout=0.0, norm=None, dtype=torch.float64):
    """The modules, with fixed initial weights."""
    torch.manual_seed(0)
    modules = {
        "encoder": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh()),
        "head": torch.nn.Sequential(
            torch.nn.Linear(4, 3),
            norm or torch.nn.Identity(),
            torch.nn.Tanh(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(3, 1),
        ),
    }
    return {name: module.to(dtype) for name, module in modules.items()}


def sgd(parameters):
    """An optimizer that does not hide a gradient's scale."""
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters):
    """An optimizer with a state."""
    return torch.optim.Adam(parameters, lr=0.01)


def strategy_brain(
    name,
    modules=None,
    cls=SmallBrain,
    opt_class=sgd,
    hparams=(),
    checkpointer=None,
    **run_opts,
):
    """A Brain that trains ``network()``, both levels with ``opt_class``."""
    upper = {"upper": ["encoder"], "upper_opt_class": opt_class}
    run_opts = {"max_grad_norm": 1e9, "noprogressbar": True, **run_opts}
    return cls(
        modules=modules or network(),
        opt_class=opt_class,
        hparams={
            "hypergradient": STRATEGIES[name](),
            "lower_steps": 2 if name == "Truncated" else 1,
            **(upper if name in TWO_LEVELS else {}),
            **dict(hparams),
        },
        run_opts={"device": "cpu", **run_opts},
        checkpointer=checkpointer,
    )


def fitted(name, batches, **kwargs):
    """Such a Brain after EPOCHS epochs."""
    brain = strategy_brain(name, **kwargs)
    brain.fit(range(1, EPOCHS + 1), loader(batches))
    return brain


def part_of(batches, start, step):
    """Every ``step``-th trial of each batch, from ``start``."""
    return [
        LevelBatch(*(level[start::step] for level in batch))
        for batch in batches
    ]


def strategy_state(brain):
    """All tensors that a strategy keeps from step to step, copies."""
    strategy = brain.hypergradient
    tensors = list(getattr(strategy, "state", {}).values())
    for _, _, optimizers in getattr(strategy, "copies", []):
        for optimizer in optimizers:
            for state in optimizer.state.values():
                tensors += state.values()
    return [tensor.clone() for tensor in tensors]


def distance(ours, expected):
    """The largest difference between two lists or dicts of tensors."""
    if isinstance(ours, dict):
        ours = [ours[name] for name in expected]
        expected = list(expected.values())
    assert len(ours) == len(expected)
    differences = [(a - b).abs().max().item() for a, b in zip(ours, expected)]
    return max(differences, default=0)


def step_lengths(brain):
    """A list that gets (level, length) of each step that an optimizer makes."""
    lengths = []
    on_fit_start = brain.on_fit_start

    def watch(level, optimizer):
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        before = []

        def note_start(*_):
            before[:] = [p.detach().clone() for p in parameters]

        def note_end(*_):
            moves = [(p - b).norm() for p, b in zip(parameters, before)]
            lengths.append((level, torch.stack(moves).norm().item()))

        optimizer.register_step_pre_hook(note_start)
        optimizer.register_step_post_hook(note_end)

    def start_and_watch():
        on_fit_start()
        for level, optimizer in brain.optimizers_dict.items():
            watch(level, optimizer)

    brain.on_fit_start = start_and_watch
    return lengths


class Normalizing(SmallBrain):
    """Has running statistics of its inputs."""

    def compute_forward(self, batch, stage):
        inputs = self.modules.normalize(batch[:, None, :3])[:, 0]
        return self.modules.head(self.modules.encoder(inputs))[:, 0]


class Saving(SmallBrain):
    """Has checkpoints, and can be interrupted."""

    first_step = interrupt_at = None
    save_after = sb.Stage.VALID

    def on_fit_batch_start(self, batch, should_step):
        if self.first_step is None:
            self.first_step = self.optimizer_step
        if self.optimizer_step == self.interrupt_at:
            raise KeyboardInterrupt

    def on_stage_end(self, stage, stage_loss, epoch=None):
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == self.save_after and self.checkpointer:
            self.checkpointer.save_and_keep_only()


def saving_run(name, folder=None, interrupt_at=None, save_after=sb.Stage.VALID):
    """Train with dropout and Adam, from the last checkpoint if there is one.

    Returns the optimizer step at which it began, and all weights and states.
    """
    batches = small_batches()
    modules = network(dropout=0.5)
    counter = sb.utils.epoch_loop.EpochCounter(EPOCHS)
    train = sb.dataio.dataloader.SaveableDataLoader(
        batches, batch_size=None, collate_fn=lambda batch: batch
    )
    checkpointer = folder and sb.utils.checkpoints.Checkpointer(
        folder, {**modules, "counter": counter, "train": train}
    )
    brain = strategy_brain(
        name,
        modules,
        Saving,
        adam,
        {"upper_every": 2} if name in TWO_LEVELS else {},
        checkpointer,
        ckpt_interval_steps=int(interrupt_at == 7),
    )
    brain.interrupt_at, brain.save_after = interrupt_at, save_after
    valid = loader([batches[0].upper])
    brain.fit(counter, train, valid)
    return brain.first_step, [*weights(brain).values(), *strategy_state(brain)]
