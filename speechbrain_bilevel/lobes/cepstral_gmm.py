"""The baselines of ASVspoof 2019: Gaussian mixtures on cepstra."""

import torch

from speechbrain_bilevel.lobes import with_sizes
from speechbrain_bilevel.nnet.cepstra import CQCC, LFCC
from speechbrain_bilevel.nnet.gmm import GaussianMixtures


@with_sizes
class CepstralGMM(torch.nn.Module):
    """A mixture of Gaussians for spoof and one for bona fide cepstra.

    The logits are the mean log-likelihoods of a frame, so that their difference
    is the log-likelihood ratio that the challenge's baselines have as score.
    Train it with ``nnet.gmm.EM`` and ``nnet.losses.NegativeLogLikelihood``.
    123,904 parameters with the default sizes.

    Arguments
    ---------
    num_samples : int
        Input length in training, at 16 kHz. Others work, too.
    features : str
        "lfcc", the baseline B02; or "cqcc", B01.
    num_components : int
        Gaussians of each mixture.

    Example
    -------
    >>> network = CepstralGMM(num_samples=4000, num_components=8)
    >>> network(torch.randn(2, 4000)).shape
    torch.Size([2, 2])
    """

    any_length = True

    def __init__(self, num_samples=64600, features="lfcc", num_components=512):
        super().__init__()
        if features not in ("lfcc", "cqcc"):
            raise ValueError(f"features: {features!r}; expected lfcc or cqcc")
        self.num_samples = num_samples
        self.front_end = LFCC() if features == "lfcc" else CQCC()
        self.mixtures = GaussianMixtures(
            2, num_components, size=60 if features == "lfcc" else 90
        )
        self.classifier = torch.nn.Identity()

    def extract_features(self, wavs):
        """[batch, samples] -> [batch, frames, 60 (LFCC) or 90 (CQCC)]"""
        return self.front_end(wavs)

    def readout(self, features):
        """[batch, frames, 60 or 90] -> log-likelihoods, [batch, 2]"""
        return self.mixtures(features)

    def embed(self, wavs):
        """[batch, samples] -> log-likelihoods, [batch, 2]"""
        return self.readout(self.extract_features(wavs))

    def forward(self, wavs):
        """[batch, samples] -> logits, [batch, 2]"""
        return self.classifier(self.embed(wavs))
