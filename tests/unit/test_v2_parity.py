"""V2 and its published training, number by number, in double precision."""

import numpy as np
import published_v2
import pytest
import speechbrain as sb
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


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def reference(shared, double):
    return np.load(shared / "reference" / "v2_parity.npz")


@pytest.fixture
def network(double):
    network = V2(**published_v2.SIZES)
    network.load_state_dict(published_v2.initial_state(network))
    return network


def published_state(reference, group):
    """A state dict of the reference, renamed to ours."""
    return v2_state_dict(
        {
            name.removeprefix(group): torch.from_numpy(reference[name])
            for name in reference.files
            if name.startswith(group)
        }
    )


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
        self.trace["upper_loss"].append(self.records["upper/loss"][-1].item())


def trace_loader(reference):
    """The reference's batches, each epoch the next ``STEPS`` of them."""

    class Batches(torch.utils.data.IterableDataset):
        epoch = 0

        def __iter__(self):
            for i in range(self.epoch * STEPS, (self.epoch + 1) * STEPS):
                yield LevelBatch(
                    *(
                        [
                            torch.from_numpy(
                                reference[f"train/{level}_input"][i]
                            ).double(),
                            torch.from_numpy(
                                reference[f"train/{level}_label"][i]
                            ),
                        ]
                        for level in ("lower", "upper")
                    )
                )
            self.epoch += 1

    return SaveableDataLoader(Batches(), batch_size=None)


def test_eval_output_equals_the_published_network(reference, network):
    wavs = torch.from_numpy(reference["eval/input"]).double()
    with torch.no_grad():
        output = network.eval()(wavs).softmax(dim=-1)
    expected = torch.from_numpy(reference["eval/output"])
    assert (output - expected).abs().max() < 1e-9


def test_twelve_published_steps(reference, network):
    adam = dict(lr=0.1, betas=(0.9, 0.98), eps=1e-9)
    brain = TraceBrain(
        modules={"network": network},
        opt_class=lambda p: torch.optim.Adam(p, **adam),
        hparams=dict(
            hypergradient=LaggedAlternating(number_of_epochs=EPOCHS),
            upper=["network.mel_encoder"],
            upper_opt_class=lambda p: torch.optim.Adam(p, **adam),
            lr_schedule=lambda o: noam(o, model_size=32, warmup=10),
            upper_lr_schedule=lambda o: warmup_cosine(o, steps=55000),
            loss=SpoofLoss(as_published=True),
        ),
        run_opts=dict(device="cpu", max_grad_norm=1e9, noprogressbar=True),
    )
    names = ("lower_loss", "upper_loss", "lower_lr", "upper_lr")
    brain.trace = {name: [] for name in names}
    brain.fit(range(1, EPOCHS + 1), trace_loader(reference))
    for name in names:
        difference = brain.trace[name] - reference[f"train/{name}"]
        assert abs(difference).max() < 1e-9, name

    lower = network.state_dict()
    upper = {
        name.removeprefix("network."): tensor
        for name, tensor in brain.hypergradient.state.items()
    }
    for ours, group in ((lower, "final_lower/"), (upper, "final_upper/")):
        expected = published_state(reference, group)
        assert len(expected) > 20
        for name, tensor in expected.items():
            assert (ours[name] - tensor).abs().max() < 1e-9, group + name


def test_published_state_dict_loads_whole(reference, network):
    missing, unexpected = network.load_state_dict(
        published_state(reference, "final_lower/"), strict=False
    )
    assert not missing and not unexpected


def test_full_size_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in V2().parameters()) == 17_499_730
