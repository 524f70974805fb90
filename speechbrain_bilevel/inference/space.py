"""A Space of the Hugging Face hub that serves a detector's page.

It needs no torch: network.onnx is run by ONNX Runtime. This package travels
along, so that the Space has the version that wrote it.
"""

from importlib.metadata import version
from pathlib import Path

from speechbrain_bilevel.inference.config import CONFIG, ONNX, SPACE
from speechbrain_bilevel.utils.errors import InputError

# Besides gradio, which the hub installs.
_PACKAGES = (
    *("av", "filelock", "fsspec", "huggingface_hub", "matplotlib", "numpy"),
    *("onnx", "onnxruntime", "pandas", "pyarrow", "scipy", "soundfile"),
    *("tqdm",),
)
_README = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
tags: [anti-spoofing, audio-deepfake-detection, speechbrain]
---

Drop a recording: bona fide or spoof? A hint, not a proof; the page says what it
cannot tell.
"""
_APP = '''\
"""The page of a detector of speechbrain_bilevel."""

from pathlib import Path

from speechbrain_bilevel.inference.page import launch_space

launch_space(Path(__file__).parent, {name!r})
'''


def space_files(name):
    """Return the texts of a Space's own files, by their names.

    ``name`` is the detector's. Raise an ``InputError`` if a package that the
    Space needs is not installed here, since its version is then unknown.
    """
    try:
        found = {package: version(package) for package in _PACKAGES}
        gradio = version("gradio")
    except ModuleNotFoundError as error:
        raise InputError(
            f"a Space needs {error.name}; install it by pip install "
            "'.[page,onnx]' in the clone"
        ) from error
    lines = [f"{package}=={number}\n" for package, number in found.items()]
    title = "".join(c if c.isalnum() or c in "-_. " else " " for c in name)
    return {
        "README.md": _README.format(title=f'"{title}"', gradio=gradio),
        "app.py": _APP.format(name=name),
        "requirements.txt": "".join(lines),
    }


def contents(folder, name):
    """Return the files of the Space of a pretrained folder by their names.

    These are paths, or bytes: a Space runs app.py, so it is not taken from a
    folder that may be a stranger's. Raise an ``InputError`` if the folder was
    written without ``--space``.
    """
    folder, package = Path(folder), Path(__file__).parents[1]
    if not (folder / SPACE).is_dir() or not (folder / ONNX).is_file():
        raise InputError(
            "no files for a Space in it; write a folder with them: "
            "speechbrain-bilevel export SOURCE OUT --space"
        )
    found = {key: text.encode() for key, text in space_files(name).items()}
    found |= {key: folder / key for key in (CONFIG, ONNX)}
    for path in package.rglob("*"):
        if path.suffix in (".py", ".jinja"):
            found[path.relative_to(package.parent).as_posix()] = path
    return found
