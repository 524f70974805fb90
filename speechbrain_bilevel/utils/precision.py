"""In which precision products are computed."""

import contextlib

import torch


def full_precision(tensor):
    """Switch autocast off on a tensor's device; the meta device has none.

    In half precision filtered speech is too coarse, and the range of a power
    spectrogram too large.
    """
    if tensor.is_meta:
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


@contextlib.contextmanager
def without_tf32():
    """Have NVIDIA GPUs multiply float32 as float32, a context or a decorator.

    Importing SpeechBrain switches TF32 on, in which products have three digits:
    well for training, but scores would differ from those of a CPU, and small
    differences be lost. Within, ``torch.backends.cudnn.flags`` and the older
    names of the same switches raise an error.

    Example
    -------
    >>> with without_tf32():
    ...     torch.backends.cuda.matmul.fp32_precision
    'ieee'
    """
    cudnn = torch.backends.cudnn
    places = torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, value in zip(places, before):
            place.fp32_precision = value
