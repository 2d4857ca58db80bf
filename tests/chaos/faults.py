"""Faults other than kills: signals, full and read-only disks, and releases and checkpoints that change during a run.

    python -m tests.chaos.faults                       # all cases, a few minutes
    python -m tests.chaos.faults --only SIGTERM "a full disk"

After each fault the run either continues and ends bit-identical to an undisturbed one, or is refused in one sentence
and continues after the fix.  Disks are small file systems in memory; only root may mount them,
otherwise their cases are skipped.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dali_pipes.command import parse
from dali_pipes.files import write_whole
from tests.chaos.file_system import lacking
from tests.chaos.runs import SMALL, Process, Run, faults_of, metrics, render, workplace
from train.__main__ import main as train

EPOCHS = ("--epochs", "4")
WITHIN = 30  # seconds from a signal to the end, as schedulers allow


class Fault(AssertionError):
    """A run neither continued nor was refused as expected."""


class Skipped(Exception):
    """This machine cannot produce the fault; the message says why."""


@dataclass
class Workspace:
    """A folder with a release and the metrics of an undisturbed run."""

    work: Path
    release: Path

    def __post_init__(self) -> None:
        whole = self.start(self.work / "whole")
        if any(whole.statuses()):
            raise RuntimeError(whole.stderr())
        self.expected = metrics(whole.folder)

    def start(self, folder: Path, release: Path | None = None, main: Callable[[list[str]], object] = train) -> Run:
        """Start or resume a run; all runs share one index."""
        cache = "--index-cache", str(self.work / "index-cache")
        return Run.start(release or self.release, folder, *EPOCHS, *cache, main=main)

    def start_past_first_epoch(self, folder: Path, release: Path | None = None) -> Run:
        """Start a run, and wait for the end of its first epoch."""
        run = self.start(folder, release)
        if not run.until((folder / "metrics.jsonl").exists):
            raise Fault(f"the run did not reach its second epoch: {run.stderr()}")
        return run

    def resume(self, folder: Path, release: Path | None = None) -> str:
        """Resume a run to its end, and compare it with the undisturbed run."""
        run = self.start(folder, release)
        if any(run.statuses()):
            raise Fault(f"the run did not continue: {run.stderr()}")
        return self.check_end(folder)

    def check_end(self, folder: Path) -> str:
        """Raise Fault unless the run in `folder` has the metrics of the undisturbed one and its checkpoints load."""
        wrong = faults_of(folder)
        if metrics(folder) != self.expected:
            wrong.append(f"metrics {metrics(folder)}, expected {self.expected}")
        if wrong:
            raise Fault("; ".join(wrong))
        return "continued"


def refusal(run: Run, *, intact: bool = True) -> str:
    """The one sentence that the run ended with.  `intact`: its checkpoints must load."""
    statuses, stderr = run.statuses(), run.stderr().strip()
    if statuses != [2] or not stderr.startswith("error: ") or len(stderr.splitlines()) != 1:
        raise Fault(f"expected status 2 and one sentence, found {statuses} and {stderr!r}")
    wrong = faults_of(run.folder) if intact else []
    if wrong:
        raise Fault("; ".join(wrong))
    return f"refused: {stderr.removeprefix('error: ')}"


# --- Signals and crashes.


def signalled(number: signal.Signals, status: int) -> Callable[[Workspace], str]:
    """The case of a signal: the run saves and ends within 30 s, with the exit status of that signal."""

    def case(space: Workspace) -> str:
        folder = space.work / number.name
        run = space.start_past_first_epoch(folder)
        began = time.monotonic()
        os.kill(run.processes[0], number)
        statuses = run.statuses(WITHIN)
        if statuses != [status] or not run.stderr().startswith(f"stopped by {number.name}; the state is saved"):
            raise Fault(f"expected status {status} and a sentence, found {statuses} and {run.stderr()!r}")
        return f"status {status} after {time.monotonic() - began:.1f} s, {space.resume(folder)}"

    return case


def torchrun_restarts(space: Workspace) -> str:
    """torchrun restarts two ranks after one was killed."""
    folder = space.work / "torchrun"
    agent, ranks = _torchrun(space, folder, "--max-restarts", "1")
    os.kill(random.Random(0).choice(ranks), signal.SIGKILL)
    return _all_epochs(agent, folder)


def torchrun_killed(space: Workspace) -> str:
    """torchrun itself is killed: its ranks save and end, and the next start resumes."""
    folder = space.work / "killed"
    agent, ranks = _torchrun(space, folder)
    agent.kill()
    agent.wait()
    killed = time.monotonic()
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        if time.monotonic() > killed + WITHIN:
            raise Fault("its ranks continue to train")
        time.sleep(0.01)
    seconds = time.monotonic() - killed
    if len(metrics(folder)) == 4:
        raise Fault("its ranks trained to the end")
    again = _torchrun(space, folder, resume=True)[0]
    return f"its ranks ended after {seconds:.1f} s; {_all_epochs(again, folder)}"


def _torchrun(
    space: Workspace, folder: Path, *options: str, resume: bool = False
) -> tuple[subprocess.Popen[str], list[int]]:
    """Start torchrun with two ranks, and wait for the end of their first epoch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, "-m", "train"]
    command += [
        "--release",
        str(space.release),
        "--out",
        str(folder),
        *SMALL,
        *EPOCHS,
        *(["--resume"] if resume else []),
    ]
    agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while agent.poll() is None and not (folder / "metrics.jsonl").exists():
        time.sleep(0.01)
    return agent, [int(rank) for rank in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]


def _all_epochs(agent: subprocess.Popen[str], folder: Path) -> str:
    """Wait for the end, and check that no epoch was lost or repeated."""
    stderr = agent.communicate(timeout=300)[1]
    if agent.returncode:
        raise Fault(f"torchrun ended with {agent.returncode}: {stderr[-500:]}")
    wrong = faults_of(folder)
    if [line["epoch"] for line in metrics(folder)] != [1, 2, 3, 4]:
        wrong.append(f"metrics.jsonl has {metrics(folder)}")
    if wrong:
        raise Fault("; ".join(wrong))
    return "continued"


# --- Disks.


@contextmanager
def disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a small file system at `path`."""
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped(f"mount: {getattr(error, 'stderr', error)}".strip()) from None


def full_disk(space: Workspace) -> str:
    """The disk of the run folder fills up."""
    with disk(space.work / "small", "400m") as small:
        run, filler = space.start_past_first_epoch(small / "run"), small / "filler"
        with filler.open("wb", buffering=0) as file:
            while run.running:
                with suppress(OSError):
                    while True:
                        file.write(bytes(1 << 20))
                time.sleep(0.01)  # also fill the space that the run frees
        refused = refusal(run)
        filler.unlink()
        return f"{refused}; then {space.resume(small / 'run')}"


def read_only_from_the_start(space: Workspace) -> str:
    """The run folder is on a read-only disk."""
    with disk(space.work / "never", "10m") as never:
        _mount("-o", "remount,ro", str(never))
        return refusal(space.start(never / "run"))


def read_only_on_the_way(space: Workspace) -> str:
    """The disk of the run folder becomes read-only, as after an I/O error."""
    with disk(space.work / "ro", "400m") as lost:
        run = space.start_past_first_epoch(lost / "run")
        while run.running:
            try:
                _mount("-o", "remount,ro", str(lost))
                break
            except Skipped:  # busy while a file is being written
                time.sleep(0.002)
        refused = refusal(run)
        _mount("-o", "remount,rw", str(lost))
        return f"{refused}; then {space.resume(lost / 'run')}"


def without_locks(space: Workspace) -> str:
    """The file system has no locks, hard links or fsync of folders; a second run is refused, a killed one resumed."""
    folder, begin = space.work / "lacking", partial(space.start, main=lacking(train))
    run = begin(folder)
    if not run.until((folder / "metrics.jsonl").exists):
        raise Fault(f"the run did not reach its second epoch: {run.stderr()}")
    refused = refusal(begin(folder))
    if f"in use by process {run.processes[0]} on {socket.gethostname()}" not in refused:
        raise Fault(f"a second run was {refused}")
    run.kill(signal.SIGKILL, run.processes[0])
    again = begin(folder)
    if any(again.statuses()):
        raise Fault(f"the run did not continue: {again.stderr()}")
    return f"a second run was {refused}; after SIGKILL it {space.check_end(folder)}"


def two_writers(space: Workspace) -> str:
    """Two processes replace one file all the time, and are killed: it is always whole, and nothing stays behind."""
    path, draw, kills = space.work / "two writers" / "file", random.Random(0), 40
    path.parent.mkdir()
    texts = {str(writer): f"{writer}".encode() * 300_000 for writer in range(2)}

    def write(arguments: list[str]) -> None:
        while True:
            write_whole(path, lambda file: file.write(texts[arguments[0]]))

    writers = {name: Process.start(write, [name]) for name in texts}
    for _ in range(kills):
        time.sleep(draw.uniform(0, 0.05))
        name = draw.choice(list(writers))
        writers[name].kill()
        if path.exists() and path.read_bytes() not in texts.values():
            raise Fault("the file is torn")
        writers[name] = Process.start(write, [name])
    for writer in writers.values():
        writer.kill()
    write_whole(path, lambda file: file.write(b"last"))
    if [each.name for each in path.parent.iterdir()] != ["file"] or path.read_bytes() != b"last":
        raise Fault(f"stale files: {[each.name for each in path.parent.iterdir()]}")
    return f"continued: {kills} kills, none left a torn or a stale file"


# --- The release.


def replaced_release(space: Workspace) -> str:
    """The training archives are replaced; the run continues to read those that it opened."""
    release, folder = _copy(space.release, space.work / "replaced"), space.work / "replaced run"
    render(space.work / "other", seed=1)
    run = space.start_past_first_epoch(folder, release)
    for name in ("TS_KS.zip", "TL_KS_LINE.zip"):
        (space.work / "other" / name).replace(release / name)
    if any(run.statuses()):
        raise Fault(run.stderr())
    ended = space.check_end(folder)
    return f"{ended}; resumed it is {refusal(space.start(folder, release))}"


def release_cut_short(space: Workspace) -> str:
    """The archive of training images is truncated to half in place."""
    release, folder = _copy(space.release, space.work / "cut"), space.work / "cut run"
    run = space.start_past_first_epoch(folder, release)
    images = release / "TS_KS.zip"
    os.truncate(images, images.stat().st_size // 2)
    refused = refusal(run)
    shutil.copy(space.release / "TS_KS.zip", images)
    return f"{refused}; then {space.resume(folder, release)}"


def _copy(release: Path, to: Path) -> Path:
    shutil.copytree(release, to)
    return to


# --- Checkpoints.


def truncated(name: str) -> Callable[[Workspace], str]:
    """The case of a checkpoint that is cut in half; once it is restored, the run continues."""

    def case(space: Workspace) -> str:
        folder = _stopped(space, f"cut {name}")
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(data[: len(data) // 2])
        refused = refusal(space.start(folder), intact=False)
        (folder / name).write_bytes(data)
        return f"{refused}; then {space.resume(folder)}"

    return case


def foreign_last(space: Workspace) -> str:
    """last.pt is replaced by a copy of best.pt."""
    folder = _stopped(space, "foreign")
    data = (folder / "last.pt").read_bytes()
    (folder / "last.pt").unlink()
    shutil.copy(folder / "best.pt", folder / "last.pt")
    refused = refusal(space.start(folder), intact=False)
    (folder / "last.pt").write_bytes(data)
    return f"{refused}; then {space.resume(folder)}"


def _stopped(space: Workspace, name: str) -> Path:
    """A run folder of a run that was stopped in its second epoch or later."""
    run = space.start_past_first_epoch(space.work / name)
    os.kill(run.processes[0], signal.SIGTERM)
    run.statuses(WITHIN)
    return run.folder


CASES: dict[str, Callable[[Workspace], str]] = {
    "SIGTERM": signalled(signal.SIGTERM, 143),
    "SIGUSR1": signalled(signal.SIGUSR1, 75),
    "SIGINT": signalled(signal.SIGINT, 130),
    "SIGHUP": signalled(signal.SIGHUP, 129),
    "a crash under torchrun --max-restarts": torchrun_restarts,
    "torchrun killed": torchrun_killed,
    "a full disk": full_disk,
    "a read-only run folder": read_only_from_the_start,
    "a disk that becomes read-only": read_only_on_the_way,
    "no locks, hard links or folder fsync": without_locks,
    "two writers of one file": two_writers,
    "the release replaced": replaced_release,
    "the release cut short": release_cut_short,
    "last.pt cut short": truncated("last.pt"),
    "best.pt cut short": truncated("best.pt"),
    "a foreign last.pt": foreign_last,
}


@dataclass(frozen=True)
class Arguments:
    """Disturb runs, and report how each one ended."""

    only: tuple[str, ...] = ()
    """Names of cases. Default: all."""

    release: Path | None = None
    """A small rendered release. Default: a new one."""


def main(argv: list[str]) -> None:
    """Print one line per case, then one JSON object; exits with 1 if a case failed."""
    arguments = parse(Arguments, argv, module="tests.chaos.faults", description=__doc__)
    outcomes: dict[str, str] = {}
    with workplace(arguments.release) as (folder, release):
        space, work = Workspace(folder, release), str(folder)
        for name in arguments.only or CASES:
            try:
                outcomes[name] = CASES[name](space)
            except Skipped as reason:
                outcomes[name] = f"skipped: {reason}"
            except (Fault, TimeoutError) as fault:
                outcomes[name] = f"FAULT: {fault}"
            print(f"{name}: {outcomes[name].replace(work, '')}", flush=True)
    print(json.dumps(outcomes, ensure_ascii=False).replace(work, ""))
    raise SystemExit(1 if any(outcome.startswith("FAULT") for outcome in outcomes.values()) else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
