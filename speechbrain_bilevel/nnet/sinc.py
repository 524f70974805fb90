"""Waveform -> sinc filters -> patches, as the published V2 makes them.

Source of the design: https://github.com/menglu-lml/ASV_Deepfake_with_bilevel
"""

import torch
from torch.nn.functional import conv1d, leaky_relu, linear, max_pool1d, pad

from speechbrain_bilevel.nnet.derivatives import again, has_tangent
from speechbrain_bilevel.nnet.normalization import (
    layer_norm,
    normalize,
    through_normalization,
)

SLOPE = 0.2


# Pooled frames that are filtered at once: for 120 filters they take 1 MB.
STRETCH = 2048


def sinc_patches(wavs, sinc, norm, patches, pool):
    """Filters, pooled magnitudes, norm, leaky ReLU, and a vector a patch.

    The map of filters and frames is a hundred times larger than the waveform.
    On a CPU it is never made as a whole: a clip is filtered a stretch at a
    time, which stays in the processor's cache, forth and back.

    Arguments
    ---------
    wavs : torch.Tensor
        [batch, samples]
    sinc : torch.nn.Module
        Its method ``first_half`` gives that of symmetric filters, with the
        middle, [filters, half].
    norm : UnbiasedLayerNorm
        Of [filters, frames].
    patches : torch.nn.Conv2d
        From one channel, its kernel and stride equal and square.
    pool : int
        Samples that become a frame.

    Returns
    -------
    torch.Tensor
        [batch, channels, patches]

    Example
    -------
    >>> from speechbrain_bilevel.lobes.v2 import SincFilters
    >>> from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm
    >>> sinc, norm = SincFilters(8, 5), UnbiasedLayerNorm([8, 9])
    >>> patches = torch.nn.Conv2d(1, 6, 4, stride=4)
    >>> sinc_patches(torch.randn(2, 31), sinc, norm, patches, pool=3).shape
    torch.Size([2, 6, 4])
    """
    # In half precision the phase of a high sinc filter is off by a radian.
    single = torch.autocast(wavs.device.type, enabled=False)
    with single:
        tensors = sinc.first_half(), norm.gamma, norm.beta
    tensors += patches.weight, patches.bias
    by_clip = wavs.is_cpu and not wavs.requires_grad
    by_clip = by_clip and not torch.compiler.is_compiling()
    if not by_clip or has_tangent(wavs, *tensors):
        return _whole_batch(wavs, *tensors, norm.eps, pool)
    with single:
        return _ClipByClip.apply(wavs, *tensors, norm.eps, pool)


def _whole_batch(wavs, half_filters, gamma, beta, weight, bias, eps, pool):
    filters = torch.cat([half_filters, half_filters[:, :-1].flip(1)], dim=1)
    with torch.autocast(wavs.device.type, enabled=False):
        x = conv1d(wavs.unsqueeze(1), filters.unsqueeze(1))
        # Differentiated at the chosen samples only.
        with torch.no_grad():
            _, chosen = max_pool1d(x.abs(), pool, return_indices=True)
        x = layer_norm(x.gather(-1, chosen).abs(), gamma, beta, eps)
        x = _unfold(leaky_relu(x, SLOPE), weight.shape[-1])
    return linear(x, weight.flatten(1), bias).transpose(1, 2)


def _unfold(x, side):
    """[..., filters, frames] -> [..., patches, side * side]"""
    rows, columns = (size // side for size in x.shape[-2:])
    x = x[..., : rows * side, : columns * side]
    x = x.unflatten(-1, (columns, side)).unflatten(-3, (rows, side))
    return x.transpose(-3, -2).flatten(-2).flatten(-3, -2)


class _ClipByClip(torch.autograd.Function):
    """``_whole_batch``, which keeps its arguments for the backward pass and
    nothing else: filtering again is cheaper than keeping the map."""

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
        if torch.is_grad_enabled() or has_tangent(gradient):
            found = again(ctx, _whole_batch, gradient, ctx.eps, ctx.pool)
            return *found, None, None
        wavs, half_filters, gamma, beta, weight, bias = ctx.saved_tensors
        side, kernel = weight.shape[-1], weight.flatten(1)
        bank = _Bank(half_filters, gamma, side, ctx.pool)
        pooled, d_frames = bank.new_map(wavs), bank.new_map(wavs)
        d_half = torch.zeros_like(bank.half)
        d_gamma, d_beta, d_kernel = map(torch.zeros_like, (gamma, beta, kernel))
        for wav, of_clip in zip(wavs, gradient):
            filtered = list(bank.filtered(wav, keep=True))
            bank.pool_into(pooled, filtered)
            of_rows = of_clip.split(bank.columns, dim=1)
            for row, d_vectors in zip(bank.blocks, of_rows):
                normalized, std = normalize(pooled[row], ctx.eps)
                x = torch.addcmul(beta[row], normalized, gamma[row])
                x = leaky_relu(x, SLOPE, inplace=True)
                d_kernel.addmm_(d_vectors, _unfold(x, side))
                d_x = _fold(d_vectors.T @ kernel, x)
                d_x = torch.ops.aten.leaky_relu_backward(d_x, x, SLOPE, True)
                d_beta[row] += d_x
                d_gamma[row].addcmul_(d_x, normalized)
                d_frames[row] = through_normalization(
                    d_x.mul_(gamma[row]), normalized, std, ctx.eps
                )
            bank.add_gradient(d_half, filtered, d_frames)
        d_filters = torch.zeros_like(half_filters)
        d_filters[: len(d_half)] = d_half
        d_filters[:, -1] /= 2
        d_bias = gradient.sum(dim=(0, 2))
        d_weight = d_kernel.view_as(weight)
        return None, d_filters, d_gamma, d_beta, d_weight, d_bias, None, None


def _fold(patches, like):
    """The inverse of ``_unfold`` for one row of patches, zero behind them."""
    side, frames = like.shape
    whole = patches.unflatten(1, (side, side)).transpose(0, 1).flatten(1)
    return pad(whole, (0, frames - whole.shape[1]))


class _Bank:
    """Those filters that patches see, and how they are applied to a clip.

    A response to a symmetric filter is a product with sums of two samples, half
    as many as the filter has.
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
        """A tensor for one clip, [filters, frames]."""
        return like.new_empty(len(self.half), self.frames)

    def filtered(self, wav, keep=False):
        """Yields, a stretch of frames at a time: which ones; for each sample of
        a frame, sums, [pool, half, frames]; the responses, [pool, filters,
        frames]. The next stretch overwrites them unless they are to be kept."""
        half, pool = self.half.shape[1], self.pool
        length = 2 * half - 1
        reach = -(-(length + pool - 1) // pool)
        size = pool * (self.frames + reach - 1)
        wav = pad(wav, (0, max(0, size - len(wav))))[:size]
        # Samples that are ``pool`` apart, side by side.
        phases = wav.view(-1, pool).T.contiguous()
        filters = self.half.expand(pool, -1, -1)
        for start in range(0, self.frames, STRETCH):
            stop = min(start + STRETCH, self.frames)
            x = phases[:, start : stop + reach - 1].unfold(1, stop - start, 1)
            # Row k: what comes k samples after the first of each frame.
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
        """Tensors for sums and responses: the same ones, or new ones to keep.

        What was written last is still in the cache."""
        sizes = [self.pool * count for count in (self.half.shape[::-1])]
        if self.room is None or keep:
            self.room = [self.half.new_empty(n * STRETCH) for n in sizes]
        return (
            room[: n * frames].view(self.pool, -1, frames)
            for n, room in zip(sizes, self.room)
        )

    def pool_into(self, pooled, filtered):
        """Writes the largest magnitude of each frame."""
        for place, _, responses in filtered:
            largest = torch.abs(responses[0], out=pooled[:, place])
            for response in responses[1:]:
                torch.maximum(largest, response.abs(), out=largest)

    def add_gradient(self, d_half, filtered, d_frames):
        """Adds the filters' gradient; the first of the largest magnitudes in a
        frame has that of the frame."""
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
