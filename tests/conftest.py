"""Fixtures of all tests."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "ASVspoof2019"
sys.path[:0] = [str(RECIPE), str(RECIPE / "LA"), str(ROOT / "tests")]


@pytest.fixture
def shared():
    """The folder of real speech, scores and reference numbers."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference data in ../shared")
    return folder
