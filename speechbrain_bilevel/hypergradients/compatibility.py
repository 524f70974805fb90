"""Finds, before training begins, what a strategy cannot do with a Brain."""

import functools

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm

from speechbrain_bilevel.hypergradients.hvp import PRODUCTS
from speechbrain_bilevel.hypergradients.partition import plain_name
from speechbrain_bilevel.utils.errors import InputError

logger = get_logger(__name__)


#: Losses that torch differentiates only once.
ONCE = (
    torch.nn.CTCLoss,
    torch.nn.functional.ctc_loss,
    sb.nnet.losses.ctc_loss,
    sb.nnet.losses.ctc_loss_kd,
    sb.nnet.losses.transducer_loss,
)


ATTENTION = (
    torch.nn.MultiheadAttention,
    torch.nn.TransformerEncoderLayer,
    torch.nn.TransformerDecoderLayer,
)


NO_SECOND = 'choose products: "difference", or F2SA, BOME, SAMA or Alternating'


def check(brain):
    """Refuses what the Brain's strategy cannot differentiate, all at once.

    Arguments
    ---------
    brain : BilevelMixin
        With its levels and optimizers.

    Raises
    ------
    InputError
        Names every module and option in the way, and what to choose instead.
    """
    strategy = brain.hypergradient
    found = list(strategy.problems(brain))
    if strategy.substitutes:
        found += _compiled(brain)
    products = strategy.products
    if products is not None and products not in PRODUCTS:
        found.append(
            f'products: "{products}"; expected one of {", ".join(PRODUCTS)}'
        )
    if products in ("reverse", "forward"):
        found += _differentiable_once(brain)
        _tell_of_slower_kernels(brain)
    if products == "difference" and brain.precision == "fp16":
        found.append(
            "--precision fp16: a difference's direction may overflow or vanish "
            "in half precision; choose bf16 or fp32"
        )
    if found:
        name = type(strategy).__name__
        raise InputError(
            f"hypergradient: {name} cannot train this way:\n- "
            + "\n- ".join(found)
        )


def _compiled(brain):
    names = [
        plain_name(name) or "modules"
        for name, module in brain.modules.named_modules()
        if isinstance(
            module, (torch._dynamo.OptimizedModule, torch.jit.ScriptModule)
        )
    ]
    options = [
        option
        for option in ("compile", "jit")
        if getattr(brain, option, False)
        or getattr(brain, f"{option}_module_keys", None)
    ]
    if not names and not options:
        return []
    what = ", ".join([f"--{option}" for option in options] + names)
    return [
        f"{what}: compiled modules cannot be differentiated twice, nor run "
        "with other parameters; leave them uncompiled, or choose Alternating"
    ]


def _differentiable_once(brain):
    found = []
    for name, module in brain.modules.named_modules():
        name = plain_name(name)
        if _is_weight_normed(module):
            found.append(
                f"{name} (weight_norm): its second derivatives are silently "
                f"wrong; remove it before training, or {NO_SECOND}"
            )
        elif isinstance(module, torch.nn.SyncBatchNorm):
            found.append(
                f"{name} (SyncBatchNorm): has no second derivative; train in "
                f"one process, use LayerNorm or GroupNorm, or {NO_SECOND}"
            )
        elif isinstance(module, ONCE[0]):
            found.append(f"{name} (CTC): has no second derivative; {NO_SECOND}")
    for name, value in vars(brain.hparams).items():
        while isinstance(value, functools.partial):
            value = value.func
        once = isinstance(value, ONCE[0])
        once = once or any(value is function for function in ONCE[1:])
        if once or type(value).__name__ == "TransducerLoss":
            found.append(
                f"{name} ({getattr(value, '__name__', type(value).__name__)}): "
                f"has no second derivative; {NO_SECOND}"
            )
    return found


def _is_weight_normed(module):
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, parametrizations._WeightNorm) or any(
        isinstance(hook, WeightNorm) for hook in hooks
    )


def _tell_of_slower_kernels(brain):
    name = type(brain.hypergradient).__name__
    for path, module in brain.modules.named_modules():
        kind = type(module).__name__
        if isinstance(module, ATTENTION):
            logger.info(
                f"{plain_name(path)} ({kind}): fused attention has no second "
                f"derivative; {name} runs it by plain matrix products"
            )
        elif isinstance(module, torch.nn.RNNBase) and brain.device != "cpu":
            logger.info(
                f"{plain_name(path)} ({kind}): cuDNN's has no second "
                f"derivative; {name} runs it without cuDNN"
            )
