"""Random crops of a batch."""

import torch


class RandomCrop(torch.nn.Module):
    """Cuts a piece out of each waveform, at a random place of its own.

    Arguments
    ---------
    samples : int
        Length of the piece.

    Example
    -------
    >>> RandomCrop(3)(torch.arange(10.0).expand(4, 10)).diff(dim=1).unique()
    tensor([1.])
    """

    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def forward(self, waveforms):
        """Cuts the pieces.

        Arguments
        ---------
        waveforms : torch.Tensor
            [batch, time], time at least ``samples``.

        Returns
        -------
        torch.Tensor
            [batch, samples]

        Raises
        ------
        ValueError
            If the waveforms are shorter.
        """
        spare = waveforms.shape[1] - self.samples
        if spare < 0:
            raise ValueError(
                f"waveforms of {waveforms.shape[1]} samples hold no crop of "
                f"{self.samples}"
            )
        starts = torch.randint(
            spare + 1, (len(waveforms), 1), device=waveforms.device
        )
        places = torch.arange(self.samples, device=waveforms.device)
        return waveforms.gather(1, starts + places)
