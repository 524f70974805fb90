"""Networks: each takes waveforms, [batch, samples] at 16 kHz, and gives logits,
[batch, 2], of spoof and bona fide.

A network has ``num_samples``, the length that it was made for; ``embed`` and
``classifier``, which compose it; ``any_length``, true where whole recordings
can be scored; and ``sizes``, the arguments of its constructor as JSON, of which
``build`` makes it again.
"""

import functools
import importlib
import inspect
from collections.abc import Mapping

from speechbrain_bilevel.utils.errors import InputError


class _Networks(Mapping):
    """Network classes by name, imported when they are asked for."""

    _MODULES = {
        "AASIST": "aasist",
        "MelCNN": "mel_cnn",
        "SSLAASIST": "ssl",
        "V2": "v2",
    }

    def __getitem__(self, name):
        module = importlib.import_module(f"{__name__}.{self._MODULES[name]}")
        return getattr(module, name)

    def __iter__(self):
        return iter(self._MODULES)

    def __len__(self):
        return len(self._MODULES)


#: The class of each network, by name; only these can be exported.
NETWORKS = _Networks()


def build(name, sizes):
    """Build a network with new weights.

    Arguments
    ---------
    name : str
        A key of ``NETWORKS``.
    sizes : dict
        Arguments of its constructor; see ``arguments``.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    InputError
        If there is no such network.

    Example
    -------
    >>> network = build("MelCNN", {"channels": [4, 8], "num_samples": 16000})
    >>> build("MelCNN", network.sizes).sizes == network.sizes
    True
    """
    if name not in list(NETWORKS):
        raise InputError(
            f"network {name!r}: expected one of {', '.join(NETWORKS)}"
        )
    return NETWORKS[name](**sizes)


def arguments(cls):
    """The arguments of a network's constructor and their defaults.

    Those behind ``**graphs`` are the keyword-only ones of the base class. Where
    a network contains another one, given as an annotation, the default is a
    dict of that one's arguments.

    Example
    -------
    >>> arguments(NETWORKS["AASIST"])["stack_size"]
    32
    """
    found = {}
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            base = inspect.signature(cls.__base__).parameters.values()
            found |= {
                p.name: p.default for p in base if p.kind is p.KEYWORD_ONLY
            }
        elif parameter.annotation is not parameter.empty:
            found[parameter.name] = arguments(parameter.annotation)
        else:
            found[parameter.name] = parameter.default
    return found


def with_sizes(cls):
    """Let a network class keep its constructor's arguments as ``sizes``."""
    constructor = cls.__init__

    @functools.wraps(constructor)
    def __init__(self, *args, **kwargs):  # noqa: N807
        given = dict(zip(arguments(cls), args)) | kwargs
        self.sizes = {
            name: list(value) if isinstance(value, (tuple, list)) else value
            for name, value in (arguments(cls) | given).items()
        }
        constructor(self, *args, **kwargs)

    cls.__init__ = __init__
    return cls
