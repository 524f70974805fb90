"""Find, before training begins, what a strategy cannot do with a Brain."""

import functools

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm

from speechbrain_bilevel.hypergradients import hvp
from speechbrain_bilevel.hypergradients.partition import plain_name
from speechbrain_bilevel.utils.errors import InputError

logger = get_logger(__name__)

#: Losses that torch differentiates only once.
ONCE_DIFFERENTIABLE = (
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
INSTEAD = 'choose hvp_mode: "difference", or F2SA, BOME, SAMA or Alternating'


def check(brain, step):
    """Refuse what the Brain's strategy cannot differentiate.

    The ``InputError`` names all modules and options in question, and what to
    choose instead.
    """
    strategy = brain.hypergradient
    found = list(strategy.unsupported(step))
    if strategy.needs_functional_call:
        found += _compiled(brain)
    mode = strategy.hvp_mode
    if mode is not None and mode not in hvp.MODES:
        modes = ", ".join(hvp.MODES)
        found.append(f'hvp_mode: "{mode}"; expected one of {modes}')
    if mode in ("reverse", "forward"):
        found += _differentiable_once(brain)
        _log_slower_kernels(brain)
    if mode == "difference" and brain.precision == "fp16":
        found.append(
            "--precision fp16: a difference's direction may overflow or vanish "
            "in half precision; choose bf16 or fp32"
        )
    if found:
        raise InputError(
            f"hypergradient: {type(strategy).__name__} cannot train this "
            "way:\n- " + "\n- ".join(found)
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
        f"--{option}"
        for option in ("compile", "jit")
        if getattr(brain, option, False)
        or getattr(brain, f"{option}_module_keys", None)
    ]
    if not names and not options:
        return []
    return [
        f"{', '.join(options + names)}: compiled modules cannot be "
        "differentiated twice, nor run with other parameters; leave them "
        "uncompiled, or choose Alternating"
    ]


def _differentiable_once(brain):
    found = []
    for name, module in brain.modules.named_modules():
        name = plain_name(name)
        if _is_weight_normed(module):
            found.append(
                f"{name} (weight_norm): its second derivatives are silently "
                f"wrong; remove it before training, or {INSTEAD}"
            )
        elif isinstance(module, torch.nn.SyncBatchNorm):
            found.append(
                f"{name} (SyncBatchNorm): has no second derivative; train in "
                f"one process, use LayerNorm or GroupNorm, or {INSTEAD}"
            )
        elif isinstance(module, torch.nn.CTCLoss):
            found.append(f"{name} (CTC): has no second derivative; {INSTEAD}")
    for name, value in vars(brain.hparams).items():
        while isinstance(value, functools.partial):
            value = value.func
        if (
            isinstance(value, torch.nn.CTCLoss)
            or any(value is function for function in ONCE_DIFFERENTIABLE)
            or type(value).__name__ == "TransducerLoss"
        ):
            kind = getattr(value, "__name__", type(value).__name__)
            found.append(
                f"{name} ({kind}): has no second derivative; {INSTEAD}"
            )
    return found


def _is_weight_normed(module):
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, parametrizations._WeightNorm) or any(
        isinstance(hook, WeightNorm) for hook in hooks
    )


def _log_slower_kernels(brain):
    strategy = type(brain.hypergradient).__name__
    for path, module in brain.modules.named_modules():
        kind = type(module).__name__
        if isinstance(module, ATTENTION):
            logger.info(
                f"{plain_name(path)} ({kind}): fused attention has no second "
                f"derivative; {strategy} runs it by plain matrix products"
            )
        elif isinstance(module, torch.nn.RNNBase) and brain.device != "cpu":
            logger.info(
                f"{plain_name(path)} ({kind}): cuDNN's has no second "
                f"derivative; {strategy} runs it without cuDNN"
            )
