"""SIGKILL of torchrun at random moments, from its first import to its last epoch: its ranks end, and nothing is lost.

    python -m tests.chaos.orphans --kills 10

All processes that torchrun started are found by a variable of their environment.  After each kill they must have ended
within `LIMIT` seconds, and the run folder must be whole.  The next start resumes it; the last one runs to its end.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dali_pipes.command import parse
from tests.chaos.runs import SMALL, faults_of, metrics, workplace
from train.run.parent import GRACE

EPOCHS = 3
LIMIT = GRACE + 10  # seconds; a rank that waits for others in C++ ends after GRACE


@dataclass(frozen=True)
class Arguments:
    """Kill torchrun, and look for processes that outlive it."""

    kills: int = 10
    """Number of kills."""

    ranks: int = 2
    """Ranks of each start."""

    release: Path | None = None
    """A small rendered release. Default: a new one."""

    seed: int = 0
    """Seed of the times."""


class Job:
    """torchrun with its ranks."""

    def __init__(self, ranks: int, release: Path, folder: Path) -> None:
        self._mark = f"CHAOS_JOB={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "-m", "train"]
        command += ["--release", str(release), "--out", str(folder), "--resume", *SMALL, "--epochs", str(EPOCHS)]
        self.torchrun = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, name: value, "OMP_NUM_THREADS": "1"},
        )

    def processes(self) -> Iterator[int]:
        """All processes of the job that run, without torchrun itself."""
        for process in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            try:
                environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
                state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
            except OSError:  # it has just ended
                continue
            if self._mark.encode() in environment and state not in "ZX" and process != self.torchrun.pid:
                yield process

    def kill(self) -> tuple[int, float]:
        """Kill torchrun; returns how many processes it left, and the seconds until the last one had ended."""
        left, killed = len(list(self.processes())), time.monotonic()
        self.torchrun.kill()
        self.torchrun.wait()
        while next(self.processes(), None) and time.monotonic() < killed + LIMIT:
            time.sleep(0.02)
        return left, time.monotonic() - killed


def owners(folder: Path) -> list[str]:
    """The leases of a run folder, which each start replaces."""
    return [path.name for path in folder.glob(".lease-*")]


def main(argv: list[str]) -> None:
    """Print one line per kill, then one JSON object; exits with 1 if a process stayed or something was lost."""
    arguments = parse(Arguments, argv, module="tests.chaos.orphans", description=__doc__)
    draw, faults, longest, orphaned, importing = random.Random(arguments.seed), list[str](), 0.0, 0, 0
    with workplace(arguments.release) as (work, release):
        folder, began = work / "run", time.monotonic()
        whole = Job(arguments.ranks, release, work / "whole")
        if whole.torchrun.wait():
            raise RuntimeError(f"torchrun ended with {whole.torchrun.returncode}")
        length = time.monotonic() - began
        for kill in range(arguments.kills):
            before, leases = len(metrics(folder)), owners(folder)
            job = Job(arguments.ranks, release, folder)
            time.sleep(draw.uniform(0, 0.7 * length))  # most of it is spent on imports
            importing += owners(folder) == leases
            left, seconds = job.kill()
            orphaned, longest = orphaned + left, max(longest, seconds)
            faults += [f"kill {kill}: process {process} still runs" for process in job.processes()]
            faults += [f"kill {kill}: {fault}" for fault in faults_of(folder)] if folder.exists() else []
            faults += ["metrics.jsonl became shorter"] if len(metrics(folder)) < before else []
            print(f"kill {kill + 1}: {left} processes ended after {seconds:.1f} s", flush=True)
        if Job(arguments.ranks, release, folder).torchrun.wait():
            faults.append("the last start failed")
        epochs, stale = [line["epoch"] for line in metrics(folder)], [path.name for path in folder.glob(".*")]
        faults += [f"epochs {epochs}"] if epochs != list(range(1, EPOCHS + 1)) else []
        faults += [f"{name} is stale" for name in stale]
    tally = {"kills": arguments.kills, "before the run began": importing, "processes left": orphaned}
    print(json.dumps({**tally, "longest_s": round(longest, 1), "faults": faults}))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
