"""Weights of strangers, loaded without running what is no tensor."""

import io
import os
import pickletools
import zipfile

import torch

from speechbrain_bilevel.utils.errors import InputError, printable

_EXPECTED = "expected a state dict, as torch.save writes it"


# Some 20 000 tensors.
_LONGEST_PICKLE = 1 << 22


# What torch.save calls in a state dict; and "torch FloatStorage" and the like.
_GLOBALS = (
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
)


# What its pickle consists of beside them.
_OPCODES = set(
    "PROTO STOP GLOBAL REDUCE BUILD BINPERSID MARK "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET SETITEM SETITEMS "
    "EMPTY_DICT EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINUNICODE".split()
)


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
        checked = _checked(path, called)
        weights = torch.load(checked, map_location="cpu", weights_only=True)
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
            f"{called}: holds no weights that can be loaded safely "
            f"({printable(reason, 300)}); {_EXPECTED}. Nothing in it was run"
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor)
        for name, value in weights.items()
    ):
        kind = type(weights).__name__
        raise InputError(f"{called}: holds another {kind}; {_EXPECTED}")
    # One number can be repeated to any size, and views can overlap.
    size = sum(value.nbytes for value in weights.values())
    if size > 4 * os.path.getsize(path):
        raise InputError(
            f"{called}: its tensors would take {size} bytes, far more than the "
            f"file; {_EXPECTED}"
        )
    return weights


def _checked(path, called):
    """The archive as torch gets to see it: written anew of what was checked.

    Were it to read the file itself, it could find other parts in a forged one.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as new:
        files = archive.infolist()
        size = sum(file.file_size for file in files)
        # torch.save packs nothing; what is packed may be huge when unpacked.
        if size > os.path.getsize(path) or any(
            file.compress_type != zipfile.ZIP_STORED for file in files
        ):
            raise InputError(f"{called}: is packed; {_EXPECTED}")
        # torch finds them whatever the case of their letters.
        if len({file.filename.lower() for file in files}) < len(files):
            raise InputError(f"{called}: has parts of one name; {_EXPECTED}")
        for file in files:
            content = archive.read(file)
            if file.filename.lower().endswith(".pkl"):
                _check_pickle(content, called)
            new.writestr(file.filename, content)
    copy.seek(0)
    return copy


def _check_pickle(content, called):
    """Refuses what ``weights_only`` would still call or build: bytes of any
    length, and tuples within each other that take for ever to hash."""
    if len(content) > _LONGEST_PICKLE:
        raise InputError(
            f"{called}: its pickle has {len(content)} bytes; {_EXPECTED}"
        )
    tuples, latest = set(), ""
    for opcode, argument, _ in pickletools.genops(content):
        name, problem = opcode.name, None
        if name not in _OPCODES:
            problem = f"the opcode {name}"
        elif name == "GLOBAL" and not _is_of_tensors(argument):
            problem = printable(argument.replace(" ", "."), 100)
        elif name.endswith("GET") and argument in tuples:
            problem = "a tuple more than once"
        if problem:
            raise InputError(
                f"{called}: holds no weights that can be loaded safely (its "
                f"pickle has {problem}); {_EXPECTED}. Nothing in it was run"
            )
        if not name.endswith("PUT"):
            latest = name
        elif latest.startswith("TUPLE"):
            tuples.add(argument)


def _is_of_tensors(name):
    module, _, kind = name.partition(" ")
    is_storage = module == "torch" and kind.endswith("Storage")
    return name in _GLOBALS or (is_storage and kind.isalnum())
