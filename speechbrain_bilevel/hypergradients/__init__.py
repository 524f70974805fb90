"""Hypergradient strategies: how the upper level's gradient is computed."""

from speechbrain_bilevel.hypergradients.alternating import (
    Alternating,
    LaggedAlternating,
)
from speechbrain_bilevel.hypergradients.base import Hypergradient

__all__ = ["Alternating", "Hypergradient", "LaggedAlternating"]
