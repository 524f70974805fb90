"""RawNet2 and RawGAT-ST as they are usually computed: the yardsticks of
``reference.py``.

One step after the other on the whole batch, in PyTorch's usual layout; what
follows on the maps, and the GRU, are the package's own.
"""

import torch
from plain_aasist import encoded, filtered
from torch.nn.functional import conv1d, leaky_relu, max_pool1d, selu

from speechbrain_bilevel.lobes.rawgat import RawGATST
from speechbrain_bilevel.lobes.rawnet2 import POOL, SLOPE, RawNet2


class PlainRawNet2(RawNet2):
    """The same parameters, outputs and gradients; none of the speed."""

    def extract_features(self, wavs):
        x = conv1d(wavs.unsqueeze(1), self.front_end.filters.unsqueeze(1))
        x = selu(self.front_end.norm(max_pool1d(x.abs(), POOL)), inplace=True)
        for block in self.encoder:
            x = self._residual(block, x)
        return x

    def _residual(self, block, x):
        hidden = leaky_relu(block.norm(block.conv1(x)), SLOPE)
        out = block.conv2(hidden)
        out += block.shortcut(x)
        out = max_pool1d(out, POOL)
        scale = torch.sigmoid(block.scale(out.mean(dim=2))).unsqueeze(2)
        return out * scale + scale


class PlainRawGATST(RawGATST):
    """The same parameters, outputs and gradients; none of the speed."""

    def extract_features(self, wavs):
        x = filtered(self.front_end, wavs)
        encoders = self.spectral_encoder, self.temporal_encoder
        return torch.cat([encoded(encoder, x) for encoder in encoders], dim=1)
