"""Hypergradient strategies: how the upper level's gradient is computed."""

from speechbrain_bilevel.hypergradients.alternating import (
    Alternating,
    LaggedAlternating,
)
from speechbrain_bilevel.hypergradients.base import (
    Hypergradient,
    StatefulHypergradient,
)
from speechbrain_bilevel.hypergradients.baselines import MLDG, SAM
from speechbrain_bilevel.hypergradients.implicit import CGAID, SOBA, NeumannAID
from speechbrain_bilevel.hypergradients.meta_learning import (
    IMAML,
    MAML,
    MetaSGD,
    ProtoMAML,
    Reptile,
)
from speechbrain_bilevel.hypergradients.penalty import BOME, F2SA
from speechbrain_bilevel.hypergradients.unrolled import (
    SAMA,
    OneStepUnrolled,
    TruncatedUnrolled,
)

__all__ = [
    "BOME",
    "CGAID",
    "F2SA",
    "IMAML",
    "MAML",
    "MLDG",
    "SAM",
    "SAMA",
    "SOBA",
    "Alternating",
    "Hypergradient",
    "LaggedAlternating",
    "MetaSGD",
    "NeumannAID",
    "OneStepUnrolled",
    "ProtoMAML",
    "Reptile",
    "StatefulHypergradient",
    "TruncatedUnrolled",
]
