"""A step asks a GPU for nothing: on the meta device, each look at a number, be
it ``.item()``, ``.cpu()`` or an ``if``, is an error."""

import functools

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

from speechbrain_bilevel import late
from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import Alternating, LaggedAlternating
from speechbrain_bilevel.late import LateValues


class OnDevice(torch.optim.SGD):
    """Stands for fused optimizers, of which there are none on meta."""

    _step_supports_amp_scaling = True

    def step(self, closure=None):
        assert self.found_inf.is_meta
        self.found_inf = None
        super().step(closure)


class Arrived:
    """A number that a GPU would have sent."""

    def __init__(self, value):
        assert value.is_meta

    def wait(self):
        return torch.tensor(1.0)


@pytest.mark.parametrize(
    "strategy", [Alternating(), LaggedAlternating(number_of_epochs=2)]
)
def test_a_step_does_not_wait(strategy, monkeypatch):
    monkeypatch.setattr(late, "Arriving", Arrived)
    brain = small_brain(
        hparams={
            "hypergradient": strategy,
            "upper_opt_class": lambda p: OnDevice(p, lr=0.2),
        }
    )
    brain.opt_class = lambda p: OnDevice(p, lr=0.1)
    brain.modules.to("meta")
    brain.device = "meta"
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.nonfinite_count = 0
    for batch in small_batches(steps=2):
        brain.step += 1
        on_meta = LevelBatch(*(level.to("meta") for level in batch))
        loss = brain.fit_batch(on_meta)
        assert loss.is_meta
        brain.avg_train_loss = brain.update_average(loss, brain.avg_train_loss)
    # Of the first step; SpeechBrain's last word before it reports.
    assert brain.avg_train_loss == 1.0 and len(brain.late.waiting) > 0
    brain.zero_grad(set_to_none=True)
    assert brain.avg_train_loss == 1.0 and len(brain.late.waiting) == 0


def test_meta_would_have_told():
    with pytest.raises(RuntimeError):
        bool(torch.zeros((), device="meta").isfinite())
    with pytest.raises(NotImplementedError):
        torch.zeros((), device="meta").cpu()


def test_values_come_in_order_and_a_step_later(monkeypatch):
    monkeypatch.setattr(late, "Arriving", lambda value: Arrived(value))
    values, found = LateValues(), []
    on_meta = torch.zeros((), device="meta")
    values.read(on_meta, 1, lambda v: found.append("lower of 1"))
    values.read(on_meta, 1, lambda v: found.append("upper of 1"))
    assert found == []
    values.read(torch.zeros(()), 2, lambda v: found.append("on the host"))
    values.read(on_meta, 2, lambda v: found.append("of 2"))
    assert found == ["on the host", "lower of 1", "upper of 1"]
    values.finish()
    assert found[3:] == ["of 2"] and not values.waiting


class Reporting(SmallBrain):
    """Keeps what an epoch's loss is said to be."""

    def on_stage_end(self, stage, stage_loss, epoch=None):
        super().on_stage_end(stage, stage_loss, epoch)
        self.reported = stage_loss


class Sending(Reporting):
    """All its losses arrive late, as from a GPU."""

    def update_average(self, loss, avg_loss):
        add = functools.partial(self._add_to_average, step=self.step)
        self.late.read(loss, self.step, add)
        return self.avg_train_loss


def test_the_epochs_loss_and_patience_are_those_of_the_host(monkeypatch):
    class Sent:
        def __init__(self, value):
            self.value = value

        def wait(self):
            return self.value

    def read(self, value, step, function):
        self.finish(before=step)
        self.waiting.append((step, Sent(value.detach()), function))

    batches = small_batches(steps=5)
    expected = small_brain(Reporting)
    expected.fit([1], loader(batches))
    monkeypatch.setattr(LateValues, "read", read)
    found = small_brain(Sending)
    found.fit([1], loader(batches))
    assert found.reported == expected.reported
    broken = LevelBatch(batches[0].lower * float("nan"), batches[0].upper)
    with pytest.raises(ValueError, match="patience is exhausted"):
        small_brain(Sending, nonfinite_patience=1).fit(
            [1], loader([broken, broken, batches[0]])
        )


def test_a_fused_optimizer_leaves_out_what_is_not_finite(caplog):
    batches = small_batches(steps=2)
    broken = LevelBatch(batches[0].lower * float("nan"), batches[0].upper)

    def trained(batches):
        brain = small_brain(
            hparams={
                "upper_opt_class": lambda p: torch.optim.Adam(p, fused=True)
            }
        )
        brain.opt_class = lambda p: torch.optim.Adam(p, fused=True)
        brain.fit([1], loader(batches))
        return {k: v for k, v in weights(brain).items() if "head" in k}

    left_out = trained([broken])
    assert all(map(torch.equal, left_out.values(), trained([]).values()))
    # Nor does it count as a step of Adam's.
    brain = small_brain()
    brain.opt_class = lambda p: torch.optim.Adam(p, fused=True)
    brain.fit([1], loader([broken, batches[1]]))
    (step,) = {
        state["step"].item()
        for state in brain.optimizers_dict["lower"].state.values()
    }
    assert step == 1
