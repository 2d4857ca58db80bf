"""Small runs for the scripts of this folder to disturb, and checks that a run folder must pass at any time.

Runs and other commands are forked from a process that has imported everything, so that they start quickly.  That
process must have no threads, since a fork would lose them; so it computes nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from model import checkpoint
from train.__main__ import main as train

# Commands import these where they need them; a forked one has them already.
for late in ("train.engine.run", "train.deploy.height_model", "train.report.page", "train.report.figures"):
    import_module(late)

SIZE = 32
SMALL = ["--preset", "demo", "--data.size", str(SIZE), "--batch-size", "16", "--model.drop-path", "0"]
SMALL += ["--runtime.precision", "fp32", "--device", "cpu", "--cache", "none", "--checkpoint-every", "2"]
TIMINGS = ("seconds", "samples_per_s", "data_wait")


def render(release: Path, seed: int = 0) -> None:
    """Render a release of 96 + 17 tiles, which gives five steps per epoch."""
    sizes = ["--train", "96", "--val", "17", "--scenes", "8", "--seed", str(seed)]
    subprocess.run([sys.executable, "-m", "bench.render", str(release), *sizes], check=True, capture_output=True)


@contextmanager
def workplace(release: Path | None) -> Iterator[tuple[Path, Path]]:
    """An empty folder, and a release: `release`, or a new one."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if release is None:
            render(work / "release")
        yield work, release or work / "release"


@dataclass
class Process:
    """A command in a process of its own, which leads a session, so that what it starts can be found."""

    number: int
    _stderr: int
    """A file in memory, since the disk may be full."""
    _ended: int | None = None

    @classmethod
    def start(
        cls,
        main: Callable[[list[str]], object],
        arguments: Sequence[object],
        environment: Mapping[str, Any] | None = None,
    ) -> Process:
        """Fork a process that calls `main` as a command does."""
        stderr = os.memfd_create("stderr")
        return cls(_fork(main, [str(each) for each in arguments], environment or {}, stderr), stderr)

    @property
    def ended(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self._ended is None:
            ended, status = os.waitpid(self.number, os.WNOHANG)
            if ended:
                self._ended = os.waitstatus_to_exitcode(status)
        return self._ended

    def status(self, seconds: float = 120) -> int:
        """Wait for the exit status.  Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while self.ended is None:
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"still running after {seconds} s: {self.stderr()}")
            time.sleep(0.001)
        return self.ended

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        with suppress(ProcessLookupError):
            os.kill(self.number, signal.SIGKILL)
        while self.ended is None:
            time.sleep(0.001)

    def stderr(self) -> str:
        """What it wrote to stderr."""
        return os.pread(self._stderr, 1 << 20, 0).decode()

    def orphans(self) -> list[int]:
        """The processes of its session that still run."""
        return [each for each in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _session(each) == self.number]


def _session(process: int) -> int:
    """The session of a process that runs; 0 if it does not."""
    try:
        state, _, _, session = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[:4]
    except OSError:
        return 0
    return 0 if state in "ZX" else int(session)


@dataclass
class Run:
    """A run that was started: its processes, with rank 0 first, and the exit statuses of those that ended."""

    folder: Path
    processes: list[int]
    stderrs: list[int]
    """Files in memory, since the disk may be full."""
    ended: dict[int, int] = field(default_factory=dict)
    """Process → exit status, negative for a signal."""

    @classmethod
    def start(
        cls,
        release: Path,
        folder: Path,
        *flags: str,
        ranks: int = 1,
        main: Callable[[list[str]], object] = train,
    ) -> Run:
        """Fork the ranks of a run that resumes in `folder`, or starts there."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = ["--release", str(release), "--out", str(folder), "--resume", *SMALL, *flags]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        each: list[dict[str, Any]] = [{}]
        if ranks > 1:
            each = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
        stderrs = [os.memfd_create("stderr") for _ in each]
        return cls(folder, [_fork(main, arguments, *own) for own in zip(each, stderrs, strict=True)], stderrs)

    @property
    def running(self) -> list[int]:
        """The processes that have not ended."""
        for process in self.processes:
            if process not in self.ended:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    self.ended[process] = os.waitstatus_to_exitcode(status)
        return [process for process in self.processes if process not in self.ended]

    def until(self, condition: Callable[[], object], seconds: float = 120) -> bool:
        """Wait until `condition`; False if all processes ended or the time is over."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.001)
        return False

    def statuses(self, seconds: float = 120) -> list[int]:
        """Wait for all processes, and return their exit statuses.  Raises TimeoutError."""
        self.until(lambda: False, seconds)
        if self.running:
            raise TimeoutError(f"still running after {seconds} s: {self.folder}")
        return [self.ended[process] for process in self.processes]

    def kill(self, number: int, first: int) -> None:
        """Send a signal to the process `first`, which may have just ended, and shortly after SIGKILL to the others."""
        _signal(first, number)
        time.sleep(0.05)
        for process in self.running:
            _signal(process, 9)
        self.statuses()

    def stderr(self, rank: int = 0) -> str:
        """The stderr of a rank."""
        return os.pread(self.stderrs[rank], 1 << 20, 0).decode()


def _signal(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def _fork(
    main: Callable[[list[str]], object], arguments: list[str], environment: Mapping[str, Any], stderr: int
) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(stderr, 2)
        os.setsid()
        os.environ |= {name: str(value) for name, value in environment.items()}
        main(arguments)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:  # a traceback instead of one sentence
        print(f"traceback: {error!r}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without timings; none if it does not exist."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def faults_of(folder: Path) -> list[str]:
    """What is wrong with a run folder, at any time.

    Each existing checkpoint must load, metrics.jsonl must have each epoch once, and best.pt must be the best epoch in
    last.pt, unless last.pt itself has that epoch's weights.
    """
    faults = []
    checkpoints = {}
    for name in ("last.pt", "best.pt"):
        if (folder / name).exists():
            try:
                checkpoints[name] = checkpoint.load(folder / name)
            except checkpoint.CheckpointError as error:
                faults.append(str(error))
    epochs = [line["epoch"] for line in metrics(folder)]
    if epochs != list(range(1, len(epochs) + 1)):
        faults.append(f"metrics.jsonl has epochs {epochs}")
    last = checkpoints.get("last.pt")
    if last and last["history"]:
        rmse, stored = (best["rmse"] if best else None for best in (checkpoints.get("best.pt"), last["best"]))
        if last["best_rmse"] not in (rmse, stored):
            faults.append(f"best.pt has RMSE {rmse}, last.pt says {last['best_rmse']}")
        if not 0 <= len(last["history"]) - len(epochs) <= 1:
            faults.append(f"last.pt knows {len(last['history'])} epochs, metrics.jsonl {len(epochs)}")
    return faults
