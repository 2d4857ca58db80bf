"""SIGKILL of a rank at random moments, also during a checkpoint write: the files stay intact, and the run resumes.

    python -m tests.chaos.kills --kills 50 --ranks 2

A run of a few seconds is started repeatedly in the same folder.  Each time one rank is killed, and then the others, as
torchrun ends them.  Every third kill comes while a checkpoint is being written, the others at a random time.  A run
that reaches its end is compared with one that was never killed, and another run is started.  After every kill:

- last.pt and best.pt load, match each other, and still exist if they did before;
- metrics.jsonl has epochs 1, 2, … once each, and not fewer than before.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dali_pipes.command import parse
from model import checkpoint
from tests.chaos.file_system import lacking
from tests.chaos.runs import Run, faults_of, metrics, workplace
from train.__main__ import main as train


@dataclass(frozen=True)
class Arguments:
    """Kill ranks, and check what remains of their runs."""

    kills: int = 50
    """Number of kills."""

    ranks: int = 2
    """Number of ranks."""

    epochs: int = 5
    """Epochs of each run."""

    lacking: bool = False
    """Let the file system have no locks, no hard links and no fsync of folders."""

    release: Path | None = None
    """A small rendered release. Default: a new one."""

    seed: int = 0
    """Seed of the times and of the ranks that are killed."""


def state_of(folder: Path) -> dict[str, int]:
    """The number of checkpoints and metric lines, which must never shrink."""
    counts = {name: int((folder / name).exists()) for name in ("last.pt", "best.pt")}
    return {**counts, "metrics.jsonl": len(metrics(folder))}


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(list(folder.glob(f".{name}.pt.unfinished-*")) for name in ("last", "best"))


def wait(one: Run, seconds: float | None) -> None:
    """Wait for some seconds, or, if None, until a checkpoint is being written."""
    deadline = time.monotonic() + (seconds or 0)
    one.until(lambda: writing(one.folder) if seconds is None else time.monotonic() > deadline, 600)


def run(arguments: Arguments, work: Path, release: Path) -> dict[str, Any]:
    """Kill as often as requested; returns the tally."""
    draw = random.Random(arguments.seed)
    epochs, main = ("--epochs", str(arguments.epochs)), lacking(train) if arguments.lacking else train
    begin = partial(Run.start, release, ranks=arguments.ranks, main=main)
    began = time.monotonic()
    whole = begin(work / "whole", *epochs)
    if any(whole.statuses(600)):
        raise RuntimeError(f"the undisturbed run ended with {whole.statuses()}: {whole.stderr()}")
    length, expected = time.monotonic() - began, metrics(work / "whole")
    tally: Counter[str] = Counter(kills=0)
    faults: list[str] = []
    attempt = 0
    while True:
        folder = work / f"run{attempt}"
        before = state_of(folder)
        last = tally["kills"] >= arguments.kills
        began, one = time.monotonic(), begin(folder, *epochs)
        if last:
            one.statuses(600)
        else:
            wait(one, None if tally["kills"] % 3 == 2 else draw.uniform(0, length))
        failed = [one.stderr(rank) for rank, process in enumerate(one.processes) if one.ended.get(process)]
        faults += [f"{folder.name}: a rank ended by itself: {stderr}" for stderr in failed]
        if not one.running:
            tally["ran to the end"] += 1
            if not before["last.pt"]:  # a shared machine may be faster this time
                length = min(length, time.monotonic() - began)
            if metrics(folder) != expected:
                faults.append(f"{folder.name}: metrics {metrics(folder)}, expected {expected}")
            faults += [f"{folder.name}: {fault}" for fault in faults_of(folder)]
            if last:
                return {**tally, "faults": faults}
            attempt += 1
            continue
        first = draw.choice(one.running)
        one.kill(signal.SIGKILL, first)
        tally["kills"] += 1
        tally[f"of rank {one.processes.index(first)}"] += 1
        tally["within a write"] += writing(folder)
        tally["within an epoch"] += (folder / "last.pt").exists() and checkpoint.load(folder / "last.pt")["step"] > 0
        faults += [f"{folder.name}: {fault}" for fault in faults_of(folder)]
        faults += [f"{folder.name}: {name} lost" for name, count in state_of(folder).items() if count < before[name]]
        print(f"\r{dict(tally)}, {len(faults)} faults", end="", file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    """Print the tally, then one JSON object; exits with 1 if anything was lost."""
    arguments = parse(Arguments, argv, module="tests.chaos.kills", description=__doc__)
    with workplace(arguments.release) as (work, release):
        tally = run(arguments, work, release)
    for name, value in tally.items():
        print(f"{name}: {value}")
    print(json.dumps(tally))
    raise SystemExit(1 if tally["faults"] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
