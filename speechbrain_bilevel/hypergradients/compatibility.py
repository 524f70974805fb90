"""Find, before training begins, what a strategy cannot do with a Brain."""

import torch
from speechbrain.utils.logger import get_logger
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm

from speechbrain_bilevel.hypergradients import hvp
from speechbrain_bilevel.hypergradients.partition import plain_name
from speechbrain_bilevel.utils.errors import InputError

logger = get_logger(__name__)

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
    if mode == "forward":
        found += _without_forward_derivative(brain)
    if strategy.differentiates_step:
        _warn_small_eps(step)
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


def check_loss(strategy, level, loss, again, tolerance):
    """Refuse a loss that is not what the strategy takes it for.

    Its second derivatives, where needed, must exist, and evaluating it once
    more, by ``again()``, must give it again, to a relative ``tolerance``;
    ``again`` is None if it is evaluated once.
    """
    name = type(strategy).__name__
    if level == "lower" and strategy.hvp_mode in ("reverse", "forward"):
        kinds = sorted(_once_differentiable(loss.grad_fn))
        if kinds:
            raise InputError(
                f"hypergradient: {name} needs second derivatives of the lower "
                f"loss; {', '.join(kinds)} has none, or a gradient without a "
                f"graph, whose derivative would be taken for zero; {INSTEAD}"
            )
    if again is None or not loss.isfinite():
        return
    with torch.no_grad():
        first, second = loss.item(), again().item()
    if abs(first - second) > tolerance * max(abs(first), abs(second)) + 1e-7:
        raise InputError(
            f"hypergradient: {name} evaluates a batch more than once, and the "
            f"{level} loss of the first is {first:.6g}, then {second:.6g}: "
            "something keeps a state that cannot be rewound (a generator of "
            "random numbers or an iterator in a closure or a global variable); "
            "make it an attribute of the Brain, of a module or of an object in "
            "hparams, or choose Alternating"
        )


def _once_differentiable(node):
    """Return the kinds of operations before ``node`` that have no second
    derivative, or one that would silently be zero."""
    return {
        node.name()
        for node in _graph([node])
        if "CtcLoss" in node.name()
        or (_is_custom(node) and not _gradient_has_graph(node))
    }


def _graph(nodes):
    """Yield nodes of autograd's graph and all before them, each once."""
    seen, waiting = {None}, list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting.extend(earlier for earlier, _ in node.next_functions)


def _is_custom(node):
    """Whether a node is no operation of torch's, nor of this package."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        package = node._forward_cls.__module__.partition(".")[0]
        return package != __package__.partition(".")[0]
    return "CppNode" in node.name()


def _gradient_has_graph(node):
    """Whether the gradients that a node computes depend on its inputs."""
    gradients = [
        torch.zeros(of.shape, dtype=of.dtype, device=of.device)
        for of in node._input_metadata
    ]
    custom = isinstance(node, torch.autograd.function.BackwardCFunction)
    with torch.enable_grad():
        found = node.apply(*gradients) if custom else node(*gradients)
    found = found if isinstance(found, tuple) else (found,)
    inputs = {earlier for earlier, _ in node.next_functions}
    outputs = [g.grad_fn for g in found if g is not None]
    return any(node in inputs for node in _graph(outputs))


def _warn_small_eps(step):
    for optimizer in step.lower_optimizers:
        for group in optimizer.param_groups:
            eps = group.get("eps", 1.0)
            single = any(p.dtype == torch.float32 for p in group["params"])
            if eps < 1e-6 and single:
                logger.warning(
                    f"{type(optimizer).__name__} with eps {eps:g}: the "
                    "derivative of its step, up to lr / eps, is mostly "
                    "rounding error where gradients are near zero, above all "
                    "in the first steps; an eps of 1.0e-6 or more makes the "
                    "hypergradient reliable in float32"
                )
                return


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
    return found


def _without_forward_derivative(brain):
    # A CPU's are made of operations that have one.
    recurrent = torch.nn.GRU, torch.nn.LSTM
    return [
        f"{plain_name(name)} ({type(module).__name__}): has no forward "
        'derivative on a GPU; choose hvp_mode: "reverse"'
        for name, module in brain.modules.named_modules()
        if isinstance(module, recurrent) and brain.device_type == "cuda"
    ]


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
