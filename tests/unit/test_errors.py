"""How a program ends on what is no bug: one line, and an exit code."""

import signal
import subprocess
import sys

import pytest

START = """
import sys
from speechbrain_bilevel.utils.errors import InputError, exit_on_input_error
with exit_on_input_error():
"""


def run(lines, stdout=subprocess.PIPE):
    return subprocess.run(
        [sys.executable, "-c", START + lines],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "lines, code, message",
    [
        (
            "    raise InputError('no such file')",
            2,
            "error: no such file\n",
        ),
        (
            "    open('/nowhere/at/all')",
            2,
            "error: /nowhere/at/all: No such file or directory; nothing more "
            "was written\n",
        ),
        ("    raise KeyboardInterrupt", 130, "\ninterrupted\n"),
        ("    print('all is well')", 0, ""),
    ],
)
def test_one_line_and_an_exit_code(lines, code, message):
    ended = run(lines)
    assert (ended.returncode, ended.stderr) == (code, message)


def test_a_long_message_keeps_its_start_and_its_end():
    ended = run("    raise InputError('start' + 'x' * 9999 + 'end')")
    assert ended.stderr.startswith("error: startxxx")
    assert ended.stderr.endswith("xxxend\n")
    assert len(ended.stderr) == 1001


def test_a_full_disk_as_standard_output():
    with open("/dev/full", "w") as full:
        ended = run("    print('x')", stdout=full)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: standard output, or a file: No space left on device; nothing "
        "more was written\n"
    )


def test_output_that_nobody_reads():
    process = subprocess.Popen(
        [sys.executable, "-c", START + "    print('x\\n' * 100_000)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 128 + signal.SIGPIPE


def test_an_error_in_a_process_that_reads_for_this_one():
    ended = run(
        "    from torch.utils.data import DataLoader\n"
        "    class Clips(list):\n"
        "        def __getitem__(self, n):\n"
        "            raise InputError('clip.wav: empty;\\nexpected a sound')\n"
        "    next(iter(DataLoader(Clips([1]), num_workers=1)))\n"
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: clip.wav: empty;\nexpected a sound\n"


def test_an_interrupt_that_an_import_swallowed():
    ended = run(
        "    import os, signal\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        input()\n"
        "    except BaseException:\n"
        "        raise RecursionError from None\n"
    )
    assert (ended.returncode, ended.stderr) == (130, "\ninterrupted\n")


def test_a_bug_is_shown_in_full():
    ended = run("    1 / 0\n")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "ZeroDivisionError" in ended.stderr
