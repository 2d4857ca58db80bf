"""A run folder: what is in it, when it may be continued, and how nothing in it is lost.

    config.json       the resolved configuration        metrics.jsonl   a line an epoch
    environment.txt   hardware and versions             last.pt         where a resumed run goes on
    samples.json      counts, and what was left out     best.pt         lowest RMSE so far
    report.html, predictions.csv                        written at the end
    epoch-0007.pt     the last.pt of the last epochs' ends, `--keep` of them: to go back to one, copy it to last.pt

`last.pt` is the truth: it holds the metrics of all epochs, too, and metrics.jsonl is written from it, also when a run
goes on, so that no line is lost or doubled wherever it was stopped.  `best.pt` is made from the `last.pt` of the
epoch's end that was the best, and written after it: a run that was stopped in between makes it when it goes on, and
the two always agree.  Every file is written whole or not at all (dali_pipes/files.py).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dali_pipes.errors import InputError
from dali_pipes.files import write_text, write_whole
from model import checkpoint

from ..recipe.config import Config, differences

History = list[dict[str, Any]]


class RunFolder:
    """The folder of one run.

    Raises InputError if it holds another run, or one that was not asked to be resumed; until then nothing is written.
    """

    def __init__(self, path: Path, config: Config, *, resume: bool) -> None:
        self.path = path
        self.best, self.last = path / "best.pt", path / "last.pt"
        self._config = config
        if path.exists() and not path.is_dir():
            raise InputError(f"--out takes a folder, found a file at {path}")
        settings = path / "config.json"
        if not resume and (settings.exists() or self.last.exists()):
            raise InputError(f"{path} already holds a run; add --resume to continue it, or choose another --out")
        if self.last.exists() or settings.exists():
            changed = differences(config, _read_settings(settings))
            if changed:
                raise InputError(
                    f"{path} holds a run with another configuration ({'; '.join(changed)});"
                    " resume with the flags it was started with, or choose another --out"
                )

    def create(self, environment: dict[str, str], samples: dict[str, Any], history: History) -> None:
        """Make the folder and write what is known before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}: {value}\n" for name, value in environment.items())
        write_text(self.path / "environment.txt", lines)
        write_text(self.path / "samples.json", json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
        write_text(self.path / "config.json", json.dumps(asdict(self._config), indent=2) + "\n")
        if history:
            self._write_metrics(history)

    def load_last(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, or None if the run did not come so far.

        Raises CheckpointError.
        """
        if not self.last.exists():
            return None
        try:
            return checkpoint.load(self.last)
        except checkpoint.CheckpointError as error:
            kept = [
                path for path in self._kept().values() if not path.samefile(self.last)
            ]  # the newest may be one with it
            advice = f"copy {kept[-1].name} to last.pt to go on from there" if kept else "choose another --out"
            raise checkpoint.CheckpointError(f"{error}; {advice}") from None

    def mend_best(self, state: dict[str, Any]) -> None:
        """Make `best.pt` of the epoch that is the best in `state`, if it is of another one.

        So it is where the run was stopped between the writing of the two, and where it was gone back to a kept epoch.
        Raises CheckpointError if `best.pt` is damaged, InputError if it is gone or of another epoch, and the best one
        was not kept: better known now than after the last epoch.
        """
        if not state["history"]:
            return
        errors = [record["rmse"] for record in state["history"]]
        best = 1 + errors.index(min(errors))
        newest = state["step"] == 0 and state["epoch"] == best
        if self.best.exists() and checkpoint.load(self.best).get("rmse") == state["best_rmse"]:
            return
        kept = self._epoch(best)
        if not newest and not kept.exists():
            raise InputError(
                f"expected {self.best} of epoch {best}, which {self.last} says is the best, found none, nor {kept.name}"
                " to make it from; choose another --out, if need be with --init-from"
            )
        self._write(self.best, best_of(state if newest else checkpoint.load(kept)))

    def save(self, state: dict[str, Any], *, best: bool = False) -> None:
        """Save `state`, which holds the history; `best`: whether it is of an epoch's end, and of the best one."""
        self._write(self.last, state)
        if best:
            self._write(self.best, best_of(state))
        if state["step"] == 0 and state["history"]:  # an epoch has just ended
            self._write_metrics(state["history"])
            self._keep(state["epoch"])

    def _write(self, path: Path, contents: dict[str, Any]) -> None:
        try:
            save_checkpoint(path, contents)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's own, where the file system refused a write
            raise InputError(
                f"{path} cannot be written: {_cause(error)}; what was saved before is whole; see to it, and --resume"
            ) from None

    def _write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def _epoch(self, number: int) -> Path:
        return self.path / f"epoch-{number:04}.pt"

    def _kept(self) -> dict[int, Path]:
        found = {path.stem.removeprefix("epoch-"): path for path in self.path.glob("epoch-*.pt")}
        return {int(number): found[number] for number in sorted(found) if number.isdecimal()}

    def _keep(self, epoch: int) -> None:
        """Give last.pt a second name, which costs no second copy where the file system has links; remove older ones,
        and those of epochs still to come, where it was gone back."""
        wanted, path = self._config.runtime.keep, self._epoch(epoch)
        if wanted:
            path.unlink(missing_ok=True)
            try:
                os.link(self.last, path)
            except OSError:
                with self.last.open("rb") as last:
                    write_whole(path, lambda file: shutil.copyfileobj(last, file))
        for number, other in self._kept().items():
            if not epoch - wanted < number <= epoch:
                other.unlink(missing_ok=True)


def best_of(state: dict[str, Any]) -> dict[str, Any]:
    """What best.pt holds if `state`, of an epoch's end, is the best one: the network to be used, in the reference's
    layout, what it says of itself, and its RMSE in metres."""
    weights = state["average"] or state["model"]
    return {"model": weights, "stats": state["stats"], "about": state["about"], "rmse": state["best_rmse"]}


class Due:
    """When to save between the ends of epochs: every so many steps, or minutes.

    `every`: "500" or "10m", as `--checkpoint-every` has it.
    """

    def __init__(self, every: str) -> None:
        self._minutes = float(every[:-1]) if every.endswith("m") else None
        self._steps = None if self._minutes is not None else int(every)
        self.saved()

    def saved(self) -> None:
        """Count from here."""
        self._since, self._steps_since = time.monotonic(), 0

    def after_step(self) -> None:
        """Count a step."""
        self._steps_since += 1

    @property
    def next(self) -> bool:
        """Whether it is time to save at the end of the next step."""
        if self._steps is not None:
            return self._steps > 0 and self._steps_since >= self._steps - 1
        return time.monotonic() - self._since >= 60 * (self._minutes or 0)


def _cause(error: BaseException) -> str:
    """What the operating system said, if torch wrapped it."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return str(error).strip().splitlines()[0][:120]


def _read_settings(path: Path) -> dict[str, Any]:
    before = None
    with suppress(OSError, ValueError):
        before = json.loads(path.read_text("utf-8"))
    if not isinstance(before, dict):
        raise InputError(f"expected the configuration of a run at {path}, found none; choose another --out")
    return before


def checkpoint_of(run: Path) -> Path:
    """The best checkpoint of a run folder, or `run` itself if it is a file."""
    return run / "best.pt" if run.is_dir() else run


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write `contents` (tensors and plain values) to `path`, whole or not at all."""
    write_whole(path, lambda file: torch.save(contents, file))
