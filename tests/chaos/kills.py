"""SIGKILL of any rank at random moments, also within a checkpoint's write: what is left is whole, and goes on.

    python -m tests.chaos.kills --kills 50 --ranks 2

A run of a few seconds is started again and again from its own folder, each time with one rank killed at a moment
drawn between its start and the length of a whole run, and the others after it, as torchrun ends them.  A run that
comes to its end is compared with one that was never killed, and another is begun.  After every kill:

- last.pt and best.pt load, if they were there before they still are;
- metrics.jsonl has epochs 1, 2, … once each, and no fewer than last.pt knows when the run goes on.

Processes are forked from this one, which has imported all: a start takes a tenth of what it takes from a shell.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.render import render_release
from dali_pipes.command import parse
from model import checkpoint
from train.__main__ import main as train

SMALL = ["--preset", "demo", "--data.size", "32", "--batch-size", "16", "--epochs", "3"]
SMALL += ["--runtime.precision", "fp32", "--device", "cpu", "--cache", "none", "--checkpoint-every", "2"]
TIMINGS = ("seconds", "samples_per_s", "data_wait")


@dataclass(frozen=True)
class Arguments:
    """Kill ranks, and count what is left of their runs."""

    kills: int = 50
    """How many processes are killed."""

    ranks: int = 2
    """Ranks of a run."""

    seed: int = 0
    """Of the moments and of the ranks."""


def start(release: Path, folder: Path, ranks: int) -> list[int]:
    """Fork the ranks of a run that goes on in `folder`; their ids, rank 0 first."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    return [_fork(release, folder, rank, ranks, port) for rank in range(ranks)]


def _fork(release: Path, folder: Path, rank: int, ranks: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(os.open(f"{folder}.{rank}.stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        train(["--release", str(release), "--out", str(folder), "--resume", *SMALL])
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def wait(processes: list[int], seconds: float) -> set[int]:
    """Those that still run after `seconds`; the others ended well."""
    until, left = time.monotonic() + seconds, set(processes)
    while left and time.monotonic() < until:
        for process in list(left):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended and status:
                raise RuntimeError(f"a rank ended by itself, with status {os.waitstatus_to_exitcode(status)}")
            left -= {ended}
        time.sleep(0.005)
    return left


def kill(running: set[int], first: int) -> None:
    """SIGKILL the process `first`, and the others a moment later."""
    os.kill(first, signal.SIGKILL)
    time.sleep(0.05)
    for process in running - {first}:
        os.kill(process, signal.SIGKILL)
    for process in running:
        os.waitpid(process, 0)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their timings; none if it is not there."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def check(folder: Path, before: Counter[str]) -> list[str]:
    """What is wrong with what a kill left; `before`: which checkpoints were there."""
    faults = []
    for name in ("best.pt", "last.pt"):
        if (folder / name).exists():
            try:
                checkpoint.load(folder / name)
            except checkpoint.CheckpointError as error:
                faults.append(str(error))
            before[name] += 1
        elif before[name]:
            faults.append(f"{name} is gone")
    epochs = [line["epoch"] for line in metrics(folder)]
    if epochs != list(range(1, len(epochs) + 1)):
        faults.append(f"metrics.jsonl has epochs {epochs}")
    return faults


def run(arguments: Arguments, work: Path) -> dict[str, Any]:
    """Kill as often as asked; the tally."""
    draw = random.Random(arguments.seed)
    release = work / "release"
    render_release(release, train=64, val=17, scenes=6, seed=3)
    began = time.monotonic()
    if wait(start(release, work / "whole", arguments.ranks), 600):
        raise RuntimeError("the run that nobody kills did not end")
    length, expected = time.monotonic() - began, metrics(work / "whole")
    tally: Counter[str] = Counter()
    faults: list[str] = []
    attempt, before = 0, Counter[str]()
    while tally["kills"] < arguments.kills or before:
        folder = work / f"run{attempt}"
        processes = start(release, folder, arguments.ranks)
        last = tally["kills"] >= arguments.kills
        running = wait(processes, 600 if last else draw.uniform(0, length))
        if not running:
            tally["ran to the end"] += 1
            if metrics(folder) != expected:
                faults.append(f"{folder.name}: metrics {metrics(folder)}, expected {expected}")
            attempt, before = attempt + 1, Counter[str]()
            continue
        writing = list(folder.glob(".*.unfinished"))
        first = draw.choice(sorted(running))
        kill(running, first)
        tally["kills"] += 1
        tally[f"of rank {processes.index(first)}"] += 1
        tally["within a write"] += bool(writing or list(folder.glob(".*.unfinished")))
        tally["within an epoch"] += (folder / "last.pt").exists() and checkpoint.load(folder / "last.pt")["step"] > 0
        faults += [f"{folder.name}: {fault}" for fault in check(folder, before)]
        before["begun"] += 1
        print(f"\r{dict(tally)}, {len(faults)} faults", end="", file=sys.stderr, flush=True)
    return {**tally, "faults": faults}


def main(argv: list[str]) -> None:
    """Print the tally, and as the last line one JSON object; exits with 1 if anything was lost."""
    arguments = parse(Arguments, argv, module="tests.chaos.kills", description=__doc__)
    with tempfile.TemporaryDirectory() as work:
        tally = run(arguments, Path(work))
    for name, value in tally.items():
        print(f"{name}: {value}")
    print(json.dumps(tally))
    raise SystemExit(1 if tally["faults"] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
