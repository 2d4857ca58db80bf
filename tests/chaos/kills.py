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
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_pipes.command import parse
from model import checkpoint
from tests.chaos.runs import Run, faults_of, metrics, render

EPOCHS = ("--epochs", "5")


@dataclass(frozen=True)
class Arguments:
    """Kill ranks, and check what remains of their runs."""

    kills: int = 50
    """Number of kills."""

    ranks: int = 2
    """Number of ranks."""

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


def run(arguments: Arguments, work: Path) -> dict[str, Any]:
    """Kill as often as requested; returns the tally."""
    draw = random.Random(arguments.seed)
    release, ranks = work / "release", arguments.ranks
    render(release)
    Run.start(release, work / "first", "--epochs", "1", ranks=ranks).statuses()  # builds the index
    began = time.monotonic()
    whole = Run.start(release, work / "whole", *EPOCHS, ranks=ranks)
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
        began, one = time.monotonic(), Run.start(release, folder, *EPOCHS, ranks=ranks)
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
    with tempfile.TemporaryDirectory() as work:
        tally = run(arguments, Path(work))
    for name, value in tally.items():
        print(f"{name}: {value}")
    print(json.dumps(tally))
    raise SystemExit(1 if tally["faults"] else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
