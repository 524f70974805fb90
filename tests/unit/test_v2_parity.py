"""V2 and its published training, number by number, in double precision."""

from pathlib import Path

import numpy as np
import published_v2
import pytest
import speechbrain as sb
import tiny_detector
import torch
from speechbrain.dataio.dataloader import SaveableDataLoader

from speechbrain_bilevel.core import BilevelMixin
from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import LaggedAlternating
from speechbrain_bilevel.inference.importers import v2_state_dict
from speechbrain_bilevel.lobes.v2 import V2
from speechbrain_bilevel.nnet.losses import SpoofLoss
from speechbrain_bilevel.nnet.schedulers import noam, warmup_cosine

EPOCHS, STEPS = 3, 4
DATA = Path(__file__).parents[1] / "data" / "v2_parity.npz"


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def network():
    """The published network where its training starts."""
    network = V2(**published_v2.SIZES)
    network.load_state_dict(published_v2.initial_state(network))
    return network


def batches_of(reference):
    """The reference's training batches, of the lower and the upper level."""
    wavs = [reference[f"train/{level}_input"] for level in ("lower", "upper")]
    labels = [reference[f"train/{level}_label"] for level in ("lower", "upper")]
    return [
        [
            (torch.from_numpy(x[step]).double(), torch.from_numpy(y[step]))
            for x, y in zip(wavs, labels)
        ]
        for step in range(len(wavs[0]))
    ]


class TraceBrain(BilevelMixin, sb.Brain):
    """Trains on fixed batches and keeps what the reference has."""

    def compute_forward(self, batch, stage):
        return self.modules.network(batch[0])

    def compute_objectives(self, predictions, batch, stage):
        return self.hparams.loss(predictions, batch[1])

    def on_fit_batch_start(self, batch, should_step):
        for level, optimizer in self.optimizers_dict.items():
            self.trace[f"{level}_lr"].append(optimizer.param_groups[0]["lr"])

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        self.trace["lower_loss"].append(loss.item())
        self.trace["upper_loss"].append(
            self.records.values["upper/loss"][-1].item()
        )


class Batches(torch.utils.data.IterableDataset):
    """Each epoch the next ``STEPS`` of some batches."""

    def __init__(self, batches):
        self.batches, self.start = batches, 0

    def __iter__(self):
        for pair in self.batches[self.start : self.start + STEPS]:
            yield LevelBatch(*pair)
        self.start += STEPS


def train(network, batches):
    """Train by the package's engine; returns the trace, and the weights of the
    lower and of the upper level's network."""

    def adam(parameters):
        return torch.optim.Adam(parameters, **published_v2.ADAM)

    brain = TraceBrain(
        modules={"network": network},
        opt_class=adam,
        hparams={
            "hypergradient": LaggedAlternating(number_of_epochs=EPOCHS),
            "upper": ["network.mel_encoder"],
            "upper_opt_class": adam,
            "lr_schedule": lambda optimizer: noam(
                optimizer, published_v2.MODEL_SIZE, published_v2.WARMUP
            ),
            "upper_lr_schedule": lambda optimizer: warmup_cosine(
                optimizer, steps=published_v2.UPPER_STEPS
            ),
            "loss": SpoofLoss(loss_on="softmax"),
        },
        run_opts={
            "device": "cpu",
            "max_grad_norm": 1e9,
            "noprogressbar": True,
        },
    )
    names = ("lower_loss", "upper_loss", "lower_lr", "upper_lr")
    brain.trace = {name: [] for name in names}
    loader = SaveableDataLoader(Batches(batches), batch_size=None)
    brain.fit(range(1, -(-len(batches) // STEPS) + 1), loader)
    upper = {
        name.removeprefix("network."): tensor
        for name, tensor in brain.hypergradient.state.items()
    }
    return brain.trace, network.state_dict(), upper


def check_trace(trace, expected):
    for name, values in trace.items():
        difference = np.array(values) - expected[name]
        assert abs(difference).max() < 1e-9, name


def check_weights(ours, expected):
    assert len(expected) > 20
    for name, tensor in expected.items():
        assert (ours[name] - tensor).abs().max() < 1e-9, name


def test_eval_output_equals_the_published_network(network):
    reference = np.load(DATA)
    wavs = torch.from_numpy(reference["eval/input"]).double()
    with torch.no_grad():
        output = network.eval()(wavs).softmax(dim=-1)
    expected = torch.from_numpy(reference["eval/output"])
    assert (output - expected).abs().max() < 1e-9


def test_the_first_published_steps(network):
    reference = np.load(DATA)
    trace, _, _ = train(network, batches_of(reference))
    names = {name: reference[f"train/{name}"] for name in trace}
    assert len(trace["upper_loss"]) == 2
    check_trace(trace, names)


def test_twelve_steps_of_the_published_loop():
    """Beside a transcription of the published script, on made-up batches; the
    transcription itself gives the published trace, see the next test."""
    generator = torch.Generator().manual_seed(0)

    def batch():
        wavs = torch.randn(3, tiny_detector.SAMPLES, generator=generator)
        return wavs, torch.tensor([1, 0, 1])

    batches = [(batch(), batch()) for _ in range(EPOCHS * STEPS)]
    torch.manual_seed(0)
    network = V2(**tiny_detector.SIZES, dropout=0.0)
    expected, lower, upper = published_v2.published_training(
        network, batches, STEPS
    )
    trace, ours, ours_upper = train(network, batches)
    check_trace(trace, expected)
    check_weights(ours, lower.state_dict())
    for name, tensor in upper.mel_encoder.state_dict().items():
        if name.startswith("convs."):
            difference = ours_upper[f"mel_encoder.{name}"] - tensor
            assert difference.abs().max() < 1e-9, name


@pytest.mark.parametrize("by", ["engine", "transcription"])
def test_twelve_published_steps(shared, network, by):
    reference = np.load(shared / "reference" / "v2_parity.npz")
    batches = batches_of(reference)
    if by == "engine":
        trace, lower, upper = train(network, batches)
    else:
        trace, *copies = published_v2.published_training(
            network, batches, STEPS
        )
        lower, upper = (copy.state_dict() for copy in copies)
    check_trace(trace, {name: reference[f"train/{name}"] for name in trace})
    check_weights(lower, published_state(reference, "final_lower/"))
    check_weights(upper, published_state(reference, "final_upper/"))


def published_state(reference, group):
    """A state dict of the reference, renamed to ours."""
    return v2_state_dict(
        {
            name.removeprefix(group): torch.from_numpy(reference[name])
            for name in reference.files
            if name.startswith(group)
        }
    )


@pytest.mark.parametrize("group", ["init/", "final_lower/"])
def test_published_state_dict_loads_whole(shared, network, group):
    reference = np.load(shared / "reference" / "v2_parity.npz")
    started = network.state_dict()
    state = published_state(reference, group)
    if group == "init/":
        check_weights(started, state)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not missing and not unexpected


def test_full_size_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in V2().parameters()) == 17_499_730
