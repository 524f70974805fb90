"""Every strategy with every feature of SpeechBrain's training loop."""

import functools

import numpy as np
import pytest
import speechbrain as sb
import torch
from small_problem import SmallBrain, loader, small_batches, weights
from strategies import (
    EPOCHS,
    FROM_START,
    STRATEGIES,
    TWO_LEVELS,
    adam,
    distance,
    fitted,
    network,
    part_of,
    step_lengths,
    strategy_brain,
    strategy_state,
)
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_bilevel.dataio.batch import LevelBatch

every_strategy = pytest.mark.parametrize("name", STRATEGIES)
#: Those that differentiate the steps that the lower level really makes.
AT_STEP = ("at_step reverse", "Truncated", "SAMA")
with_two_levels = pytest.mark.parametrize("name", TWO_LEVELS)
of_batches = [name for name in STRATEGIES if name not in FROM_START]


@pytest.mark.parametrize("name", of_batches)
def test_accumulation_makes_the_steps_of_the_joined_batch(name):
    # A difference of means is the mean of differences: they are no exception.
    batches = small_batches(steps=3)
    halves = zip(part_of(batches, 0, 2), part_of(batches, 1, 2))
    joined = fitted(name, batches)
    brain = fitted(
        name,
        [half for pair in halves for half in pair],
        grad_accumulation_factor=2,
    )
    assert brain.optimizer_step == joined.optimizer_step == 3 * EPOCHS
    assert distance(weights(brain), weights(joined)) < 1e-10
    assert distance(strategy_state(brain), strategy_state(joined)) < 1e-10


@pytest.mark.parametrize("name", FROM_START)
def test_accumulation_makes_the_mean_of_the_steps_on_each_task(name):
    def ends(tasks):
        brain = strategy_brain(name, grad_accumulation_factor=len(tasks))
        brain.fit([1], loader(tasks))
        assert brain.optimizer_step == 1
        return [*weights(brain).values(), *strategy_state(brain)]

    tasks = small_batches(steps=2)
    apart = zip(*(ends([task]) for task in tasks))
    assert distance(ends(tasks), [sum(pair) / 2 for pair in apart]) < 1e-12


@every_strategy
def test_accumulation_does_not_change_what_an_unused_parameter_does(name):
    found = []
    for factor in (1, 2):
        modules = network()
        modules["head"].idle = torch.nn.Parameter(torch.ones(1).double())
        decay = lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1)
        brain = strategy_brain(
            name,
            modules,
            opt_class=decay,
            grad_accumulation_factor=factor,
        )
        brain.fit([1], loader(small_batches()[:1] * factor))
        found.append(modules["head"].idle.item())
    assert found[0] == pytest.approx(found[1], abs=1e-12)


@every_strategy
def test_bf16_comes_near_full_precision(name):
    batches = [
        LevelBatch(*(level.float() for level in batch))
        for batch in small_batches()
    ]
    found = {}
    for precision in ("fp32", "bf16"):
        modules = network(dtype=torch.float32)
        brain = fitted(name, batches, modules=modules, precision=precision)
        found[precision] = weights(brain)
        assert np.isfinite([*brain.level_stats().values()]).all()
    before = torch.nn.ModuleDict(network(dtype=torch.float32))
    moved, rounded = (
        [(end - start).norm() for start, end in zip(some, ends.values())]
        for some, ends in (
            (before.parameters(), found["fp32"]),
            (found["fp32"].values(), found["bf16"]),
        )
    )
    # A bf16 number has 8 bits; F2SA's penalty multiplies the rounding error.
    assert 0 < max(r / m for r, m in zip(rounded, moved)) < 0.1


@every_strategy
def test_a_gpu_is_waited_for_as_often_whatever_the_network(name):
    """It is when a value is read."""

    class Reads(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    fused, found = functools.partial(torch.optim.Adam, lr=0.01, fused=True), []
    for depth in (1, 5):
        layers = [torch.nn.Linear(3, 3) for _ in range(depth)]
        modules = network(norm=torch.nn.Sequential(*layers))
        brain = strategy_brain(name, modules, opt_class=fused)
        with Reads() as reads:
            brain.fit([1], loader(small_batches(steps=3)))
        found.append(reads.number)
    assert 0 < found[0] == found[1]


@pytest.mark.parametrize("name", ["SAMA", "SOBA difference"])
def test_differences_are_taken_without_tf32(name):
    """On a GPU, where SpeechBrain switches it on; backward, too."""
    seen = {False: set(), True: set()}

    class Noting(SmallBrain):
        def compute_objectives(self, predictions, batch, stage):
            note = lambda _, again=self.is_repeat: seen[again].add(
                torch.backends.cuda.matmul.fp32_precision
            )
            # Without gradients a loss is only checked.
            if predictions.requires_grad:
                note(None)
                predictions.register_hook(note)
            return super().compute_objectives(predictions, batch, stage)

    brain = strategy_brain(name, cls=Noting)
    brain.fit([1], loader(small_batches(steps=2)))
    assert "tf32" in seen[False]
    assert seen[True] == {"ieee"}


@every_strategy
def test_the_scale_of_half_precision_has_no_influence(name):
    class Scaling(SmallBrain):
        def on_fit_start(self):
            super().on_fit_start()
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    batches = small_batches()
    scaled = fitted(name, batches, cls=Scaling, max_grad_norm=0.1)
    assert scaled.scaler.get_scale() == 2.0**12
    plain = fitted(name, batches, max_grad_norm=0.1)
    assert distance(weights(scaled), weights(plain)) < 1e-9
    assert distance(strategy_state(scaled), strategy_state(plain)) < 1e-9


@every_strategy
def test_a_norm_limits_all_parameter_groups_of_a_level(name):
    def groups(parameters):
        return torch.optim.SGD([{"params": [p]} for p in parameters], lr=1.0)

    brain = strategy_brain(name, opt_class=groups, max_grad_norm=0.01)
    lengths = step_lengths(brain)
    brain.fit([1], loader(small_batches(steps=2)))
    assert {level for level, _ in lengths} == set(brain.optimizers_dict)
    for _, length in lengths:
        assert length == pytest.approx(0.01, rel=1e-3)
    if name.startswith("F2SA"):
        # The copies began where the network did, and made two steps.
        before = network()["head"].parameters()
        moves = [a - b for a, b in zip(strategy_state(brain), before)]
        length = torch.cat([move.flatten() for move in moves]).norm()
        assert 0 < length < 0.0201


@every_strategy
def test_a_batch_that_is_not_finite_leaves_no_trace(name):
    good = small_batches()
    broken = LevelBatch(*(level * float("nan") for level in good[0]))
    options = {"opt_class": adam, "nonfinite_patience": 10}
    clean = fitted(name, good, **options)
    brain = fitted(name, [*good[:2], broken, *good[2:]], **options)
    assert distance(weights(brain), weights(clean)) == 0
    assert distance(strategy_state(brain), strategy_state(clean)) == 0


@every_strategy
@pytest.mark.parametrize("broken", ["lower", "upper"])
def test_one_level_that_is_not_finite_leaves_finite_numbers(name, broken):
    good = small_batches(steps=3)
    batch = good[0]._replace(**{broken: good[0].lower * float("nan")})
    brain = strategy_brain(name, opt_class=adam, nonfinite_patience=10)
    lengths = step_lengths(brain)
    brain.fit([1], loader([good[0], batch, *good[1:]]))
    for tensor in [*weights(brain).values(), *strategy_state(brain)]:
        assert tensor.isfinite().all()
    for level in brain.optimizers_dict:
        steps = [length for other, length in lengths if other == level]
        repeats = brain.lower_steps if level == "lower" else 1
        assert len(steps) >= 3 * repeats and min(steps) > 0
    if name in AT_STEP and broken == "lower":
        # The upper step does not differentiate a step that was left out.
        assert len(steps) == 4


@every_strategy
def test_patience_ends(name):
    broken = LevelBatch(*(b * float("nan") for b in small_batches()[0]))
    brain = strategy_brain(name, nonfinite_patience=2)
    before = weights(brain)
    with pytest.raises(ValueError, match="patience is exhausted"):
        brain.fit([1], loader([broken] * 3))
    assert distance(weights(brain), before) == 0


@every_strategy
@pytest.mark.parametrize("frozen", ["lower", "upper"])
def test_a_frozen_level_stays(name, frozen):
    class Freezing(SmallBrain):
        def freeze_optimizers(self, optimizers):
            return {k: v for k, v in optimizers.items() if k != frozen}

    brain = fitted(name, small_batches(steps=2), cls=Freezing)
    before = dict(torch.nn.ModuleDict(network()).named_parameters())
    moved = {n for n, w in weights(brain).items() if (w != before[n]).any()}
    levels = [
        p for name, p in brain.bilevel_step.params.items() if name != frozen
    ]
    expected = {name for level in levels for name in level}
    if name == "ProtoMAML":
        # Each task's head begins at prototypes, not at its own weights.
        expected -= {"head.4.weight", "head.4.bias"}
    assert moved == expected
    if name in AT_STEP and frozen == "lower":
        assert brain.level_stats()["upper/implicit_norm"] == 0
    if name.startswith("F2SA") and frozen == "lower":
        copies = strategy_state(brain)
        lower = [before[name] for name in brain.bilevel_step.params["lower"]]
        assert distance(copies, lower * (len(copies) // len(lower))) == 0


@every_strategy
def test_debug_is_a_short_run_that_leaves_no_files(name, tmp_path):
    brain = strategy_brain(
        name,
        checkpointer=sb.utils.checkpoints.Checkpointer(tmp_path),
        debug=True,
        debug_batches=2,
        debug_epochs=1,
        ckpt_interval_steps=1,
    )
    brain.fit(range(1, 5), loader(small_batches()))
    assert brain.optimizer_step == 2
    assert not list(tmp_path.iterdir())


@with_two_levels
def test_each_level_makes_the_steps_asked_for(name):
    halve = functools.partial(
        torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5
    )
    brain = strategy_brain(
        name,
        hparams={"lower_steps": 3, "upper_every": 2, "lr_schedule": halve},
    )
    lengths = step_lengths(brain)
    brain.fit([1], loader(small_batches()))
    turn = ["lower"] * 6 + ["upper"]
    assert [level for level, _ in lengths] == turn * 2
    assert brain.level_stats()["lower/lr"] == 0.1 / 2**4
    assert brain.level_stats()["upper/lr"] == 0.1
    for _, _, (optimizer,) in getattr(brain.hypergradient, "copies", []):
        assert optimizer.param_groups[0]["lr"] == 0.1 / 2**3


@pytest.mark.filterwarnings("error:Detected call of .lr_scheduler.step")
def test_a_schedule_steps_with_its_optimizer():
    def halve(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    hparams = {"upper_every": 2, "upper_lr_schedule": halve}
    brain = strategy_brain("Alternating", hparams=hparams)
    brain.fit([1], loader(small_batches()))
    assert brain.level_stats()["upper/lr"] == 0.1 / 2**2


@every_strategy
def test_level_stats(name):
    brain = fitted(name, small_batches())
    stats = brain.level_stats()
    expected = {"lower/gradient_norm", "lower/lr"}
    if name != "SAM":
        expected |= {"upper/loss"}
    if name in TWO_LEVELS:
        expected |= {"upper/gradient_norm", "upper/lr"}
    if "Alternating" not in name and name in TWO_LEVELS:
        parts = {"upper/direct_norm", "upper/implicit_norm"}
        expected |= parts | {"upper/implicit_to_direct"}
    assert set(stats) == expected
    assert all(np.isfinite(value) and value > 0 for value in stats.values())


def test_level_stats_of_an_upper_level_without_direct_gradient():
    class Weighting(SmallBrain):
        def compute_forward(self, batch, stage):
            return self.modules.head(batch)[:, 0]

        def lower_objectives(self, predictions, batch, stage):
            weights = self.modules.encoder(batch[:, :3]).mean(1)
            return (weights * (predictions - batch[:, 3]) ** 2).mean()

    brain = fitted("SOBA reverse", small_batches(), cls=Weighting)
    stats = brain.level_stats()
    assert stats["upper/implicit_norm"] > 0 == stats["upper/direct_norm"]
    assert np.isfinite(list(stats.values())).all()


def test_preflight_passes_over_arrays_among_the_hyperparameters():
    hparams = {"frequencies": np.ones(3)}
    strategy_brain("SOBA reverse", hparams=hparams).on_fit_start()
