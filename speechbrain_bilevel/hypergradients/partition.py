"""Split the parameters of a Brain into a lower and an upper level."""

from speechbrain_bilevel.utils.errors import InputError


class Partition:
    """Which parameters form the upper level; all others form the lower level.

    Arguments
    ---------
    upper : str or list of str
        Dotted names of modules or parameters below the Brain's ``modules``,
        e.g. ``["network.mel_encoder"]``.

    Example
    -------
    >>> import torch
    >>> modules = torch.nn.ModuleDict({"net": torch.nn.Linear(2, 1)})
    >>> lower, upper = Partition(["net.bias"]).split(modules)
    >>> list(lower), list(upper)
    (['net.weight'], ['net.bias'])
    """

    def __init__(self, upper):
        upper = [upper] if isinstance(upper, str) else upper
        self.upper = [plain_name(name) for name in upper]

    def is_upper(self, name):
        """Whether the parameter or buffer with this dotted name is upper."""
        return any(
            name == prefix or name.startswith(prefix + ".")
            for prefix in self.upper
        )

    def split(self, modules):
        """Return the trainable parameters of each level, two dicts by name.

        ``modules``, usually the Brain's, may be wrapped for DDP. Raise an
        ``InputError`` if a name of ``upper`` matches nothing, or nothing is
        left for the lower level.
        """
        trainable = {
            plain_name(name): parameter
            for name, parameter in modules.named_parameters()
            if parameter.requires_grad
        }
        for prefix in self.upper:
            if not any(map(Partition([prefix]).is_upper, trainable)):
                parents = sorted({n.rpartition(".")[0] for n in trainable})
                raise InputError(
                    f"upper: '{prefix}' names no trainable parameter; choose "
                    f"among {', '.join(parents)} or a parent of these"
                )
        upper = {n: p for n, p in trainable.items() if self.is_upper(n)}
        lower = {n: p for n, p in trainable.items() if n not in upper}
        if not lower:
            raise InputError(
                f"upper: {self.upper} covers every trainable parameter; the "
                "lower level needs some"
            )
        return lower, upper


def plain_name(name):
    """Remove the wrappers of DDP and ``torch.compile`` from a parameter's name.

    Example
    -------
    >>> plain_name("network.module.gru.weight_ih_l0")
    'network.gru.weight_ih_l0'
    """
    parts = name.split(".")
    return ".".join(p for p in parts if p not in ("module", "_orig_mod"))
