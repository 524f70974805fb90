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
        is_list = isinstance(upper, (list, tuple))
        if not is_list or not all(isinstance(name, str) for name in upper):
            raise InputError(f"upper: {upper}; expected a list of names")
        self.upper = [plain_name(name) for name in upper]

    def is_upper(self, name):
        """Whether the parameter or buffer with this dotted name is upper."""
        return any(
            name == prefix or name.startswith(prefix + ".")
            for prefix in self.upper
        )

    def split(self, modules):
        """Return the parameters of each level, two dicts by name.

        ``modules``, usually the Brain's, may be wrapped for DDP. A parameter
        that is shared is upper if one of its names is. Raise an ``InputError``
        if a name of ``upper`` matches nothing, or nothing that requires a
        gradient is left for the lower level.
        """
        names = {}
        for name, parameter in modules.named_parameters(remove_duplicate=False):
            names.setdefault(parameter, []).append(plain_name(name))
        for prefix in self.upper:
            is_upper = Partition([prefix]).is_upper
            if not any(is_upper(n) for all_ in names.values() for n in all_):
                parents = {
                    n.rpartition(".")[0] or n for (n, *_) in names.values()
                }
                raise InputError(
                    f"upper: '{prefix}' names no parameter; choose among "
                    f"{', '.join(sorted(parents))} or a parent of these"
                )
        lower, upper = {}, {}
        for parameter, of_parameter in names.items():
            level = upper if any(map(self.is_upper, of_parameter)) else lower
            level[of_parameter[0]] = parameter
        if not any(parameter.requires_grad for parameter in lower.values()):
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
