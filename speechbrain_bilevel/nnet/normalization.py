"""Layer normalisation as the published V2 uses it."""

import torch


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
        var, mean = torch.var_mean(x, dim=-1, keepdim=True)
        # The root has an infinite slope at zero: a constant row (digital
        # silence) must give a zero gradient, not NaN.
        std = var.clamp_min(torch.finfo(var.dtype).tiny).sqrt()
        # One number a row is divided, not the row: a product is cheaper to
        # differentiate, and twice so.
        normalized = (x - mean) * (std + self.eps).reciprocal()
        return torch.addcmul(self.beta, normalized, self.gamma)
