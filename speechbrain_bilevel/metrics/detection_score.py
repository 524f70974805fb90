"""The score of a two-class countermeasure, from its logits."""

import numpy as np

#: What a score can be; see ``detection_score``.
SCORES = ("logit_difference", "softmax", "bonafide_logit")


def detection_score(logits, kind=SCORES[0]):
    """Return the score of each trial: higher means "more bona fide".

    Arguments
    ---------
    logits : array_like or torch.Tensor
        [batch, 2], for spoof (0) and bona fide (1), as in ``dataio.LABELS``.
    kind : str
        "logit_difference": bona fide logit minus spoof logit. "softmax": the
        softmax output for bona fide, as published with V2; the same ranking,
        but it saturates into ties near 1. "bonafide_logit": that logit alone,
        as published with AASIST; another ranking.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        [batch], double precision.

    Example
    -------
    >>> detection_score([[-1.0, 2.0]])
    array([3.])
    """
    # Not by isinstance, which would need torch.
    is_tensor = hasattr(logits, "double")
    logits = logits.double() if is_tensor else np.asarray(logits, np.float64)
    spoof, bonafide = logits[:, 0], logits[:, 1]
    if kind == "logit_difference":
        return bonafide - spoof
    if kind == "softmax" and is_tensor:
        return logits.softmax(dim=1)[:, 1]
    if kind == "softmax":
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares[:, 1] / shares.sum(axis=1)
    if kind == "bonafide_logit":
        return bonafide
    raise ValueError(f"score: {kind!r}; expected one of {', '.join(SCORES)}")
