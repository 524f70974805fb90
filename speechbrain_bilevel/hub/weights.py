"""Weights of strangers, loaded without running or unpacking what is no tensor."""

import os
import zipfile

import torch

from speechbrain_bilevel.errors import InputError

_EXPECTED = "expected a state dict, as torch.save writes it"


def load_weights(path, called=None):
    """Loads a state dict.

    Arguments
    ---------
    path : str or Path
        As ``torch.save`` writes it.
    called : str, optional
        What messages call it; by default its path.

    Returns
    -------
    dict of str to torch.Tensor
        On the CPU.

    Raises
    ------
    InputError
        If the file is missing, damaged, packed, no state dict, or holds
        pickled code; none of it is run.

    Example
    -------
    >>> path = getfixture("tmp_path") / "network.ckpt"
    >>> torch.save(torch.nn.Linear(1, 2).state_dict(), path)
    >>> sorted(load_weights(path))
    ['bias', 'weight']
    """
    called = called or path
    try:
        _refuse_packed(path, called)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{called}: cannot be read ({error.strerror or error}); {_EXPECTED}"
        ) from error
    # Whatever can go wrong in a damaged or forged file.
    except Exception as error:
        # In further lines, torch tells how to run the code all the same.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{called}: holds no weights that can be loaded safely ({reason}); "
            f"{_EXPECTED}. Nothing in it was run"
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor)
        for name, value in weights.items()
    ):
        kind = type(weights).__name__
        raise InputError(f"{called}: holds another {kind}; {_EXPECTED}")
    return weights


def _refuse_packed(path, called):
    """torch.save packs nothing; what is packed may be huge when unpacked."""
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
    size = sum(file.file_size for file in files)
    if size > os.path.getsize(path) or any(
        file.compress_type != zipfile.ZIP_STORED for file in files
    ):
        raise InputError(f"{called}: is packed; {_EXPECTED}")
