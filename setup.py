"""Installs speechbrain_bilevel and its console script."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="speechbrain_bilevel",
    version="0.1.0",
    description="Bi-level training for SpeechBrain, and a spoofing "
    "countermeasure that shows what it is good for",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["speechbrain_bilevel*"]),
    package_data={
        "speechbrain_bilevel.hub": ["*.jinja"],
        "speechbrain_bilevel.metrics": ["*.jinja"],
    },
    install_requires=[
        "speechbrain>=1.1.2,<1.2",
        # torchaudio 2.11 is the newest and fails beside any other torch.
        "torch>=2.11,<2.12",
        "torchaudio>=2.11,<2.12",
        "hyperpyyaml",
        "soundfile",
        "numpy",
        # Of SpeechBrain, HyperPyYAML and torch, which use them too.
        "huggingface_hub",
        "pyyaml",
        "ruamel.yaml",
        "scipy",
        "tqdm",
        "jinja2",
    ],
    extras_require={
        "test": ["pytest", "tensorboard", "matplotlib", "transformers>=5"],
        "ssl": ["transformers>=5"],
        "tensorboard": ["tensorboard"],
        "plots": ["matplotlib"],
        "benchmarks": ["torchopt", "higher", "scikit-learn"],
    },
    entry_points={
        "console_scripts": ["speechbrain-bilevel=speechbrain_bilevel.cli:main"]
    },
)
