"""Other values for parameters and buffers, for the time of one call."""

import torch
from torch.func import functional_call


class Substitution(torch.nn.Module):
    """Runs a function while a Brain's modules hold other tensors; nothing is
    written, so nothing has to be restored.

    Arguments
    ---------
    modules : torch.nn.ModuleDict
        The Brain's, wrapped for DDP or not.
    levels : dict of str to dict
        The parameters of each level, see ``Partition.split``.

    Example
    -------
    >>> net = torch.nn.ModuleDict({"layer": torch.nn.Linear(1, 1, bias=False)})
    >>> levels = {"lower": {"layer.weight": net["layer"].weight}}
    >>> substitution = Substitution(net, levels)
    >>> (name,) = substitution.names["lower"]
    >>> values = {name: torch.full((1, 1), 3.0)}
    >>> substitution.call(values, lambda: net["layer"](torch.ones(1)))
    tensor([3.])
    """

    def __init__(self, modules, levels):
        super().__init__()
        self.substituted = modules
        names = {id(p): name for name, p in self.named_parameters()}
        self.names = {
            level: [names[id(parameter)] for parameter in parameters.values()]
            for level, parameters in levels.items()
        }

    def call(self, values, function):
        """What ``function()`` returns with ``values``, a dict of name to
        tensor, in place."""
        if not values:
            return function()
        return functional_call(self, values, (function,))

    def forward(self, function):
        """Called with the values in place."""
        return function()
