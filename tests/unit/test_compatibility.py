"""What a strategy cannot do is named before training begins; what it needs
other kernels for is right."""

import logging

import pytest
import speechbrain as sb
import torch
from closed_forms import relative_error, start

from speechbrain_bilevel.core import BilevelMixin
from speechbrain_bilevel.hypergradients import (
    CGAID,
    F2SA,
    SAMA,
    SOBA,
    Alternating,
    TruncatedUnrolled,
)
from speechbrain_bilevel.hypergradients.batch_loss import BatchLoss
from speechbrain_bilevel.hypergradients.implicit import zeros
from speechbrain_bilevel.utils.errors import InputError


class TokenBrain(BilevelMixin, sb.Brain):
    """Trains [trials, tokens, 4] -> 1; the target is the mean."""

    def compute_forward(self, batch, stage):
        hidden = self.modules.encoder(batch)
        return self.modules.head(hidden)

    def compute_objectives(self, predictions, batch, stage):
        target = batch.mean(dim=(1, 2))
        return ((predictions.mean(dim=(1, 2)) - target) ** 2).mean()


def brain_with(head, strategy, hparams=(), **run_opts):
    torch.manual_seed(0)
    plain = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    return TokenBrain(
        modules={"encoder": torch.nn.Linear(4, 4).double(), "head": head},
        opt_class=plain,
        hparams={
            "hypergradient": strategy,
            "upper": ["encoder"],
            "upper_opt_class": plain,
            **dict(hparams),
        },
        run_opts={"device": "cpu", "max_grad_norm": 1e9, **run_opts},
    )


def linear():
    return torch.nn.Linear(4, 2).double()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "normalize",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.parametrizations.weight_norm,
    ],
)
def test_weight_norm_is_refused_by_name(normalize):
    head = torch.nn.Sequential(torch.nn.ReLU(), normalize(linear()))
    with pytest.raises(InputError, match=r"head\.1.*weight_norm.*choose"):
        start(brain_with(head, SOBA(0.1)))
    for strategy in (Alternating(), F2SA(10.0), SAMA()):
        start(brain_with(head, strategy))


def test_synchronized_batchnorm_is_refused_by_name():
    head = torch.nn.Sequential(torch.nn.SyncBatchNorm(4), linear())
    with pytest.raises(InputError, match=r"head\.0 \(SyncBatchNorm\)"):
        start(brain_with(head, CGAID(3)))


def test_compiled_modules_are_refused():
    head = torch.compile(linear())
    with pytest.raises(InputError, match="head: compiled"):
        start(brain_with(head, F2SA(10.0)))
    with pytest.raises(InputError, match="--compile.*choose Alternating"):
        start(brain_with(linear(), SOBA(0.1), compile=True))
    start(brain_with(head, Alternating()))


def test_differences_in_half_precision_are_refused():
    brain = brain_with(linear(), SAMA())
    brain.precision = "fp16"  # which SpeechBrain has on GPUs only
    with pytest.raises(InputError, match="--precision fp16.*choose bf16"):
        start(brain)
    start(brain_with(linear(), SAMA(), precision="bf16"))


@pytest.mark.parametrize("layer", [torch.nn.GRU, torch.nn.LSTM])
def test_recurrent_layers_on_a_gpu_need_reverse_mode(layer):
    """Where they have a kernel of their own; torch knows no forward derivative
    of it."""
    for mode in ("forward", "reverse"):
        head = torch.nn.ModuleDict({"memory": layer(4, 2).double()})
        brain = brain_with(head, SOBA(0.1, hvp_mode=mode))
        brain.device_type = "cuda"
        if mode == "reverse":
            start(brain)
            continue
        with pytest.raises(InputError, match=r"head\.memory \(.*reverse"):
            start(brain)


def test_everything_is_named_at_once():
    head = torch.nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(linear()),
        torch.nn.SyncBatchNorm(2),
    )
    strategy = TruncatedUnrolled(2)
    with pytest.raises(InputError) as error:
        start(brain_with(head, strategy))
    for word in ("TruncatedUnrolled", "head.0", "head.1", "steps: 2"):
        assert word in str(error.value)


def test_unknown_modes_are_refused():
    with pytest.raises(InputError, match='"exact"; expected one of reverse'):
        start(brain_with(linear(), SOBA(0.1, hvp_mode="exact")))


class Attention(torch.nn.Module):
    """Attention whose weights nobody asks for: the fused kernel's case."""

    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(4, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


HEADS = {
    "attention": Attention,
    "encoder layer": lambda: torch.nn.TransformerEncoderLayer(
        4, 2, 8, dropout=0.0, activation="gelu", batch_first=True
    ),
    "gru": lambda: Recurrent(torch.nn.GRU),
    "lstm": lambda: Recurrent(torch.nn.LSTM),
}


@pytest.mark.parametrize("method", ["reverse", "forward"])
@pytest.mark.parametrize("kind", HEADS)
def test_exact_products_equal_differences(kind, method):
    brain = start(brain_with(HEADS[kind]().double(), SOBA(0.1)))
    torch.manual_seed(1)
    loss = BatchLoss(brain.bilevel_step, "lower", torch.randn(6, 5, 4).double())
    vector = torch.randn_like(zeros(brain.bilevel_step))
    levels = "lower", "upper"
    exact = loss.products(vector, *levels, mode=method)
    close = loss.products(vector, *levels, mode="difference", radius=1e-4)
    for mine, other in zip(exact, close):
        assert mine.norm() > 0
        assert relative_error(mine, other) < 1e-6


def test_an_lstm_in_single_precision_has_forward_derivatives():
    """Its kernel on a CPU, oneDNN's, has none."""
    brain = start(brain_with(Recurrent(torch.nn.LSTM), SOBA(0.1)))
    brain.modules.float()
    torch.manual_seed(1)
    loss = BatchLoss(brain.bilevel_step, "lower", torch.randn(6, 5, 4))
    vector = torch.randn_like(zeros(brain.bilevel_step))
    forward, reverse = (
        loss.products(vector, "lower", "upper", mode=mode)
        for mode in ("forward", "reverse")
    )
    for mine, other in zip(forward, reverse):
        assert relative_error(mine, other) < 1e-4


def test_attention_is_said_to_run_otherwise(caplog):
    with caplog.at_level(
        logging.INFO, "speechbrain_bilevel.hypergradients.compatibility"
    ):
        start(brain_with(Attention().double(), SOBA(0.1)))
    assert "head.attention (MultiheadAttention): fused" in caplog.text
