"""Run a command in a process that is killed, has no disk, or is not alone."""

import atexit
import contextlib
import gc
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

# Every message, from its "error:" on.
LONGEST_MESSAGE = 1000
# Seconds for a command, and for the processes that it started after its end.
_PATIENCE, _ORPHANS = 200, 15
_WRITES = (
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"),
    *("os.link", "os.symlink", "shutil.rmtree"),
)


@dataclass
class Command:
    """A command and the files that it should write.

    ``call`` runs it, within ``folder``; ``outputs`` are relative to that.
    ``given`` is a folder whose content is there before.
    """

    name: str
    call: callable
    outputs: list
    given: Path | None = None
    #: Of the outputs, those that grow line by line.
    logs: tuple = ()
    #: Whether an instant without the earlier files is allowed.
    may_lose: bool = False


@dataclass
class Table:
    """Counts of what was tried and what held, and what did not."""

    rows: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    def add(self, row, what, problem=None):
        """Count a trial; ``problem`` says why it failed."""
        tried, held = self.rows.get(row, (0, 0))
        self.rows[row] = tried + 1, held + (problem is None)
        if problem is not None:
            self.failures.append(f"{row}: {what}: {problem}")
            print(f"FAILED {self.failures[-1]}", flush=True)

    def lines(self):
        """The rows of a table in Markdown."""
        tried, held = map(sum, zip(*self.rows.values()))
        rows = [f"| {row} | {t} | {h} |" for row, (t, h) in self.rows.items()]
        head = "| what | tried | held |\n|---|---|---|"
        return "\n".join([head, *rows, f"| all | {tried} | {held} |"])


# ------------------------------------------------------------------- a process
class Process:
    """A call in a process of its own, forked, as importing torch takes long."""

    def __init__(self, call, folder, before=None, stdout=None):
        sys.stdout.flush()
        ends, starts = zip(os.pipe(), os.pipe())
        self.pid = os.fork()
        if self.pid == 0:
            _run(call, folder, before, stdout, starts)
        for start in starts:
            os.close(start)
        self.texts = ["", ""]
        self.readers = [
            threading.Thread(target=self._read, args=(n, end))
            for n, end in enumerate(ends)
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, number, end):
        with open(end, errors="replace") as file:
            self.texts[number] = file.read()

    def kill(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self):
        """Return the exit code, of a signal -N, and what was printed."""
        timer = threading.Timer(_PATIENCE, self.kill, [signal.SIGKILL])
        timer.start()
        _, status = os.waitpid(self.pid, 0)
        timer.cancel()
        for reader in self.readers:
            # Until the last process that it started has ended.
            reader.join(_ORPHANS)
            if reader.is_alive():
                return "none", "processes are left behind"
        return os.waitstatus_to_exitcode(status), self.texts[1]


def _run(call, folder, before, stdout, starts):
    code = 1
    try:
        if stdout is not None:
            os.dup2(os.open(stdout, os.O_WRONLY), 1)
        else:
            os.dup2(starts[0], 1)
        os.dup2(starts[1], 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        if before is not None:
            before()
        code = call() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            # What an ordinary process does at its end.
            gc.collect()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


# ---------------------------------------------------------------- one by one
class Trials:
    """Tries a command in a folder; compares with what an unbroken run wrote."""

    def __init__(self, command, work, table, seed):
        self.command, self.table = command, table
        self.folder = work / "trial"
        self.random = random.Random(f"{seed} {command.name}")
        self.reset()
        start = time.time()
        self.steps = self.count_steps()
        self.seconds = time.time() - start
        self.expected = self.contents()
        if missing := set(command.outputs) - set(self.expected):
            raise SystemExit(f"{command.name}: did not write {missing}")

    def reset(self):
        """Make the folder as it is before the command."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.command.given:
            shutil.copytree(self.command.given, self.folder)
        else:
            self.folder.mkdir(parents=True)
        self.before = self.contents()

    def contents(self):
        """The bytes of each output that exists."""
        return {
            name: (self.folder / name).read_bytes()
            for name in self.command.outputs
            if (self.folder / name).is_file()
        }

    def process(self, **options):
        return Process(self.command.call, self.folder, **options)

    def count_steps(self):
        """Run it unbroken; return at how many places it could be killed."""
        counter = self.folder.with_name("steps")
        code, text = self.process(
            before=lambda: _kill_at(None, self.folder, counter)
        ).wait()
        if code:
            raise SystemExit(f"{self.command.name}: exit code {code}\n{text}")
        return int(counter.read_text())

    # --- what is tried
    def kill_at_steps(self, most):
        """Kill it before each file is opened, renamed or removed."""
        steps = range(1, self.steps + 1)
        if self.steps > most:
            steps = sorted(self.random.sample(steps, most))
        for step in steps:
            self.reset()
            killed = self.process(
                before=lambda n=step: _kill_at(n, self.folder)
            )
            code, text = killed.wait()
            problem = None if code == -signal.SIGKILL else f"{code}: {text}"
            self.judge("killed at a write", f"step {step}", problem)

    def kill_at_random(self, times):
        """Kill, terminate and interrupt it, in turn, at random times."""
        signals = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
        for n in range(times):
            number = signals[n % 3]
            self.reset()
            process = self.process()
            delay = self.random.uniform(0, self.seconds)
            time.sleep(delay)
            process.kill(number)
            code, text = process.wait()
            problem = None
            if code not in (0, 130 if number == signal.SIGINT else -number):
                problem = f"exit code {code}: {text[-300:]}"
            what = f"{number.name} after {delay:.2f} s"
            self.judge("killed at a random time", what, problem)

    def fill_disk(self, sizes):
        """Let no file grow beyond a size."""
        for size in sizes:
            self.reset()
            code, text = self.process(before=lambda n=size: _limit(n)).wait()
            problem = refusal(code, text) if code else None
            self.judge("full disk", f"{size} bytes", problem)

    def fill_output(self):
        """Let standard output be a full disk."""
        self.reset()
        code, text = self.process(stdout="/dev/full").wait()
        problem = refusal(code, text) if code else None
        self.judge("full disk", "standard output", problem)

    def run_twice_at_once(self, times):
        """Start it twice, the second a little later."""
        for _ in range(times):
            self.reset()
            delay = self.random.uniform(0, self.seconds / 2)
            first = self.process()
            time.sleep(delay)
            ends = [self.process().wait(), first.wait()]
            problem = None
            if 0 not in {code for code, _ in ends}:
                problem = f"none succeeded: {ends}"
            for code, text in ends:
                problem = problem or (refusal(code, text) if code else None)
            self.judge("two at once", f"after {delay:.2f} s", problem)

    # --- what is found then
    def judge(self, row, what, problem):
        """Check what is there; run it again, and check the end."""
        problem = problem or self.state_problem(self.before)
        if problem is None:
            code, text = self.process().wait()
            # It may refuse to replace what is complete.
            if code not in (0, 2):
                problem = f"the next run: exit code {code}: {text[-500:]}"
            elif self.contents() != self.expected:
                problem = "the next run ends elsewhere: " + self.difference()
            elif rest := self.leftovers():
                problem = f"the next run leaves {rest}"
        self.table.add(row, f"{self.command.name}: {what}", problem)

    def state_problem(self, before):
        """What is there must be as before, or as after an unbroken run."""
        found = self.contents()
        for name in self.command.logs:
            log = found.pop(name, b"")
            if not self.expected[name].startswith(log):
                return f"{name} is no beginning of the unbroken run's"
        for name, content in found.items():
            if content not in (before.get(name), self.expected[name]):
                return f"{name} is neither the old nor the new one"
        # Of those that differ.
        news = [n for n in found if found[n] != before.get(n)]
        olds = [n for n in found if found[n] != self.expected[n]]
        if news and olds:
            return f"{news} are new and {olds} old"
        gone = set(before) - set(self.contents())
        return f"lost {gone}" if gone and not self.command.may_lose else None

    def difference(self):
        found = self.contents()
        names = [n for n in self.expected if found.get(n) != self.expected[n]]
        return ", ".join(names)

    def leftovers(self):
        """Temporary files and unfinished checkpoints.

        Not locks: they are empty, and one may be left by a kill just before
        the end, after which there is nothing to do.
        """
        pattern = re.compile(r"\..*\.tmp|unfinished.*|.*\.part\d+")
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if pattern.fullmatch(path.name)
        )


def refusal(code, text):
    """What is wrong with how a command refused, or None."""
    if code != 2:
        return f"exit code {code}: {text[-500:]}"
    if "Traceback" in text:
        return f"a traceback: {text[-500:]}"
    if "error: " not in text:
        return f"no message: {text[-500:]}"
    length = len(text[text.rindex("error: ") :])
    if length > LONGEST_MESSAGE:
        return f"a message of {length} characters"
    return None


def digest(folder):
    """The type and content of each file of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        if path.is_symlink():
            found[str(path)] = kind, os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = kind, content
        elif not path.is_dir():
            found[str(path)] = kind, None
    return found


def _limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _kill_at(step, folder, counter=None):
    """Kill this process before its n-th write to the folder; or count them."""
    count, start = 0, str(folder)

    def hook(event, args):
        nonlocal count
        if event == "open":
            is_write = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            is_write = event in _WRITES
        if not is_write or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(start):
            return
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    if counter is not None:
        atexit.register(lambda: counter.write_text(str(count)))
    sys.addaudithook(hook)
