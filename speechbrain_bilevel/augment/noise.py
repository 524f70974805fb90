"""Additive noise of a learned strength."""

import torch


class LearnedNoise(torch.nn.Module):
    """White noise at a signal-to-noise ratio that is a parameter.

    The waveform that comes out can be differentiated by the ratio, so an upper
    level can learn how much noise the lower one should train in. Without such a
    level it would only learn to leave the noise out.

    Arguments
    ---------
    snr : float
        Signal-to-noise ratio to begin with, in dB.

    Example
    -------
    >>> noise = LearnedNoise(snr=20.0)
    >>> clean = torch.ones(1, 100_000)
    >>> round((noise(clean) - clean).pow(2).mean().item(), 3)
    0.01
    """

    def __init__(self, snr=30.0):
        super().__init__()
        self.snr = torch.nn.Parameter(torch.tensor(float(snr)))

    def forward(self, waveforms):
        """Adds noise to each waveform, relative to its own power.

        Arguments
        ---------
        waveforms : torch.Tensor
            [batch, samples]

        Returns
        -------
        torch.Tensor
            [batch, samples]
        """
        power = waveforms.pow(2).mean(dim=-1, keepdim=True)
        noise = torch.randn_like(waveforms) * power.sqrt()
        return waveforms + noise * 10 ** (-self.snr / 20)
