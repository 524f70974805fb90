"""V2 as its description reads, in plain modules: the yardstick of ``v2.py``.

One step after the other on the whole batch. Its parameters have the names and
shapes of ours, so that either can take the other's.
"""

import itertools
import math

import torch
from torch import nn

from speechbrain_bilevel.lobes.v2 import MelEncoder, SincFilters


class Norm(nn.Module):
    """The last axis by its unbiased deviation, eps outside of the root."""

    def __init__(self, shape):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        std = x.std(-1, keepdim=True)
        return self.gamma * (x - mean) / (std + 1e-6) + self.beta


class Sinc(SincFilters):
    """The filters of ours, by an ordinary convolution."""

    def forward(self, wavs):
        self.device = wavs.device
        return nn.functional.conv1d(wavs.unsqueeze(1), self._get_sinc_filters())


class SincBranch(nn.Module):
    """Filters, magnitude, pooling, norm, patches, tokens."""

    def __init__(
        self,
        num_samples,
        out_channels,
        kernel_size,
        pool_size,
        patch_size,
        d_model,
        token_sizes,
    ):
        super().__init__()
        frames = (num_samples - kernel_size + 1) // pool_size
        self.sinc = Sinc(out_channels, kernel_size)
        self.pool = nn.MaxPool1d(pool_size)
        self.norm = Norm([out_channels, frames])
        self.activation = nn.LeakyReLU(0.2)
        self.patches = nn.Conv2d(1, d_model, patch_size, stride=patch_size)
        patches = (out_channels // patch_size) * (frames // patch_size)
        sizes = [patches, *token_sizes]
        self.to_tokens = nn.Sequential(
            *(
                layer
                for before, after in itertools.pairwise(sizes)
                for layer in (nn.Linear(before, after), nn.LayerNorm(after))
            )
        )

    def forward(self, wavs):
        x = self.pool(torch.abs(self.sinc(wavs)))
        x = self.activation(self.norm(x))
        x = self.patches(x.unsqueeze(1)).flatten(2)
        return self.to_tokens(x).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with the first key masked."""

    def __init__(self, size, nhead, dropout):
        super().__init__()
        self.nhead = nhead
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        batch, tokens, size = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, self.nhead, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = torch.matmul(query, key.transpose(-2, -1))
        scores = scores / math.sqrt(size // self.nhead)
        mask = torch.ones(tokens, dtype=torch.bool, device=x.device)
        mask[0] = False
        scores = scores.masked_fill(~mask, -1e9)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        x = torch.matmul(weights, value).transpose(1, 2).contiguous()
        return self.output(x.view(batch, tokens, size))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, size, nhead, d_ffn, dropout):
        super().__init__()
        self.attention_norm = Norm(size)
        self.attention = Attention(size, nhead, dropout)
        self.feed_forward_norm = Norm(size)
        self.feed_forward = nn.Sequential(
            nn.Linear(size, d_ffn),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d_ffn, size),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Positions(nn.Module):
    """Sinusoidal positions."""

    def __init__(self, tokens, size, dropout):
        super().__init__()
        position = torch.arange(tokens).unsqueeze(1)
        step = torch.exp(torch.arange(0, size, 2) * -(math.log(1e4) / size))
        table = torch.zeros(tokens, size)
        table[:, 0::2] = torch.sin(position * step)
        table[:, 1::2] = torch.cos(position * step)
        self.register_buffer("table", table, persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(x + self.table)


class PlainV2(nn.Module):
    """The same parameters, outputs and gradients; none of the speed."""

    def __init__(
        self,
        num_samples=64600,
        sinc_channels=128,
        sinc_kernel_size=81,
        pool_size=3,
        patch_size=24,
        token_sizes=(1024, 256, 128),
        encoder_channels=(64, 128, 256, 256),
        num_layers=6,
        nhead=4,
        d_ffn=1024,
        gru_hidden_size=512,
        classifier_size=256,
        dropout=0.1,
    ):
        super().__init__()
        d_model = encoder_channels[-1]
        self.sinc_branch = SincBranch(
            num_samples,
            sinc_channels,
            sinc_kernel_size,
            pool_size,
            patch_size,
            d_model,
            token_sizes,
        )
        self.mel_encoder = MelEncoder(encoder_channels)
        tokens = token_sizes[-1] + self.mel_encoder.num_tokens(num_samples)
        self.positions = Positions(tokens, d_model, dropout)
        self.transformer = nn.Sequential(
            *(Block(d_model, nhead, d_ffn, dropout) for _ in range(num_layers))
        )
        self.gru = nn.GRU(d_model, gru_hidden_size, batch_first=True)
        self.classifier = nn.Sequential(
            nn.LayerNorm(tokens),
            nn.Linear(tokens, classifier_size),
            nn.Linear(classifier_size, 2),
        )

    def forward(self, wavs):
        x = torch.cat([self.sinc_branch(wavs), self.mel_encoder(wavs)], dim=1)
        x, _ = self.gru(self.transformer(self.positions(x)))
        return self.classifier(x.mean(dim=2))
