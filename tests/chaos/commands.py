"""SIGKILL of every command that writes a file, at random moments: the file is absent, as before, or complete.

    python -m tests.chaos.commands --kills 100

Each command is started repeatedly with the same output.  A third of the kills come while a file is being written, the
others at a random time.  After every kill:

- each output equals that of an undisturbed command, or does not exist if it did not before;
- no process of the command runs.

After half of the kills, and at the end, the command is started again to its end: its outputs equal the undisturbed
ones, and the folder has no other file.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from dali_pipes import __main__ as inspect
from dali_pipes.command import parse
from tests.chaos.runs import Process, Run, workplace
from train import compare, evaluate, export, predict, promotion
from train.__main__ import main as train

# Commands import these where they need them; a forked one has them already.
for late in ("torch._dynamo", "train.deploy.formats", "train.deploy.card", "train.deploy.verdict"):
    import_module(late)

GRACE = 5  # seconds in which the processes of a killed command must end


class Command(NamedTuple):
    """A command, and its arguments for a run folder, a release and a folder for its outputs."""

    main: Callable[[list[str]], object]
    arguments: Callable[[Path, Path, Path], Sequence[object]]
    reads_checkpoint: bool = True
    writes: bool = True


def _release(run: Path, release: Path) -> list[object]:
    return ["--release", release, "--device", "cpu", "--index-cache", run.parent / "cache"]


COMMANDS = {
    "predict": Command(
        predict.main,
        lambda run, release, out: [
            *("--checkpoint", run, "--images", release / "VS_KS.zip", "--polylines", release / "VL_KS_LINE.zip"),
            *("--out", out / "heights.csv", "--device", "cpu"),
        ],
    ),
    "export": Command(
        export.main,
        lambda run, release, out: [
            *("--checkpoint", run, *_release(run, release), "--format", "torch", "--out", out / "heights.pt2"),
        ],
    ),
    "evaluate": Command(
        evaluate.main, lambda run, release, out: ["--checkpoint", run, *_release(run, release), "--out", out]
    ),
    "inspect": Command(
        inspect.main, lambda run, release, out: [release, "--html", out / "page.html"], reads_checkpoint=False
    ),
    "compare": Command(
        compare.main, lambda run, release, out: [run, run, "--out", out / "figure.svg"], reads_checkpoint=False
    ),
    "promote": Command(
        promotion.main,
        lambda run, release, out: ["--old", run, "--new", run, *_release(run, release)],
        writes=False,
    ),
    "resume": Command(train, lambda run, release, out: ["--resume", run, *_release(run, release)], writes=False),
}


@dataclass(frozen=True)
class Arguments:
    """Kill commands, and compare what they leave."""

    kills: int = 100
    """Number of kills over all commands."""

    only: tuple[str, ...] = ()
    """Names of commands. Default: all that write a file."""

    release: Path | None = None
    """A small rendered release. Default: a new one."""

    seed: int = 0
    """Seed of the times."""


CHANGES = re.compile(rb"\d{4}-\d\d-\d\d[ T][\d:.]+|out-[a-z]+-\d|[mp][0-9a-f]{10}")
"""What differs from one page or figure to the next: times, the folder, and the names that matplotlib draws."""


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file, without `CHANGES`."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    return {name: CHANGES.sub(b"", data) if name.endswith((".html", ".svg")) else data for name, data in found.items()}


def unfinished(folder: Path) -> bool:
    """Whether a file is being written."""
    return any(".unfinished-" in name for name in os.listdir(folder))


@dataclass
class Disturbed:
    """A command with one output folder, the outputs of an undisturbed one, and how long that took."""

    name: str
    inputs: tuple[Path, Path]
    out: Path
    whole: dict[str, bytes]
    seconds: float

    @classmethod
    def of(cls, name: str, run: Path, release: Path, work: Path) -> Disturbed:
        """Run the command twice, undisturbed: outputs that differ by themselves could not be compared."""
        each = []
        for number in range(2):
            out = work / f"out-{name}-{number}"
            out.mkdir()
            began = time.monotonic()
            process = cls(name, (run, release), out, {}, 0).start()
            if process.status():
                raise RuntimeError(f"{name} ended with {process.status()}: {process.stderr()}")
            each.append((contents(out), time.monotonic() - began))
        if each[0][0] != each[1][0]:
            raise RuntimeError(f"{name} writes other bytes each time")
        out = work / f"out-{name}-2"
        out.mkdir()
        return cls(name, (run, release), out, each[1][0], each[1][1])

    def start(self) -> Process:
        """Start the command."""
        command = COMMANDS[self.name]
        return Process.start(command.main, command.arguments(*self.inputs, self.out))

    def kill(self, draw: random.Random, within_a_write: bool) -> tuple[list[str], str]:
        """Kill it once; returns the faults, and when that was."""
        before, process = contents(self.out), self.start()
        deadline = time.monotonic() + (60 if within_a_write else draw.uniform(0, self.seconds))
        while process.ended is None and time.monotonic() < deadline:
            if within_a_write and unfinished(self.out):
                break
            time.sleep(0.0005)
        if process.ended is not None:
            return [], "ended before"
        process.kill()
        faults = []
        while process.orphans() and time.monotonic() < deadline + GRACE:
            time.sleep(0.01)
        if orphans := process.orphans():
            faults.append(f"{self.name}: {len(orphans)} orphans")
        after = contents(self.out)
        faults += [f"{self.name}: {name} is lost" for name in before if name not in after]
        faults += [f"{self.name}: {name} is torn" for name, data in after.items() if data != self.whole.get(name)]
        return faults, "within a write" if unfinished(self.out) else "at another time"

    def finish(self) -> list[str]:
        """Start it again, to its end; returns the faults."""
        process = self.start()
        if process.status():
            return [f"{self.name}: status {process.status()}, {process.stderr()!r}"]
        faults = [f"{self.name}: other outputs after a kill"] if contents(self.out) != self.whole else []
        stale = set(os.listdir(self.out)) - set(self.whole)
        return faults + [f"{self.name}: {name} is stale" for name in stale]


def main(argv: list[str]) -> None:
    """Print the tally, then one JSON object; exits with 1 if anything was lost, torn, stale or left running."""
    arguments = parse(Arguments, argv, module="tests.chaos.commands", description=__doc__)
    draw, tally, faults = random.Random(arguments.seed), Counter(kills=0), list[str]()
    with workplace(arguments.release) as (work, release):
        run = Run.start(release, work / "run", "--epochs", "1", "--index-cache", str(work / "cache"))
        if any(run.statuses(600)):
            raise RuntimeError(run.stderr())
        names = arguments.only or [each for each, command in COMMANDS.items() if command.writes]
        disturbed = [Disturbed.of(each, work / "run", release, work) for each in names]
        while tally["kills"] < arguments.kills:
            for each in disturbed:
                wrong, when = each.kill(draw, within_a_write=draw.random() < 1 / 3)
                killed = int(when != "ended before")
                tally.update({"kills": killed, f"of {each.name}": killed, when: 1})
                faults += wrong + (each.finish() if draw.random() < 0.5 else [])
                print(f"\r{dict(tally)}, {len(faults)} faults", end="", file=sys.stderr, flush=True)
        for each in disturbed:
            faults += each.finish()
    print(json.dumps({**tally, "faults": faults}))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
