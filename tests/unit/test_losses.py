"""Losses, scores and learning rates against their formulas."""

import math

import pytest
import torch

from speechbrain_bilevel.metrics.detection_score import detection_score
from speechbrain_bilevel.nnet.losses import SpoofLoss
from speechbrain_bilevel.nnet.schedulers import noam, warmup_cosine
from speechbrain_bilevel.utils.checkpoints import AtomicCheckpointer

LOGITS = [[2.0, -1.0], [0.3, 0.7], [-4.0, 5.0], [1.0, 1.0], [6.0, -3.0]]
LABELS = [0, 1, 0, 1, 1]


def softmax(pair):
    """The softmax of two numbers."""
    powers = [math.exp(value) for value in pair]
    return [power / sum(powers) for power in powers]


def loss_by_hand(logits, labels, alpha, gamma):
    """Mean of cross entropy and focal loss."""
    total = 0.0
    for pair, label in zip(logits, labels):
        p = softmax(pair)[label]
        total += -math.log(p) - alpha[label] * (1 - p) ** gamma * math.log(p)
    return total / len(labels)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [(0.25, 0.75), (0.9, 0.1), (0.0, 0.0)])
@pytest.mark.parametrize("loss_on", ["logits", "softmax"])
def test_loss_is_cross_entropy_plus_focal_loss(alpha, gamma, loss_on):
    loss = SpoofLoss(alpha, gamma, loss_on)
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    inner = LOGITS
    if loss_on == "softmax":
        inner = [softmax(pair) for pair in LOGITS]
    # alpha is kept in single precision.
    expected = loss_by_hand(inner, LABELS, alpha, gamma)
    found = loss(logits, torch.tensor(LABELS)).item()
    assert found == pytest.approx(expected, rel=1e-7)


def test_defaults_are_the_published_weights():
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    labels = torch.tensor(LABELS)
    expected = loss_by_hand(LOGITS, LABELS, (0.25, 0.75), 2)
    assert SpoofLoss()(logits, labels).item() == pytest.approx(expected, 1e-12)


def test_a_loss_on_the_softmax_is_a_softmax_twice():
    logits, labels = torch.tensor(LOGITS).double(), torch.tensor(LABELS)
    twice = SpoofLoss()(logits.softmax(dim=-1), labels)
    assert torch.equal(SpoofLoss(loss_on="softmax")(logits, labels), twice)


def test_a_loss_on_the_softmax_never_falls_below_its_floor():
    right = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    # Softmax outputs are 1 apart at most.
    floor = loss_by_hand([[1.0, 0.0], [0.0, 1.0]], labels, (0.25, 0.75), 2)
    published = SpoofLoss(loss_on="softmax")(right, labels).item()
    assert published == pytest.approx(floor, rel=1e-12)
    assert floor > 0.3
    assert SpoofLoss()(right, labels).item() < 1e-50


@pytest.mark.parametrize("loss_on", ["logits", "softmax"])
def test_gradients_of_extreme_logits_are_finite(loss_on):
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]] * 2)
    logits.requires_grad_()
    SpoofLoss(loss_on=loss_on)(logits, torch.tensor([0, 0, 1, 1])).backward()
    assert logits.grad.isfinite().all()


def test_the_loss_adds_nothing_to_checkpoints():
    assert SpoofLoss().state_dict() == {}


def spread(count, width=40.0):
    """Logits from ``-width`` to ``width`` apart."""
    apart = torch.linspace(-width, width, count, dtype=torch.float64)
    return torch.stack([-apart / 2, apart / 2], dim=1)


def test_scores_by_their_formulas():
    logits = torch.tensor(LOGITS)
    expected = [bonafide - spoof for spoof, bonafide in logits.tolist()]
    score = detection_score(logits)
    assert score.dtype == torch.float64
    assert score.tolist() == expected
    published = detection_score(logits, "softmax")
    assert published.dtype == torch.float64
    expected = [softmax(pair)[1] for pair in logits.tolist()]
    assert published.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_softmax_scores_tie(dtype):
    logits = spread(8001).to(dtype)
    score = detection_score(logits)
    assert (score.diff() > 0).all()
    published = detection_score(logits, "softmax")
    assert (published.diff() >= 0).all()
    # Beyond 37 apart, even double precision rounds to 1.
    assert (published[score > 37] == 1).all()
    assert len(published.unique()) < 8001 - 250


def rates(schedule, count, rate=1.0, **kwargs):
    """The learning rate at each of ``count`` steps."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=rate)
    scheduler = schedule(optimizer, **kwargs)
    result = []
    for _ in range(count):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def test_noam():
    found = rates(noam, 60, rate=0.5, model_size=16, warmup=20)
    expected = [
        0.5 * 16**-0.5 * min(step**-0.5, step * 20**-1.5)
        for step in [1, *range(1, 60)]
    ]
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[0] == found[1] < found[2]
    assert max(found) == found[20]
    assert found[20] == pytest.approx(0.5 * (16 * 20) ** -0.5)


def test_noam_has_the_published_peak():
    found = rates(noam, 10002, rate=1e-3, model_size=256, warmup=10000)
    assert max(found) == pytest.approx(6.25e-7)


def test_warmup_cosine():
    found = rates(warmup_cosine, 150, rate=0.5, steps=100, warmup=0.1)
    rise = [0.5 * step / 10 for step in range(10)]
    fall = [
        0.25 * (1 + math.cos(math.pi * (step - 10) / 90))
        for step in range(10, 101)
    ]
    assert found == pytest.approx(rise + fall + [0.0] * 49, abs=1e-15)


def test_a_cosine_that_runs_on_rises_again_after_its_steps():
    kwargs = {"steps": 100, "warmup": 0.1}
    found = rates(warmup_cosine, 200, **kwargs, stay_at_zero=False)
    assert found[:101] == rates(warmup_cosine, 101, **kwargs)
    assert found[101:191] == sorted(found[101:191])
    assert found[100] == pytest.approx(0, abs=1e-15)
    assert found[190] == pytest.approx(1)


def test_cosine_without_warmup_starts_at_the_full_rate():
    assert rates(warmup_cosine, 1, rate=0.5, steps=100, warmup=0.0) == [0.5]


@pytest.mark.parametrize(
    "schedule, kwargs",
    [(noam, {"model_size": 4, "warmup": 3}), (warmup_cosine, {"steps": 50})],
)
def test_schedules_go_on_after_recovery(tmp_path, schedule, kwargs):
    def start():
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        scheduler = schedule(optimizer, **kwargs)
        recoverables = {"optimizer": optimizer, "schedule": scheduler}
        return optimizer, scheduler, AtomicCheckpointer(tmp_path, recoverables)

    def run(optimizer, scheduler):
        for _ in range(7):
            optimizer.step()
            scheduler.step()
        return optimizer.param_groups[0]["lr"]

    optimizer, scheduler, checkpointer = start()
    run(optimizer, scheduler)
    checkpointer.save_checkpoint()
    expected = run(optimizer, scheduler)
    optimizer, scheduler, checkpointer = start()
    checkpointer.recover_if_possible()
    assert run(optimizer, scheduler) == expected
