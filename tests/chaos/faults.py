"""What befalls a run besides kills: signals, full and read-only disks, releases and checkpoints that change under it.

    python -m tests.chaos.faults                       # all, some minutes
    python -m tests.chaos.faults --only SIGTERM "a full disk"

After each fault the run either goes on and ends as an undisturbed one, to the bit, or it is refused in one sentence,
and goes on once what was wrong was put right.  Disks are small file systems in memory, which only root may mount;
without that right their cases are skipped.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dali_pipes.command import parse
from tests.chaos.runs import SMALL, Run, faults_of, metrics, render

EPOCHS = ("--epochs", "4")
WITHIN = 30  # seconds from a signal to the end, which is what schedulers grant


class Fault(AssertionError):
    """A run neither went on nor was refused as it must."""


class Skipped(Exception):
    """This machine does not let the fault be made; the message says why."""


@dataclass
class Ground:
    """Where runs are disturbed: a folder to work in, a release in it, and how an undisturbed run ends."""

    work: Path
    release: Path

    def __post_init__(self) -> None:
        whole = Run.start(self.release, self.work / "whole", *EPOCHS)
        if any(whole.statuses()):
            raise RuntimeError(whole.said())
        self.expected = metrics(whole.folder)

    def start(self, folder: Path, release: Path | None = None) -> Run:
        """Start or resume a run, whose index is kept in the folder of all."""
        return Run.start(release or self.release, folder, *EPOCHS, "--index-cache", str(self.work / "index-cache"))

    def under_way(self, folder: Path, release: Path | None = None) -> Run:
        """A run that is past its first epoch."""
        run = self.start(folder, release)
        if not run.until((folder / "metrics.jsonl").exists):
            raise Fault(f"it did not come to its second epoch: {run.said()}")
        return run

    def goes_on(self, folder: Path, release: Path | None = None) -> str:
        """Resume, and compare the end with that of the undisturbed run."""
        run = self.start(folder, release)
        if any(run.statuses()):
            raise Fault(f"it did not go on: {run.said()}")
        return self.ended_well(folder)

    def ended_well(self, folder: Path) -> str:
        """Raises Fault unless the run in `folder` has the metrics of the undisturbed one, and the checkpoints load."""
        wrong = faults_of(folder)
        if metrics(folder) != self.expected:
            wrong.append(f"metrics {metrics(folder)}, expected {self.expected}")
        if wrong:
            raise Fault("; ".join(wrong))
        return "continued"


def refusal(run: Run, *, left_whole: bool = True) -> str:
    """The one sentence that the run ended with; `left_whole`: whether its checkpoints must load."""
    statuses, said = run.statuses(), run.said().strip()
    if statuses != [2] or not said.startswith("error: ") or len(said.splitlines()) != 1:
        raise Fault(f"expected status 2 and one sentence, found {statuses} and {said!r}")
    wrong = faults_of(run.folder) if left_whole else []
    if wrong:
        raise Fault("; ".join(wrong))
    return f"refused: {said.removeprefix('error: ')}"


# --- Signals and crashes.


def signalled(number: signal.Signals, status: int) -> Callable[[Ground], str]:
    """The case of a signal: the run saves and ends within 30 s, with the status that schedulers understand."""

    def case(ground: Ground) -> str:
        folder = ground.work / number.name
        run = ground.under_way(folder)
        began = time.monotonic()
        os.kill(run.processes[0], number)
        found = run.statuses(WITHIN)
        if found != [status] or not run.said().startswith(f"stopped by {number.name}; all is saved"):
            raise Fault(f"expected status {status} and a sentence, found {found} and {run.said()!r}")
        return f"status {status} after {time.monotonic() - began:.1f} s, {ground.goes_on(folder)}"

    return case


def torchrun_restarts(ground: Ground) -> str:
    """torchrun starts two ranks anew after one was killed."""
    folder = ground.work / "torchrun"
    agent, ranks = _torchrun(ground, folder, "--max-restarts", "1")
    os.kill(random.Random(0).choice(ranks), signal.SIGKILL)
    return _all_epochs(agent, folder)


def torchrun_killed(ground: Ground) -> str:
    """torchrun itself is killed: the ranks that it leaves behind save and end, and the next start goes on."""
    folder = ground.work / "killed"
    agent, ranks = _torchrun(ground, folder)
    agent.kill()
    agent.wait()
    killed = time.monotonic()
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        if time.monotonic() > killed + WITHIN:
            raise Fault("its ranks train on")
        time.sleep(0.01)
    seconds = time.monotonic() - killed
    if len(metrics(folder)) == 4:
        raise Fault("its ranks trained on to the end")
    again = _torchrun(ground, folder, resume=True)[0]
    return f"its ranks ended after {seconds:.1f} s; {_all_epochs(again, folder)}"


def _torchrun(
    ground: Ground, folder: Path, *options: str, resume: bool = False
) -> tuple[subprocess.Popen[str], list[int]]:
    """torchrun and its two ranks, past their first epoch of four."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, "-m", "train"]
    command += [
        "--release",
        str(ground.release),
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
    """Wait for the end, and see that nothing was lost or doubled."""
    said = agent.communicate(timeout=300)[1]
    if agent.returncode:
        raise Fault(f"torchrun ended with {agent.returncode}: {said[-500:]}")
    wrong = faults_of(folder)
    if [line["epoch"] for line in metrics(folder)] != [1, 2, 3, 4]:
        wrong.append(f"metrics.jsonl has {metrics(folder)}")
    if wrong:
        raise Fault("; ".join(wrong))
    return "continued"


# --- Disks.


@contextmanager
def disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own at `path`."""
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


def full_disk(ground: Ground) -> str:
    """The disk of the run folder becomes full."""
    with disk(ground.work / "small", "400m") as small:
        run, filler = ground.under_way(small / "run"), small / "filler"
        with filler.open("wb", buffering=0) as file:
            while run.running:
                with suppress(OSError):
                    while True:
                        file.write(bytes(1 << 20))
                time.sleep(0.01)  # what the run frees is taken, too
        said = refusal(run)
        filler.unlink()
        return f"{said}; then {ground.goes_on(small / 'run')}"


def read_only_from_the_start(ground: Ground) -> str:
    """The run folder lies where nothing can be written."""
    with disk(ground.work / "never", "10m") as never:
        _mount("-o", "remount,ro", str(never))
        return refusal(ground.start(never / "run"))


def read_only_on_the_way(ground: Ground) -> str:
    """The disk of the run folder becomes read-only, as one does after an error."""
    with disk(ground.work / "ro", "400m") as lost:
        run = ground.under_way(lost / "run")
        while run.running:
            try:
                _mount("-o", "remount,ro", str(lost))
                break
            except Skipped:  # busy, as long as a file is being written
                time.sleep(0.002)
        said = refusal(run)
        _mount("-o", "remount,rw", str(lost))
        return f"{said}; then {ground.goes_on(lost / 'run')}"


# --- The release.


def replaced_release(ground: Ground) -> str:
    """Other archives take the places of the training samples; the run reads on in those that it opened."""
    release, folder = _copy(ground.release, ground.work / "replaced"), ground.work / "replaced run"
    render(ground.work / "other", seed=1)
    run = ground.under_way(folder, release)
    for name in ("TS_KS.zip", "TL_KS_LINE.zip"):
        (ground.work / "other" / name).replace(release / name)
    if any(run.statuses()):
        raise Fault(run.said())
    ended = ground.ended_well(folder)
    return f"{ended}; resumed it is {refusal(ground.start(folder, release))}"


def release_cut_short(ground: Ground) -> str:
    """The training pictures are cut to half in their place."""
    release, folder = _copy(ground.release, ground.work / "cut"), ground.work / "cut run"
    run = ground.under_way(folder, release)
    pictures = release / "TS_KS.zip"
    os.truncate(pictures, pictures.stat().st_size // 2)
    said = refusal(run)
    shutil.copy(ground.release / "TS_KS.zip", pictures)
    return f"{said}; then {ground.goes_on(folder, release)}"


def _copy(release: Path, to: Path) -> Path:
    shutil.copytree(release, to)
    return to


# --- Checkpoints.


def truncated(name: str) -> Callable[[Ground], str]:
    """The case of a checkpoint that was cut in half; put back, the run goes on."""

    def case(ground: Ground) -> str:
        folder = _stopped(ground, f"cut {name}")
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(data[: len(data) // 2])
        said = refusal(ground.start(folder), left_whole=False)
        (folder / name).write_bytes(data)
        return f"{said}; then {ground.goes_on(folder)}"

    return case


def foreign_last(ground: Ground) -> str:
    """last.pt is another file: best.pt under its name."""
    folder = _stopped(ground, "foreign")
    data = (folder / "last.pt").read_bytes()
    (folder / "last.pt").unlink()
    shutil.copy(folder / "best.pt", folder / "last.pt")
    said = refusal(ground.start(folder), left_whole=False)
    (folder / "last.pt").write_bytes(data)
    return f"{said}; then {ground.goes_on(folder)}"


def _stopped(ground: Ground, name: str) -> Path:
    """A run folder that was left in its second epoch or later."""
    run = ground.under_way(ground.work / name)
    os.kill(run.processes[0], signal.SIGTERM)
    run.statuses(WITHIN)
    return run.folder


CASES: dict[str, Callable[[Ground], str]] = {
    "SIGTERM": signalled(signal.SIGTERM, 143),
    "SIGUSR1": signalled(signal.SIGUSR1, 75),
    "SIGINT": signalled(signal.SIGINT, 130),
    "a crash under torchrun --max-restarts": torchrun_restarts,
    "torchrun killed": torchrun_killed,
    "a full disk": full_disk,
    "a read-only run folder": read_only_from_the_start,
    "a disk that becomes read-only": read_only_on_the_way,
    "the release replaced": replaced_release,
    "the release cut short": release_cut_short,
    "last.pt cut short": truncated("last.pt"),
    "best.pt cut short": truncated("best.pt"),
    "a foreign last.pt": foreign_last,
}


@dataclass(frozen=True)
class Arguments:
    """Disturb runs, and tell what became of each."""

    only: tuple[str, ...] = ()
    """Names of cases; all if none are given."""


def main(argv: list[str]) -> None:
    """Print a line a case, and as the last line one JSON object; exits with 1 if a case failed."""
    arguments = parse(Arguments, argv, module="tests.chaos.faults", description=__doc__)
    outcomes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as work:
        release = Path(work) / "release"
        render(release)
        ground = Ground(Path(work), release)
        for name in arguments.only or CASES:
            try:
                outcomes[name] = CASES[name](ground)
            except Skipped as reason:
                outcomes[name] = f"skipped: {reason}"
            except (Fault, TimeoutError) as fault:
                outcomes[name] = f"FAULT: {fault}"
            print(f"{name}: {outcomes[name].replace(work, '')}", flush=True)
    print(json.dumps(outcomes, ensure_ascii=False).replace(work, ""))
    raise SystemExit(1 if any(outcome.startswith("FAULT") for outcome in outcomes.values()) else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
