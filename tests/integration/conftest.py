"""Fixtures of the integration tests."""

import pytest
from toy_corpus import write_toy_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A toy corpus of a few seconds."""
    folder = tmp_path_factory.mktemp("toy") / "LA"
    write_toy_corpus(folder, clips_per_attack=4, bonafide=24)
    return folder
