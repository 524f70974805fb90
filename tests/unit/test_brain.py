"""The training loop with a second level, against steps made by hand."""

import functools
import random

import numpy as np
import pytest
import speechbrain as sb
import torch
from small_problem import (
    SmallBrain,
    loader,
    small_batches,
    small_brain,
    weights,
)

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients.batch_loss import BatchLoss
from speechbrain_bilevel.hypergradients.partition import plain_name
from speechbrain_bilevel.utils.errors import InputError


def started(**kwargs):
    brain = small_brain(**kwargs)
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.nonfinite_count = 0
    return brain


def fitted(batches, epochs=1, **kwargs):
    brain = small_brain(**kwargs)
    brain.fit(range(1, epochs + 1), loader(batches))
    return brain


def by_hand(brain, batch):
    """One alternating step of SGD, written out."""
    encoder, head = brain.modules.encoder, brain.modules.head

    def descend(module, rate, trials):
        loss = brain.compute_objectives(
            brain.compute_forward(trials, None), trials, None
        )
        parameters = list(module.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients):
            parameter.data -= rate * gradient

    descend(head, 0.1, batch.lower)
    descend(encoder, 0.2, batch.upper)


def assert_same(ours, expected, tolerance=1e-12):
    for name, tensor in expected.items():
        assert (ours[name] - tensor).abs().max() <= tolerance, name


def test_steps_equal_those_made_by_hand():
    batches = small_batches()
    expected = small_brain()
    for batch in batches:
        by_hand(expected, batch)
    assert_same(weights(fitted(batches)), weights(expected))


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_a_level_computes_only_its_own_gradients(level):
    brain = started()
    BatchLoss(brain.bilevel_step, level, small_batches()[0].lower).backward()
    for name, parameters in brain.bilevel_step.params.items():
        for parameter in parameters.values():
            assert (parameter.grad is not None) == (name == level)
            assert parameter.requires_grad


def test_accumulated_steps_equal_steps_on_the_joined_batch():
    batches = small_batches(steps=4)
    halves = [
        LevelBatch(*(level[half] for level in batch))
        for batch in batches
        for half in (slice(0, 4), slice(4, 8))
    ]
    brain = fitted(halves, grad_accumulation_factor=2)
    assert brain.optimizer_step == 4
    assert_same(weights(brain), weights(fitted(batches)))


def test_an_unfinished_accumulation_does_not_reach_the_next_epoch():
    batches = small_batches(steps=3)
    brain = fitted(batches, epochs=2, grad_accumulation_factor=2)
    expected = small_brain(grad_accumulation_factor=2)
    for epoch in (1, 2):
        expected.fit([epoch], loader(batches[:2]))
    assert_same(weights(brain), weights(expected))


def test_a_norm_limits_all_parameter_groups_of_a_level_together():
    def two_groups(parameters):
        groups = [{"params": [p]} for p in parameters]
        return torch.optim.SGD(groups, lr=1.0)

    brain = small_brain(
        hparams={"upper_opt_class": two_groups}, max_grad_norm=0.01
    )
    before = weights(brain)
    brain.fit([1], loader(small_batches(steps=1)))
    moved = [
        (after - before[name]).flatten()
        for name, after in weights(brain).items()
        if name.startswith("encoder")
    ]
    assert torch.cat(moved).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_a_step_that_is_not_finite_is_left_out_then_patience_ends():
    batches = small_batches()
    broken = LevelBatch(batches[0].lower * float("nan"), batches[0].upper)
    brain = small_brain(nonfinite_patience=1)
    before = weights(brain)
    brain.fit([1], loader([broken]))
    after = weights(brain)
    assert_same(
        {k: after[k] for k in after if "head" in k},
        {k: before[k] for k in before if "head" in k},
        0,
    )
    assert all(w.isfinite().all() for w in after.values())
    assert not torch.equal(before["encoder.weight"], after["encoder.weight"])
    with pytest.raises(ValueError, match="patience is exhausted"):
        brain.fit([2], loader([broken, broken]))


@pytest.mark.parametrize("active", ["lower", "upper"])
def test_freeze_optimizers_stops_a_level(active):
    class Freezing(SmallBrain):
        def freeze_optimizers(self, optimizers):
            return {active: optimizers[active]}

    brain = small_brain(cls=Freezing)
    before = weights(brain)
    brain.fit([1], loader(small_batches()))
    for name, after in weights(brain).items():
        is_upper = name.startswith("encoder")
        moves = is_upper == (active == "upper")
        assert torch.equal(after, before[name]) != moves, name


def test_without_hypergradient_it_is_the_brains_own_training():
    class Plain(sb.Brain):
        compute_forward = SmallBrain.compute_forward
        compute_objectives = SmallBrain.compute_objectives

    batches = [batch.lower for batch in small_batches()]
    ours = fitted(batches, hparams={"hypergradient": None})
    theirs = fitted(batches, cls=Plain)
    assert_same(weights(ours), weights(theirs), 0)


def test_levels_may_have_losses_of_their_own():
    class Weighted(SmallBrain):
        def upper_objectives(self, predictions, batch, stage):
            return 0.5 * self.compute_objectives(predictions, batch, stage)

    batches = small_batches()
    slower = {"upper_opt_class": lambda p: torch.optim.SGD(p, lr=0.1)}
    assert_same(
        weights(fitted(batches, cls=Weighted)),
        weights(fitted(batches, hparams=slower)),
    )


def test_schedules_step_with_the_optimizers():
    def halve(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    brain = fitted(
        small_batches(steps=4),
        hparams={"lr_schedule": halve},
        grad_accumulation_factor=2,
    )
    rate = brain.optimizers_dict["lower"].param_groups[0]["lr"]
    assert rate == pytest.approx(0.1 / 4)
    assert brain.optimizers_dict["upper"].param_groups[0]["lr"] == 0.2


def test_random_numbers_depend_on_seed_and_step_only(monkeypatch):
    drawn = []

    class Drawing(SmallBrain):
        def on_fit_batch_start(self, batch, should_step):
            numbers = torch.rand(1).item(), np.random.rand(), random.random()
            drawn.append(numbers)

    monkeypatch.setenv("SB_GLOBAL_SEED", "5")
    fitted(small_batches(steps=2), epochs=2, cls=Drawing)
    torch.rand(7)
    fitted(small_batches(steps=2), epochs=2, cls=Drawing)
    assert drawn[:4] == drawn[4:]
    assert len(set(drawn[:4])) == 4
    monkeypatch.setenv("SB_GLOBAL_SEED", "6")
    fitted(small_batches(steps=1), cls=Drawing)
    assert drawn[-1] != drawn[0]


def test_no_checkpoint_within_an_accumulated_step(tmp_path):
    saved = []

    class Saving(SmallBrain):
        def _save_intra_epoch_ckpt(self):
            saved.append(self.step)

    fitted(
        small_batches(steps=6),
        cls=Saving,
        checkpointer=sb.utils.checkpoints.Checkpointer(tmp_path),
        grad_accumulation_factor=3,
        ckpt_interval_steps=1,
    )
    assert saved == [3, 6]


@pytest.mark.parametrize(
    "hparams, run_opts, message",
    [
        ({"upper": ["encodr"]}, {}, "'encodr' names no parameter"),
        ({"upper": ["encoder", "head"]}, {}, "covers every trainable"),
        ({}, {"max_grad_norm": -1.0}, "max_grad_norm: -1.0"),
        ({}, {"max_grad_norm": 0.0}, "max_grad_norm: 0.0"),
    ],
)
def test_unusable_settings_are_refused(hparams, run_opts, message):
    with pytest.raises(InputError, match=message):
        started(hparams=hparams, **run_opts)


def test_a_missing_key_is_named():
    class Forgetful(SmallBrain):
        def __init__(self, *args, hparams, **kwargs):
            del hparams["upper_opt_class"]
            super().__init__(*args, hparams=hparams, **kwargs)

    with pytest.raises(InputError, match="upper_opt_class: missing"):
        small_brain(cls=Forgetful)


def test_an_upper_level_without_influence_is_refused():
    class Constant(SmallBrain):
        def upper_objectives(self, predictions, batch, stage):
            return predictions.detach().mean()

    with pytest.raises(InputError, match="upper loss does not depend"):
        fitted(small_batches(), cls=Constant)


@pytest.mark.parametrize("options", [{"compile": True}, {}])
def test_compiled_modules_take_turns(options, monkeypatch):
    compiled = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compiled)
    batches = small_batches(steps=2)
    expected = fitted(batches)
    brain = small_brain(**options)
    if not options:
        # By whoever made the Brain.
        for name, module in brain.modules.items():
            brain.modules[name] = torch.compile(module)
    brain.fit([1], loader(batches))
    assert all("_orig_mod" in name for name in weights(brain))
    found = {plain_name(name): w for name, w in weights(brain).items()}
    assert_same(found, weights(expected))
