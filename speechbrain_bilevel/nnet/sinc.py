"""Sinc filters: the front ends of the published AASIST and V2.

Sources of the designs: https://arxiv.org/abs/2110.01200 and
https://github.com/menglu-lml/ASV_Deepfake_with_bilevel
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import (
    conv1d,
    leaky_relu,
    linear,
    max_pool1d,
    pad,
    selu,
)

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.nnet.normalization import (
    gradients,
    has_tangent,
    layer_norm,
    normalize,
    normalize_backward,
    normalize_twice,
)
from speechbrain_bilevel.utils.precision import full_precision

#: Slope of V2's leaky ReLUs.
SLOPE = 0.2

# Pooled frames to filter at once: for 120 filters they take 1 MB.
_STRETCH = 2048


def in_parts(module, x):
    """Whether to compute a few clips or frames at a time, for a CPU's cache.

    Not in training, nor where a compiler sees the whole.
    """
    plain = module.training or torch.is_grad_enabled() or not x.is_cpu
    return not plain and not torch.compiler.is_compiling()


# --------------------------------------------------------------------- AASIST
def sinc_filters(out_channels, kernel_size):
    """Return adjacent band-pass filters on the mel scale, from 0 Hz to 8 kHz.

    [out_channels, kernel_size], an odd number of samples.

    Example
    -------
    >>> bands = sinc_filters(2, 1025)
    >>> response = torch.fft.rfft(bands, n=1600).abs()  # 10 Hz a step
    >>> (response > 0.5).sum(dim=1) * 10
    tensor([1770, 6240])
    """
    nyquist = torch.tensor(SAMPLE_RATE / 2, dtype=torch.float64)
    highest = 2595 * torch.log10(1 + nyquist / 700)
    # transformers may have kept linspace from following a device context.
    mel = highest * torch.linspace(
        *(0, 1, out_channels + 1), dtype=torch.float64, device=nyquist.device
    )
    edges = 700 * (10 ** (mel / 2595) - 1) / nyquist
    time = torch.arange(kernel_size) - kernel_size // 2
    low_pass = edges.unsqueeze(1) * torch.sinc(edges.unsqueeze(1) * time)
    window = torch.hamming_window(
        kernel_size, periodic=False, dtype=torch.float64
    )
    return (low_pass.diff(dim=0) * window).to(torch.get_default_dtype())


class SincFrontEnd(torch.nn.Module):
    """Waveform -> fixed sinc filters -> a map of pooled magnitudes.

    Arguments
    ---------
    out_channels, kernel_size : int
        See ``sinc_filters``.
    pool_size : int
        Number of filters, and of frames, that are pooled into one.
    mask_limit : int
        In training, a random number of adjacent filters below this one is
        silent in a batch; 0 for none.

    Example
    -------
    >>> SincFrontEnd(7, 81, pool_size=3)(torch.randn(2, 400)).shape
    torch.Size([2, 1, 2, 106])
    """

    def __init__(self, out_channels, kernel_size, pool_size, mask_limit=0):
        super().__init__()
        if mask_limit > out_channels + 1:
            raise ValueError(
                f"mask_limit: {mask_limit}; expected at most {out_channels + 1}"
            )
        self.pool_size = pool_size
        self.mask_limit = mask_limit
        filters = sinc_filters(out_channels, kernel_size).unsqueeze(1)
        self.register_buffer("filters", filters, persistent=False)
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, wavs):
        """[batch, samples] -> [batch, 1, out_channels // pool_size, frames]

        The channel axis is last in memory.
        """
        size = self.pool_size
        bands = len(self.filters) // size
        filters = self.filters
        if self.training and self.mask_limit:
            filters = self._masked(filters)
        with full_precision(wavs):
            # Filters that are in no band are not heard.
            x = conv1d(wavs.unsqueeze(1), filters[: bands * size])
            x = x.unflatten(1, (bands, size))
            x = max_pool1d(x.abs().amax(dim=2), size)
            x = selu(self.norm(x.unsqueeze(1)))
        # Convolutions keep that layout, in which pooling is ten times faster.
        return x.squeeze(1).unsqueeze(3).movedim(3, 1)

    def _masked(self, filters):
        count = int(torch.randint(self.mask_limit, ()))
        first = int(torch.randint(len(filters) - count + 1, ()))
        kept = torch.ones_like(filters)
        kept[first : first + count] = 0
        return filters * kept


# ------------------------------------------------------------------------- V2
def sinc_patches(wavs, sinc, norm, patches, pool_size):
    """Filter, pool magnitudes, normalize, and project patches to vectors.

    [batch, samples] -> [batch, channels, patches]. ``sinc.first_half()`` is the
    first half of symmetric filters, [filters, half]; ``norm`` is of [filters,
    frames]; ``patches`` is a Conv2d from one channel whose square kernel is its
    stride; ``pool_size`` samples become a frame. On a CPU, the map of
    filters and frames, a hundred times larger than the waveform, is computed in
    pieces that stay in the cache, in the forward and the backward pass.
    """
    tensors = sinc.first_half(), norm.gamma, norm.beta
    tensors += patches.weight, patches.bias
    by_clip = wavs.is_cpu and not wavs.requires_grad
    by_clip = by_clip and not torch.compiler.is_compiling()
    if not by_clip or has_tangent(wavs, *tensors):
        return _whole_batch(wavs, *tensors, norm.eps, pool_size)
    with full_precision(wavs):
        return _ClipByClip.apply(wavs, *tensors, norm.eps, pool_size)


def _whole_batch(wavs, half_filters, gamma, beta, weight, bias, eps, pool):
    filters = torch.cat([half_filters, half_filters[:, :-1].flip(1)], dim=1)
    with full_precision(wavs):
        # What is filtered is large, and twice as large with its tangent.
        parts = wavs.split(4) if has_tangent(half_filters) else [wavs]
        x = torch.cat([_pooled(w, filters.unsqueeze(1), pool) for w in parts])
        x = layer_norm(x, gamma, beta, eps)
        x = _unfold(leaky_relu(x, SLOPE), weight.shape[-1])
    return linear(x, weight.flatten(1), bias).transpose(1, 2)


def _pooled(wavs, filters, pool):
    """[batch, samples] -> [batch, filters, frames], maxima of magnitudes."""
    x = conv1d(wavs.unsqueeze(1), filters)
    if not torch.is_grad_enabled():
        return max_pool1d(x.abs(), pool)
    # Derivatives are needed at the chosen samples only.
    with torch.no_grad():
        _, chosen = max_pool1d(x.abs(), pool, return_indices=True)
    return x.gather(-1, chosen).abs()


def _unfold(x, side):
    """[..., filters, frames] -> [..., patches, side * side]"""
    rows, columns = (size // side for size in x.shape[-2:])
    x = x[..., : rows * side, : columns * side]
    x = x.unflatten(-1, (columns, side)).unflatten(-3, (rows, side))
    return x.transpose(-3, -2).flatten(-2).flatten(-3, -2)


class _ClipByClip(torch.autograd.Function):
    """``_whole_batch`` that saves only its arguments for the backward pass.

    Filtering again is cheaper than saving the map.
    """

    @staticmethod
    def forward(wavs, half_filters, gamma, beta, weight, bias, eps, pool):
        side, kernel = weight.shape[-1], weight.flatten(1)
        bank = _Bank(half_filters, gamma, side, pool)
        size = len(kernel), bank.rows * bank.columns
        output = wavs.new_empty(len(wavs), *size)
        pooled = bank.new_map(wavs)
        for wav, of_clip in zip(wavs, output):
            bank.pool_into(pooled, bank.filtered(wav))
            of_rows = of_clip.split(bank.columns, dim=1)
            for row, vectors in zip(bank.blocks, of_rows):
                x, _ = normalize(pooled[row], eps)
                x = torch.addcmul(beta[row], x, gamma[row])
                x = _unfold(leaky_relu(x, SLOPE, inplace=True), side)
                torch.addmm(bias.unsqueeze(1), kernel, x.T, out=vectors)
        return output

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.eps, ctx.pool = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, gradient):
        tensors, constants = ctx.saved_tensors, (ctx.eps, ctx.pool)
        if has_tangent(gradient):
            needed = ctx.needs_input_grad[:6]
            _, *found = gradients(
                _whole_batch, gradient, tensors, needed, *constants
            )
        else:
            found = _ClipByClipGradients.apply(gradient, *tensors, *constants)
        return None, *found, None, None


class _ClipByClipGradients(torch.autograd.Function):
    """The gradients of ``_ClipByClip``; saves only its arguments, too."""

    @staticmethod
    def forward(
        gradient, wavs, half_filters, gamma, beta, weight, bias, eps, pool
    ):
        side, kernel = weight.shape[-1], weight.flatten(1)
        bank = _Bank(half_filters, gamma, side, pool)
        pooled, d_frames = bank.new_map(wavs), bank.new_map(wavs)
        d_half = torch.zeros_like(bank.half)
        d_gamma, d_beta, d_kernel = map(torch.zeros_like, (gamma, beta, kernel))
        for wav, of_clip in zip(wavs, gradient):
            filtered = list(bank.filtered(wav, keep=True))
            bank.pool_into(pooled, filtered)
            of_rows = of_clip.split(bank.columns, dim=1)
            for row, d_vectors in zip(bank.blocks, of_rows):
                normalized, std = normalize(pooled[row], eps)
                x = torch.addcmul(beta[row], normalized, gamma[row])
                x = leaky_relu(x, SLOPE, inplace=True)
                d_kernel.addmm_(d_vectors, _unfold(x, side))
                d_x = _fold(d_vectors.T @ kernel, x)
                d_x = torch.ops.aten.leaky_relu_backward(d_x, x, SLOPE, True)
                d_beta[row] += d_x
                d_gamma[row].addcmul_(d_x, normalized)
                d_frames[row] = normalize_backward(
                    d_x.mul_(gamma[row]), normalized, std, eps
                )
            bank.add_gradient(d_half, filtered, d_frames)
        d_filters = bank.by_filters(d_half, half_filters)
        d_bias = gradient.sum(dim=(0, 2))
        d_weight = d_kernel.view_as(weight)
        return d_filters, d_gamma, d_beta, d_weight, d_bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.eps, ctx.pool = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, along_filters, *along):
        gradient, wavs, half_filters, *tensors = ctx.saved_tensors
        gamma, beta, weight, _ = tensors
        of_gamma, of_beta, of_weight, of_bias = along
        side, kernel = weight.shape[-1], weight.flatten(1)
        of_kernel, of_bias = of_weight.flatten(1), of_bias.unsqueeze(1)
        bank = _Bank(half_filters, gamma, side, ctx.pool)
        other = _Bank(along_filters, gamma, side, ctx.pool)
        maps = [bank.new_map(wavs) for _ in range(3)]
        pooled, of_pooled, d_pooled = maps
        d_half = torch.zeros_like(bank.half)
        d_gradient, d_gamma, d_beta, d_kernel = map(
            torch.zeros_like, (gradient, gamma, beta, kernel)
        )
        for wav, *of_clip in zip(wavs, gradient, d_gradient):
            filtered = list(bank.filtered(wav, keep=True))
            bank.pool_into(pooled, filtered)
            other.pool_along(of_pooled, filtered)
            of_rows = zip(*(x.split(bank.columns, dim=1) for x in of_clip))
            for row, (d_vectors, of_vectors) in zip(bank.blocks, of_rows):
                normalized, std = normalize(pooled[row], ctx.eps)
                rest = normalized, std, ctx.eps
                x = torch.addcmul(beta[row], normalized, gamma[row])
                slope = torch.where(x > 0, 1, SLOPE)
                x = _unfold(x.mul_(slope), side)
                # How all of these change along the given directions.
                along = normalize_backward(of_pooled[row], *rest)
                of_x = torch.addcmul(of_beta[row], normalized, of_gamma[row])
                of_x = of_x.addcmul_(along, gamma[row]).mul_(slope)
                of_x = _unfold(of_x, side)
                torch.addmm(of_bias, of_kernel, x.T, out=of_vectors)
                of_vectors.addmm_(kernel, of_x.T)
                d_kernel.addmm_(d_vectors, of_x)
                d_x = _fold(d_vectors.T @ kernel, slope).mul_(slope)
                d_gamma[row].addcmul_(d_x, along)
                d_along = d_x * gamma[row]
                d_x *= of_gamma[row]
                of_d_x = _fold(d_vectors.T @ of_kernel, slope).mul_(slope)
                d_beta[row] += of_d_x
                d_gamma[row].addcmul_(of_d_x, normalized)
                d_x.addcmul_(of_d_x, gamma[row])
                d_pooled[row] = normalize_backward(d_x, *rest)
                d_pooled[row] += normalize_twice(d_along, of_pooled[row], *rest)
            bank.add_gradient(d_half, filtered, d_pooled)
        d_filters = bank.by_filters(d_half, half_filters)
        d_weight = d_kernel.view_as(weight)
        found = d_gradient, None, d_filters, d_gamma, d_beta, d_weight
        return *found, None, None, None


def _fold(patches, like):
    """Invert ``_unfold`` for one row of patches; the rest is zero."""
    side, frames = like.shape
    whole = patches.unflatten(1, (side, side)).transpose(0, 1).flatten(1)
    return pad(whole, (0, frames - whole.shape[1]))


class _Bank:
    """The filters that patches see, and how they are applied to a clip.

    A response to a symmetric filter is a product with sums of two samples, half
    as many as the filter has samples.
    """

    def __init__(self, half_filters, gamma, side, pool):
        self.pool, self.frames = pool, gamma.shape[1]
        self.rows, self.columns = (size // side for size in gamma.shape)
        starts = range(0, self.rows * side, side)
        self.blocks = [slice(start, start + side) for start in starts]
        self.half = half_filters[: self.rows * side].clone()
        # The middle sample is added to itself.
        self.half[:, -1] /= 2
        self.room = None

    def new_map(self, like):
        """Return an empty tensor for one clip, [filters, frames]."""
        return like.new_empty(len(self.half), self.frames)

    def filtered(self, wav, keep=False):
        """Yield the responses to a clip, a range of frames at a time.

        These are: the range; for each sample of a frame, sums, [pool, half,
        frames]; and responses, [pool, filters, frames]. The next ones overwrite
        them unless ``keep`` is true.
        """
        half, pool = self.half.shape[1], self.pool
        length = 2 * half - 1
        reach = -(-(length + pool - 1) // pool)
        size = pool * (self.frames + reach - 1)
        wav = pad(wav, (0, max(0, size - len(wav))))[:size]
        # Samples that are ``pool`` apart, side by side.
        phases = wav.view(-1, pool).T.contiguous()
        filters = self.half.expand(pool, -1, -1)
        for start in range(0, self.frames, _STRETCH):
            stop = min(start + _STRETCH, self.frames)
            x = phases[:, start : stop + reach - 1].unfold(1, stop - start, 1)
            # Row k: the sample k after the first of each frame.
            x = x.transpose(0, 1).flatten(0, 1)
            mirrored = x.flip(0)
            sums, responses = self._room(stop - start, keep)
            for n in range(pool):
                other = mirrored[len(x) - length - n :][:half]
                torch.add(x[n : n + half], other, out=sums[n])
            yield (
                slice(start, stop),
                sums,
                torch.bmm(filters, sums, out=responses),
            )

    def _room(self, frames, keep):
        """Return tensors for sums and responses, new ones if they are kept.

        Otherwise they are the same as before, which are still in the cache.
        """
        sizes = [self.pool * count for count in (self.half.shape[::-1])]
        if self.room is None or keep:
            self.room = [self.half.new_empty(n * _STRETCH) for n in sizes]
        return (
            room[: n * frames].view(self.pool, -1, frames)
            for n, room in zip(sizes, self.room)
        )

    def pool_into(self, pooled, filtered):
        """Write the largest magnitude of each frame."""
        for place, _, responses in filtered:
            largest = torch.abs(responses[0], out=pooled[:, place])
            for response in responses[1:]:
                torch.maximum(largest, response.abs(), out=largest)

    def pool_along(self, moved, filtered):
        """Write how ``pool_into``'s values change along this bank's filters.

        ``filtered`` are the responses of those that are changed.
        """
        filters = self.half.expand(self.pool, -1, -1)
        for place, sums, responses in filtered:
            changes = (filters @ sums).mul_(responses.sgn())
            magnitudes = responses.abs()
            largest, change = magnitudes[0], changes[0]
            for magnitude, other in zip(magnitudes[1:], changes[1:]):
                change = torch.where(magnitude > largest, other, change)
                torch.maximum(largest, magnitude, out=largest)
            moved[:, place] = change

    def by_filters(self, d_half, half_filters):
        """Return the gradient by ``half_filters``, from that by ``half``."""
        d_filters = torch.zeros_like(half_filters)
        d_filters[: len(d_half)] = d_half
        d_filters[:, -1] /= 2
        return d_filters

    def add_gradient(self, d_half, filtered, d_frames):
        """Add the filters' gradient.

        The first of the largest magnitudes in a frame gets that of the frame.
        """
        for place, sums, responses in filtered:
            magnitudes = responses.abs()
            largest, better = magnitudes[0], [None]
            for magnitude in magnitudes[1:]:
                better.append(magnitude > largest)
                torch.maximum(largest, magnitude, out=largest)
            d_responses = responses.sgn()
            rest = d_frames[:, place]
            for n in reversed(range(self.pool)):
                d_response = torch.where(better[n], rest, 0) if n else rest
                rest = rest - d_response
                d_responses[n] *= d_response
            d_half += (d_responses @ sums.transpose(1, 2)).sum(dim=0)
