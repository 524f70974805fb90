"""AASIST's maps as they are usually computed: a yardstick of
``reference.py``.

One step after the other on the whole batch, in PyTorch's usual layout; what
follows on the maps takes hundredths of the time and is the package's own.
"""

from torch.nn.functional import conv1d, max_pool2d, selu

from speechbrain_bilevel.lobes.aasist import AASIST


class PlainAASIST(AASIST):
    """The same parameters, outputs and gradients; none of the speed."""

    def extract_features(self, wavs):
        return encoded(self.encoder, filtered(self.front_end, wavs))


def filtered(front_end, wavs):
    """What a ``SincFrontEnd`` makes of waveforms."""
    x = conv1d(wavs.unsqueeze(1), front_end.filters)
    x = max_pool2d(x.unsqueeze(1).abs(), 3)
    return selu(front_end.norm(x), inplace=True)


def encoded(encoder, x):
    """What ``ResidualBlock``s make of that."""
    for block in encoder:
        hidden = selu(block.norm(block.conv1(x)), inplace=True)
        out = block.conv2(hidden)
        out += block.shortcut(x)
        x = max_pool2d(out, (1, 3))
    return x
