"""Networks: waveforms, [batch, samples] at 16 kHz, -> logits, [batch, 2].

A network has ``num_samples``, the length that it was made for; ``embed`` and
``classifier``, which compose it, as ``extract_features`` (the front end) and
``readout`` compose ``embed``; ``any_length``, true if it takes others; and
``sizes``, its constructor's arguments as JSON, for ``build``.
"""

import functools
import importlib
import inspect
from collections.abc import Mapping


class _Networks(Mapping):
    """Network classes by name, imported on first use."""

    def __getitem__(self, name):
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        return getattr(module, name)

    def __iter__(self):
        return iter(_MODULES)

    def __len__(self):
        return len(_MODULES)


_MODULES = {
    "AASIST": "aasist",
    "CepstralGMM": "cepstral_gmm",
    "LCNN": "lcnn",
    "MelCNN": "mel_cnn",
    "RawGATST": "rawgat",
    "RawNet2": "rawnet2",
    "SSLAASIST": "ssl",
    "V2": "v2",
}
#: The class of each network, by name. Only these can be exported.
NETWORKS = _Networks()


def build(name, sizes):
    """Build a network with new weights, by its name in ``NETWORKS``.

    ``sizes`` are the arguments of its constructor.
    """
    return NETWORKS[name](**sizes)


def check_samples(network, wavs):
    """Refuse waveforms, [batch, samples], that a network does not take.

    Without ``any_length`` those of another length than ``num_samples``, and
    otherwise those shorter than ``min_samples``.
    """
    name, samples = type(network).__name__, wavs.shape[1]
    if not network.any_length and samples != network.num_samples:
        raise ValueError(
            f"{name} was built for {network.num_samples} samples, got "
            f"{samples}: cut or tile with dataio.audio.fit_length"
        )
    if network.any_length and samples < network.min_samples:
        raise ValueError(
            f"{name} needs {network.min_samples} samples at least, got "
            f"{samples}: tile with dataio.audio.fit_length"
        )


def arguments(cls):
    """Return the arguments of a network's constructor and their defaults.

    ``**name`` stands for the keyword-only arguments of the base class; the
    default of an argument that is annotated by a class is a dict of its own.
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
    """Make a network class store its constructor's arguments as ``sizes``."""
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
