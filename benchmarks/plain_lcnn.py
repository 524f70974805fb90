"""LFCC-LCNN as it is usually computed: the yardstick of ``reference.py``.

One step after the other on the whole batch, in PyTorch's usual layout, with the
max feature map as a maximum over an axis, before pooling.
"""

from torch.nn.functional import max_pool2d

from speechbrain_bilevel.lobes.lcnn import LCNN


class PlainLCNN(LCNN):
    """The same parameters, outputs and gradients; none of the speed."""

    def extract_features(self, wavs):
        cepstra = self.lfcc(wavs)
        if self.lstm is None:
            cepstra = cepstra[:, :-1]
        x = cepstra.unsqueeze(1)
        for layer in self.encoder:
            x = layer.conv(x).unflatten(1, (2, -1)).max(dim=1).values
            x = layer.norm(max_pool2d(x, 2) if layer.pool else x)
        return x
