"""Fixtures of all tests."""

import logging
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


@pytest.fixture
def run(capsys):
    """Run the command; returns its exit code, output and errors."""

    from speechbrain_bilevel import cli

    def run(*arguments):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        return code or 0, *capsys.readouterr()

    logger = logging.getLogger("speechbrain")
    level = logger.level
    yield run
    logger.setLevel(level)
