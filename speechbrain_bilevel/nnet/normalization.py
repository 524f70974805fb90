"""Layer normalisation as the published V2 uses it."""

import torch

from speechbrain_bilevel.nnet.derivatives import again, has_tangent


class UnbiasedLayerNorm(torch.nn.Module):
    """Normalises the last axis by its unbiased standard deviation plus eps.

    Unlike ``torch.nn.LayerNorm`` the variance is divided by n - 1, eps is added
    outside the root, and the affine parameters may span more axes than the
    normalised one.

    Arguments
    ---------
    shape : int or list of int
        Shape of the affine parameters, e.g. ``[filters, frames]``.
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
        """Normalises ``x``.

        Arguments
        ---------
        x : torch.Tensor
            [..., *shape]

        Returns
        -------
        torch.Tensor
            Of the shape of ``x``.
        """
        arguments = x, self.gamma, self.beta
        if torch.compiler.is_compiling() or has_tangent(*arguments):
            return layer_norm(*arguments, self.eps)
        return _LayerNorm.apply(*arguments, self.eps)


def layer_norm(x, gamma, beta, eps):
    """``UnbiasedLayerNorm`` as a function, differentiable at will."""
    var, mean = torch.var_mean(x, dim=-1, keepdim=True)
    std = var.clamp_min(_smallest(x)).sqrt()
    # One number a row is divided, not the row: a product is cheaper to
    # differentiate, and twice so.
    normalized = (x - mean) * (std + eps).reciprocal()
    return torch.addcmul(beta, normalized, gamma)


def _smallest(x):
    # The root has an infinite slope at zero: a constant row (digital silence)
    # must give a zero gradient, not NaN.
    return torch.finfo(x.dtype).tiny


def normalize(x, eps):
    """What ``layer_norm`` scales and shifts, without a graph.

    Arguments
    ---------
    x : torch.Tensor
        [..., size]
    eps : float

    Returns
    -------
    normalized : torch.Tensor
        [..., size]
    std : torch.Tensor
        Unbiased standard deviation, [..., 1].

    Example
    -------
    >>> normalize(torch.tensor([0.0, 2.0, 4.0]), eps=0.0)
    (tensor([-1.,  0.,  1.]), tensor([2.]))
    """
    centred = x - x.mean(dim=-1, keepdim=True)
    std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    std = std.div_((x.shape[-1] - 1) ** 0.5).clamp_min_(_smallest(x) ** 0.5)
    return centred.mul_((std + eps).reciprocal()), std


def through_normalization(gradient, normalized, std, eps):
    """From the gradient by ``normalize``'s result to that by its argument.

    Arguments
    ---------
    gradient, normalized : torch.Tensor
        [..., size]
    std : torch.Tensor
        [..., 1]
    eps : float

    Returns
    -------
    torch.Tensor
        [..., size]

    Example
    -------
    >>> x = torch.tensor([0.0, 2.0, 4.0])
    >>> normalized, std = normalize(x, eps=0.0)
    >>> through_normalization(torch.ones(3), normalized, std, eps=0.0)
    tensor([0., 0., 0.])
    """
    size = normalized.shape[-1]
    along = (gradient * normalized).sum(-1, keepdim=True) / ((size - 1) * std)
    centred = gradient - gradient.mean(-1, keepdim=True)
    centred *= (std + eps).reciprocal()
    return centred.addcmul_(normalized, along, value=-1)


class _LayerNorm(torch.autograd.Function):
    """``layer_norm``, which keeps its arguments for the backward pass and
    nothing else."""

    @staticmethod
    def forward(x, gamma, beta, eps):
        return torch.addcmul(beta, normalize(x, eps)[0], gamma)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, gradient):
        x, gamma, beta = ctx.saved_tensors
        if torch.is_grad_enabled() or has_tangent(gradient):
            return *again(ctx, layer_norm, gradient, ctx.eps), None
        normalized, std = normalize(x, ctx.eps)
        d_x = d_gamma = d_beta = None
        if ctx.needs_input_grad[1]:
            d_gamma = (gradient * normalized).sum_to_size(gamma.shape)
        if ctx.needs_input_grad[2]:
            d_beta = gradient.sum_to_size(beta.shape)
        if ctx.needs_input_grad[0]:
            d_x = through_normalization(
                gradient * gamma, normalized, std, ctx.eps
            )
        return d_x, d_gamma, d_beta, None
