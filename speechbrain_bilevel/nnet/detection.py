"""From waveforms to what a network takes, and from its logits to a verdict."""

import math

import torch
from torch.nn.functional import logsigmoid

from speechbrain_bilevel.dataio.audio import fit_length
from speechbrain_bilevel.nnet.losses import detection_score


class Windows(torch.nn.Module):
    """Brings waveforms to the one length that a network takes.

    Arguments
    ---------
    samples : int
        That length; longer waveforms are cut, shorter ones repeated.

    Example
    -------
    >>> windows = Windows(3)
    >>> windows(torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([1, 0.5]))
    tensor([[1, 2, 3],
            [5, 6, 5]])
    """

    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def forward(self, wavs, wav_lens):
        """Cuts or repeats.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, time]
        wav_lens : torch.Tensor
            [batch], relative to the longest.

        Returns
        -------
        torch.Tensor
            [batch, samples]
        """
        lengths = (wav_lens.cpu() * wavs.shape[1]).round().int().clamp(min=1)
        return torch.stack(
            [
                fit_length(wav[:length], self.samples)
                for wav, length in zip(wavs, lengths)
            ]
        )


class Decision(torch.nn.Module):
    """Logits -> score and log posteriors.

    Arguments
    ---------
    as_published, bonafide_logit : bool
        See ``nnet.losses.detection_score``.
    calibration : dict of str to float, optional
        "weight" and "bias" that make a log-likelihood ratio (natural
        logarithm, of bona fide against spoof) of the score; see
        ``metrics.calibration``.

    Example
    -------
    >>> decide = Decision(calibration={"weight": 0.5, "bias": -1.0})
    >>> log_posteriors, score = decide(torch.tensor([[-1.0, 3.0]]))
    >>> score, decide.border
    (tensor([1.], dtype=torch.float64), 0.0)
    >>> log_posteriors.exp()
    tensor([[0.2689, 0.7311]])
    """

    def __init__(
        self, as_published=False, calibration=None, bonafide_logit=False
    ):
        super().__init__()
        if calibration is not None:
            calibration = _checked(calibration)
        self.as_published = as_published
        self.bonafide_logit = bonafide_logit
        self.calibration = calibration

    @property
    def border(self):
        """The score above which a trial is taken for bona fide."""
        return 0.5 if self.as_published and self.calibration is None else 0.0

    def forward(self, logits):
        """Decides.

        Arguments
        ---------
        logits : torch.Tensor
            [batch, 2], of spoof and bona fide.

        Returns
        -------
        log_posteriors : torch.Tensor
            [batch, 2], single precision; if calibrated, of classes that are
            equally frequent.
        score : torch.Tensor
            [batch], double precision; higher is more bona fide.
        """
        score = detection_score(logits, self.as_published, self.bonafide_logit)
        if self.calibration is not None:
            weight, bias = self.calibration["weight"], self.calibration["bias"]
            score = weight * score + bias
        elif not self.bonafide_logit:
            return logits.float().log_softmax(dim=-1), score
        both = torch.stack([-score, score], dim=-1)
        return logsigmoid(both).float(), score


def _checked(calibration):
    """The two numbers, refused if they would turn the order of the scores."""
    values = {name: calibration.get(name) for name in ("weight", "bias")}
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            break
        if not math.isfinite(value):
            break
    else:
        if values["weight"] > 0 and set(calibration) == set(values):
            return values
    raise ValueError(
        "calibration: expected a positive weight and a bias, both finite"
    )


class Embedding(torch.nn.Module):
    """A network's embedding, as ``EncoderClassifier`` calls it.

    Arguments
    ---------
    network : torch.nn.Module
        With a method ``embed``.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, windows, wav_lens=None):
        """[batch, samples] -> [batch, embedding]; lengths are 1 by now."""
        return self.network.embed(windows)


class Classifier(torch.nn.Module):
    """A network's log posteriors, as ``EncoderClassifier`` calls it.

    Arguments
    ---------
    network : torch.nn.Module
        With a module ``classifier``, embedding -> logits.
    as_published, calibration, bonafide_logit
        See ``Decision``.
    """

    def __init__(
        self,
        network,
        as_published=False,
        calibration=None,
        bonafide_logit=False,
    ):
        super().__init__()
        self.network = network
        self.decision = Decision(as_published, calibration, bonafide_logit)

    def forward(self, embedding):
        """[batch, embedding] -> log posteriors, [batch, 2]"""
        return self.decision(self.network.classifier(embedding))[0]
