"""SIGKILL of any rank at random moments, also within a checkpoint's write: what is left is whole, and goes on.

    python -m tests.chaos.kills --kills 50 --ranks 2

A run of some seconds is started again and again from its own folder, each time with one rank killed and the others
after it, as torchrun ends them.  Every third is killed while a checkpoint is being written, the others at a moment
drawn between the start and the length of a whole run.  A run that comes to its end is compared with one that was never
killed, and another is begun.  After every kill:

- last.pt and best.pt load, are of each other, and are still there if they were before;
- metrics.jsonl has epochs 1, 2, … once each, and never fewer than before.
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
    """Kill ranks, and count what is left of their runs."""

    kills: int = 50
    """How many processes are killed."""

    ranks: int = 2
    """Ranks of a run."""

    seed: int = 0
    """Of the moments and of the ranks."""


def state_of(folder: Path) -> dict[str, int]:
    """How many checkpoints and lines are there, none of which may go."""
    found = {name: int((folder / name).exists()) for name in ("last.pt", "best.pt")}
    return {**found, "metrics.jsonl": len(metrics(folder))}


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(list(folder.glob(f".{name}.pt.unfinished-*")) for name in ("last", "best"))


def wait(one: Run, seconds: float | None) -> None:
    """Let it run for some seconds, or, where none are given, until a checkpoint is being written."""
    moment = time.monotonic() + (seconds or 0)
    one.until(lambda: writing(one.folder) if seconds is None else time.monotonic() > moment, 600)


def run(arguments: Arguments, work: Path) -> dict[str, Any]:
    """Kill as often as asked; the tally."""
    draw = random.Random(arguments.seed)
    release, ranks = work / "release", arguments.ranks
    render(release)
    Run.start(release, work / "first", "--epochs", "1", ranks=ranks).statuses()  # builds the index
    began = time.monotonic()
    whole = Run.start(release, work / "whole", *EPOCHS, ranks=ranks)
    if any(whole.statuses(600)):
        raise RuntimeError(f"the run that nobody kills ended with {whole.statuses()}: {whole.said()}")
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
        failed = [one.said(rank) for rank, process in enumerate(one.processes) if one.ended.get(process)]
        faults += [f"{folder.name}: a rank ended by itself: {said}" for said in failed]
        if not one.running:
            tally["ran to the end"] += 1
            if not before["last.pt"]:  # a machine that others use is sometimes faster
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
