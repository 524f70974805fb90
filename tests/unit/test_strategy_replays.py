"""Every strategy draws, counts and resumes as if each batch were seen once."""

import pytest
import speechbrain as sb
import torch
from closed_forms import start
from small_problem import small_batches, weights
from speechbrain.processing.features import GlobalNorm, InputNormalization
from strategies import (
    EPOCHS,
    STRATEGIES,
    TWO_LEVELS,
    Normalizing,
    distance,
    fitted,
    network,
    saving_run,
    strategy_brain,
)

from speechbrain_bilevel.hypergradients.batch_loss import BatchLoss

every_strategy = pytest.mark.parametrize("name", STRATEGIES)


@every_strategy
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv("SB_GLOBAL_SEED", "5")
    _, expected = saving_run(name)
    # Resumed at the end of the first epoch, then within the second one.
    for optimizer_step in (5, 7):
        with pytest.raises(KeyboardInterrupt):
            saving_run(name, tmp_path, interrupt_at=optimizer_step)
        torch.rand(7)
    first_step, found = saving_run(name, tmp_path)
    # There is no checkpoint between a batch and the upper step it waits for.
    assert first_step == (6 if name in TWO_LEVELS else 7)
    assert distance(found, expected) == 0


def test_a_run_resumed_after_training_before_validation(tmp_path, monkeypatch):
    monkeypatch.setenv("SB_GLOBAL_SEED", "5")
    _, expected = saving_run("Alternating")
    options = {"save_after": sb.Stage.TRAIN}
    with pytest.raises(KeyboardInterrupt):
        saving_run("Alternating", tmp_path, interrupt_at=5, **options)
    first_step, found = saving_run("Alternating", tmp_path, **options)
    assert first_step == 4
    assert distance(found, expected) == 0


@every_strategy
def test_running_statistics_are_updated_once_per_batch_and_level(name):
    inputs, hidden = InputNormalization(), torch.nn.BatchNorm1d(3)
    modules = {**network(norm=hidden), "normalize": inputs}
    brain = fitted(name, small_batches(), modules=modules, cls=Normalizing)
    # SAM leaves the upper batches alone.
    updates = 4 * (brain.lower_steps + (name != "SAM")) * EPOCHS
    assert hidden.num_batches_tracked == updates
    assert inputs.count == 8 * updates


def test_replays_are_not_counted():
    inputs = GlobalNorm()
    modules = {**network(), "normalize": inputs}
    fitted("ahead forward", small_batches(), modules=modules, cls=Normalizing)
    assert inputs.step_count == 4 * 2 * EPOCHS


@pytest.mark.parametrize(
    "normalize",
    [torch.nn.Identity, InputNormalization, GlobalNorm],
)
@pytest.mark.parametrize(
    "method, options", [("forward", {}), ("difference", {"radius": 1e-4})]
)
def test_replays_are_the_same_function(method, options, normalize):
    modules = {**network(dropout=0.5), "normalize": normalize()}
    brain = start(strategy_brain("SOBA reverse", modules, Normalizing))
    batch = small_batches()[0]
    step = brain.bilevel_step
    loss = BatchLoss(step, "lower", batch.lower)
    (vector,) = loss.gradients("lower", keep_graph=True)
    BatchLoss(step, "upper", batch.upper).gradients("upper")
    exact, found = (
        loss.products(vector, "lower", "upper", mode=method, **options)
        for method, options in (("reverse", {}), (method, options))
    )
    assert distance(found, exact) < 1e-6 * min(e.norm() for e in exact)


@pytest.mark.parametrize("name", ["at_step", "ahead", "SOBA", "MAML"])
def test_dropout_is_the_same_for_all_products(name, monkeypatch):
    found = []
    for hvp_mode in ("reverse", "forward", "difference"):
        monkeypatch.setenv("SB_GLOBAL_SEED", "5")
        modules = network(dropout=0.5)
        brain = fitted(f"{name} {hvp_mode}", small_batches(), modules=modules)
        found.append(weights(brain))
    assert distance(found[1], found[0]) < 1e-12
    assert distance(found[2], found[0]) < 1e-4
