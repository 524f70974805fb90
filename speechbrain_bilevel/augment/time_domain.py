"""Additive noise of a learned strength, and random crops."""

import torch

from speechbrain_bilevel.utils.errors import InputError


class LearnedNoise(torch.nn.Module):
    """White noise at a signal-to-noise ratio that is a parameter.

    The output can be differentiated by the ratio, so an upper level can learn
    how much noise the lower level should train with. Without an upper level, it
    would only learn to leave out the noise.

    Arguments
    ---------
    snr : float
        Initial signal-to-noise ratio, in dB.

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
        """Add noise to waveforms, [batch, samples], relative to their power."""
        power = waveforms.pow(2).mean(dim=-1, keepdim=True)
        noise = torch.randn_like(waveforms) * power.sqrt()
        return waveforms + noise * 10 ** (-self.snr / 20)


class RandomCrop(torch.nn.Module):
    """Cut a piece out of each waveform, at its own random place.

    Arguments
    ---------
    num_samples : int
        Length of the piece.

    Example
    -------
    >>> RandomCrop(3)(torch.arange(10.0).expand(4, 10)).diff(dim=1).unique()
    tensor([1.])
    """

    def __init__(self, num_samples):
        super().__init__()
        self.num_samples = num_samples

    def forward(self, waveforms):
        """[batch, time] -> [batch, num_samples]

        Raise an ``InputError`` if the waveforms are shorter.
        """
        spare = waveforms.shape[1] - self.num_samples
        if spare < 0:
            raise InputError(
                f"waveforms of {waveforms.shape[1]} samples hold no crop of "
                f"{self.num_samples}; in the recipe, train_samples must not be "
                "less than num_samples"
            )
        starts = torch.randint(
            spare + 1, (len(waveforms), 1), device=waveforms.device
        )
        places = torch.arange(self.num_samples, device=waveforms.device)
        return waveforms.gather(1, starts + places)
