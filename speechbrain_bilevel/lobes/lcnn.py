"""LFCC-LCNN: a light CNN on cepstra, the baseline of many comparisons.

Source of both forms: Wang and Yamagishi, "A comparative study on recent neural
spoofing countermeasures", https://arxiv.org/abs/2103.11326, with the code at
https://github.com/nii-yamagishilab/project-NN-Pytorch-scripts; of the network:
Lavrentyeva et al., https://arxiv.org/abs/1904.05576
"""

import torch
from torch.nn.functional import max_pool2d

from speechbrain_bilevel.lobes import with_sizes
from speechbrain_bilevel.nnet.cepstra import LFCC
from speechbrain_bilevel.nnet.sinc import in_parts

#: Samples from one frame to the next.
HOP = 160
#: Frames, and coefficients, that pooling makes one of.
POOL = 16
#: The sizes of ASVspoof 2021's baseline: cepstra of the lower half of the
#: spectrum, LSTM layers.
LCNN_2021 = {"lstm": True, "n_fft": 1024, "num_bins": 256}


class MaxFeatureMap(torch.nn.Module):
    """Halve the channels: the larger of each and its partner, half of all away.

    Example
    -------
    >>> MaxFeatureMap()(torch.tensor([[1.0, 5.0, 3.0, 4.0]]))
    tensor([[3., 5.]])
    """

    def forward(self, x):
        """[batch, 2 * channels, ...] -> [batch, channels, ...]"""
        return torch.maximum(*x.chunk(2, dim=1))


class LightConv(torch.nn.Module):
    """Convolution, max feature map, and pooling and normalization if wanted.

    The published network pools after the max feature map. A maximum of maxima
    is the same in any order, and its gradient takes less time in this one.

    Example
    -------
    >>> LightConv(4, 6, 3, pool=True)(torch.randn(2, 4, 9, 8)).shape
    torch.Size([2, 6, 4, 4])
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, pool=False, norm=False
    ):
        super().__init__()
        self.conv = torch.nn.Conv2d(
            in_channels, 2 * out_channels, kernel_size, padding="same"
        )
        self.activation = MaxFeatureMap()
        self.pool = pool
        self.norm = torch.nn.Identity()
        if norm:
            self.norm = torch.nn.BatchNorm2d(out_channels, affine=False)

    def forward(self, x):
        """[batch, channels, frames, coefficients] -> the same axes"""
        x = self.conv(x)
        return self.norm(self.activation(max_pool2d(x, 2) if self.pool else x))


@with_sizes
class LCNN(torch.nn.Module):
    """The published network; that of fixed length with the default sizes.

    ASVspoof 2021's baseline has the sizes ``LCNN_2021``, and that of the
    comparison with LSTM layers ``lstm=True``. The published networks end with
    one logit, for bona fide; here, the difference of two is that logit. So
    there are 864,386 and 269,826 parameters, 81 and 97 more.

    Without gradients, a CPU computes clips one by one; the result is the same.

    Arguments
    ---------
    num_samples : int
        Input length in training, at 16 kHz; with ``lstm``, others work above
        2,399.
    lstm : bool
        Two bidirectional LSTM layers, added to their input, and the mean over
        time; instead of a linear layer on all frames.
    n_fft, num_bins : int
        Size of the spectrum, and how many of its frequencies count, from 0 Hz.
    num_coefficients : int
        Filters, and coefficients without their slopes.
    channels : list of int
        Output channels of the first convolution and of each of four pairs.
    embedding_size : int
        Without ``lstm``.
    dropout : float
        Dropout probability of the maps.

    Example
    -------
    >>> LCNN(num_samples=4000)(torch.randn(2, 4000)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        num_samples=750 * HOP,
        lstm=False,
        n_fft=512,
        num_bins=257,
        num_coefficients=20,
        channels=(32, 48, 64, 32, 32),
        embedding_size=80,
        dropout=0.7,
    ):
        super().__init__()
        self.num_samples = num_samples
        self.any_length = lstm
        frames, bands = num_samples // HOP // POOL, 3 * num_coefficients // POOL
        if not frames or not bands:
            raise ValueError(
                f"num_samples: {num_samples}, num_coefficients: "
                f"{num_coefficients}; pooling needs {POOL * HOP} and "
                f"{-(-POOL // 3)} at least"
            )
        self.lfcc = LFCC(
            n_fft=n_fft,
            num_bins=num_bins,
            num_filters=num_coefficients,
            num_coefficients=num_coefficients,
            centered=True,
            energy=True,
            floor=2.0**-23,
        )
        layers = [LightConv(1, channels[0], 5, pool=True)]
        # Which of the pairs are pooled, and which are normalized at the end.
        pools, norms = (True, True, False, True), (True, False, True, False)
        for *sizes, pool, norm in zip(channels, channels[1:], pools, norms):
            layers += [
                LightConv(sizes[0], sizes[0], 1, norm=True),
                LightConv(*sizes, 3, pool, norm),
            ]
        self.encoder = torch.nn.Sequential(*layers)
        self.dropout = torch.nn.Dropout(dropout)
        size = channels[-1] * bands
        if lstm:
            if size % 2:
                raise ValueError(
                    f"channels: {list(channels)}; {bands} times the last is "
                    "odd, and both directions have half of it"
                )
            self.lstm = torch.nn.LSTM(
                size, size // 2, 2, batch_first=True, bidirectional=True
            )
            embedding_size = size
        else:
            self.lstm = None
            self.embedding = torch.nn.Sequential(
                torch.nn.Linear(frames * size, 2 * embedding_size),
                MaxFeatureMap(),
            )
        self.classifier = torch.nn.Linear(embedding_size, 2)

    def extract_features(self, wavs):
        """[batch, samples] -> [batch, channels[-1], frames, bands]"""
        if not in_parts(self, wavs):
            return self._extract(wavs)
        return torch.cat([self._extract(clip) for clip in wavs.split(1)])

    def _extract(self, wavs):
        cepstra = self.lfcc(wavs)
        if self.lstm is None:
            # As published, a frame for each whole hop.
            cepstra = cepstra[:, :-1]
        # Convolutions and pooling are several times faster with the channels
        # last in memory; of one channel, only such strides say so.
        return self.encoder(cepstra.unsqueeze(3).movedim(3, 1))

    def readout(self, features):
        """[batch, channels[-1], frames, bands] -> [batch, embedding_size]"""
        features = self.dropout(features)
        if self.lstm is None:
            return self.embedding(features.flatten(1))
        frames = features.transpose(1, 2).flatten(2)
        return (self.lstm(frames)[0] + frames).mean(dim=1)

    def embed(self, wavs):
        """[batch, samples] -> [batch, embedding_size]"""
        return self.readout(self.extract_features(wavs))

    def forward(self, wavs):
        """[batch, samples] -> logits, [batch, 2]"""
        return self.classifier(self.embed(wavs))
