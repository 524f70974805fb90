"""Layer normalization as in the published V2, with its own backward pass.

It and its own gradient are written out, so that they save only what they are
called with. Forward mode (``has_tangent``) goes through a plain form.
"""

import torch
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable


class UnbiasedLayerNorm(torch.nn.Module):
    """Normalize the last axis by its unbiased standard deviation plus eps.

    Unlike in ``torch.nn.LayerNorm``, the variance is divided by n - 1, eps is
    added outside the root, and the affine parameters may span more axes than
    the normalized one.

    Arguments
    ---------
    shape : int or list of int
        Shape of the affine parameters, e.g. ``[channels, frames]``.
    eps : float
        Added to the standard deviation.

    Example
    -------
    >>> norm = UnbiasedLayerNorm([2, 50])
    >>> out = norm(torch.randn(3, 2, 50))
    >>> torch.allclose(out.std(-1), torch.ones(3, 2), atol=1e-4)
    True
    """

    def __init__(self, shape, eps=1e-6):
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.ones(shape))
        self.beta = torch.nn.Parameter(torch.zeros(shape))
        self.eps = eps

    def forward(self, x):
        """Normalize ``x``, [..., *shape]."""
        arguments = x, self.gamma, self.beta
        if torch.compiler.is_compiling() or has_tangent(*arguments):
            return layer_norm(*arguments, self.eps)
        return _LayerNorm.apply(*arguments, self.eps)


def layer_norm(x, gamma, beta, eps):
    """Compute ``UnbiasedLayerNorm`` by operations that torch differentiates."""
    if torch.compiler.is_exporting():
        return torch.addcmul(beta, normalize(x, eps)[0], gamma)
    var, mean = torch.var_mean(x, dim=-1, keepdim=True)
    std = var.clamp_min(_smallest(x)).sqrt()
    # Divide one number per row, not the row: a product is cheaper to
    # differentiate, above all twice.
    normalized = (x - mean) * (std + eps).reciprocal()
    return torch.addcmul(beta, normalized, gamma)


def _smallest(x):
    # The root has an infinite slope at zero: a constant row (digital silence)
    # must give a zero gradient, not NaN.
    return torch.finfo(x.dtype).tiny


def normalize(x, eps):
    """Return the normalized ``x`` and its unbiased deviation, [..., 1].

    ``layer_norm`` scales and shifts the former. There is no graph.
    """
    centered = x - x.mean(dim=-1, keepdim=True)
    std = torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
    std = std.div_((x.shape[-1] - 1) ** 0.5).clamp_min_(_smallest(x) ** 0.5)
    return centered.mul_((std + eps).reciprocal()), std


def normalize_backward(gradient, normalized, std, eps):
    """Return the gradient by ``normalize``'s ``x``, from that by its result."""
    size = normalized.shape[-1]
    along = (gradient * normalized).sum(-1, keepdim=True) / ((size - 1) * std)
    centered = gradient - gradient.mean(-1, keepdim=True)
    centered *= (std + eps).reciprocal()
    return centered.addcmul_(normalized, along, value=-1)


def normalize_twice(gradient, other, normalized, std, eps):
    """Return the gradient, by ``normalize``'s ``x``, of the product of
    ``other`` and ``normalize_backward(gradient, ...)``.
    """
    count = normalized.shape[-1] - 1
    scale = (std + eps).reciprocal()

    def product(a, b):
        return (a * b).sum(-1, keepdim=True)

    first, second = product(gradient, normalized), product(other, normalized)
    inner = product(gradient, other)
    inner -= gradient.sum(-1, keepdim=True) * other.mean(-1, keepdim=True)
    by_std = first * second / (count * std.square()) - scale.square() * inner
    mixed = (gradient * second).addcmul_(other, first).div_(-count * std)
    mixed = normalize_backward(mixed, normalized, std, eps)
    return mixed.addcmul_(normalized, by_std / (scale * count * std))


class _LayerNorm(torch.autograd.Function):
    """``layer_norm`` that saves only its arguments for the backward pass."""

    @staticmethod
    def forward(x, gamma, beta, eps):
        return torch.addcmul(beta, normalize(x, eps)[0], gamma)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, gradient):
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if has_tangent(gradient):
            found = gradients(layer_norm, gradient, tensors, needed, ctx.eps)
        else:
            found = _LayerNormGradients.apply(
                gradient, *tensors, needed, ctx.eps
            )
        return *found, None


class _LayerNormGradients(torch.autograd.Function):
    """The gradients of ``layer_norm``; saves only its arguments, too."""

    @staticmethod
    def forward(gradient, x, gamma, beta, needed, eps):
        normalized, std = normalize(x, eps)
        d_x = d_gamma = d_beta = None
        if needed[0]:
            d_x = normalize_backward(gradient * gamma, normalized, std, eps)
        if needed[1]:
            d_gamma = (gradient * normalized).sum_to_size(gamma.shape)
        if needed[2]:
            d_beta = gradient.sum_to_size(beta.shape)
        return d_x, d_gamma, d_beta

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.needed, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_x, of_gamma, of_beta):
        gradient, x, gamma, _ = ctx.saved_tensors
        normalized, std = normalize(x, ctx.eps)
        # The derivative by ``gradient`` is that of the output along vectors.
        change = torch.zeros_like(x)
        d_x = d_gamma = None
        if of_beta is not None:
            change += of_beta
        if of_gamma is not None:
            change += of_gamma * normalized
            d_x = normalize_backward(
                gradient * of_gamma, normalized, std, ctx.eps
            )
        if of_x is not None:
            along = normalize_backward(of_x, normalized, std, ctx.eps)
            change += gamma * along
            d_gamma = (gradient * along).sum_to_size(gamma.shape)
            twice = normalize_twice(
                gradient * gamma, of_x, normalized, std, ctx.eps
            )
            d_x = twice if d_x is None else d_x + twice
        return change, d_x, d_gamma, None, None, None


def has_tangent(*tensors):
    """Whether forward-mode differentiation may go through one of the tensors.

    Inside a transform of ``torch.func``, that is not visible.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return any(
        forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def gradients(function, gradient, tensors, needed, *constants):
    """Return gradients that can be differentiated as often as ``function``.

    It takes ``tensors`` and ``constants``; ``gradient`` is the one by its
    output. A gradient that is not ``needed`` is None.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        output = function(*tensors, *constants)
    inputs = [tensor for tensor, needs in zip(tensors, needed) if needs]
    found = iter(
        torch.autograd.grad(output, inputs, gradient, create_graph=create_graph)
    )
    return [next(found) if needs else None for needs in needed]
