"""A synthetic corpus in the layout of ASVspoof2019 LA, to try things out."""

from toy_corpus.corpus import write_toy_corpus

__all__ = ["write_toy_corpus"]
