"""A few of the trials of experiments/torture; see docs/reliability.md."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "experiments" / "torture" / "run.py"


def test_all_that_is_tried_holds(tmp_path):
    ended = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "work", "--quick"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    rows = dict(re.findall(r"\| ([\w ]+) \| (\d+) \|", ended.stdout))
    assert int(rows["bad input"]) > 40
    # Fewer on a slow machine, where more commands take over a second.
    assert int(rows["all"]) > 60
