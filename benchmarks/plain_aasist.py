"""AASIST's maps as they are usually computed: the yardstick of ``aasist.py``.

One step after the other on the whole batch, in PyTorch's usual layout; what
follows on the maps takes hundredths of the time and is the package's own.
"""

from torch.nn.functional import conv1d, max_pool2d, selu

from speechbrain_bilevel.lobes.aasist import AASIST


class PlainAASIST(AASIST):
    """The same parameters, outputs and gradients; none of the speed."""

    def extract_features(self, wavs):
        x = conv1d(wavs.unsqueeze(1), self.front_end.filters)
        x = max_pool2d(x.unsqueeze(1).abs(), 3)
        x = selu(self.front_end.norm(x), inplace=True)
        for block in self.encoder:
            x = self._residual(block, x)
        return x

    def _residual(self, block, x):
        hidden = selu(block.norm(block.conv1(x)), inplace=True)
        out = block.conv2(hidden)
        out += block.shortcut(x)
        return max_pool2d(out, (1, 3))
