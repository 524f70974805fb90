"""Bi-level optimization for any SpeechBrain Brain, and spoofing detection."""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "BilevelMixin": "core",
    "LevelBatch": "dataio.batch",
    "SpoofDetector": "inference.detector",
    "bilevel_loader_kwargs": "dataio.sampling",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name):
    # Imported on first use: torch and SpeechBrain take seconds to import.
    if name in _HOMES:
        home = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        return getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
