"""A run folder: its files, and when a run in it can be resumed.

    config.json       the resolved configuration          metrics.jsonl   one line per epoch
    environment.txt   hardware and versions               last.pt         the state that a resumed run starts from
    samples.json      counts of used and skipped items    best.pt         the network of the lowest RMSE so far
    epoch-0007.pt     last.pt at the end of epoch 7; the last `--keep` of them. To go back to one, copy it to last.pt
    report.html, predictions.csv                          written after the last epoch
    .lease-1                                              which process writes here: see lease.py

`last.pt` is authoritative. It also stores the metrics of all epochs, and metrics.jsonl is written from it, so that no
line is lost or repeated wherever a run stops. The best epoch may not have been saved. Therefore `last.pt` stores the
contents of `best.pt`, too, unless that file has them already. `best.pt` is written after it; a run that was stopped
between the two writes it on resuming. Every file is written whole or not at all (dali_pipes/files.py).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dali_pipes.command import check_out_folder
from dali_pipes.errors import InputError
from dali_pipes.files import read_text, write_text, write_whole
from model import checkpoint

from ..recipe.config import Config, differences
from ..recipe.flags import LARGEST_SETTINGS, is_settings
from .lease import check_still_ours

History = list[dict[str, Any]]
EPOCH_SAVE_S = 60.0  # an epoch that ends sooner after a save is only copied to memory: an epoch of a GPU takes seconds


class RunFolder:
    """The folder of one run; creating this object writes nothing.

    Raises InputError if the folder contains a run with another configuration, or any run if `resume` is False.
    """

    def __init__(self, path: Path, config: Config, *, resume: bool) -> None:
        self.path = path
        self.best, self.last = path / "best.pt", path / "last.pt"
        self._config = config
        check_out_folder(path)
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
        """Create the folder, and write the files that are complete before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}: {value}\n" for name, value in environment.items())
        write_text(self.path / "environment.txt", lines)
        write_text(self.path / "samples.json", json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
        write_text(self.path / "config.json", json.dumps(asdict(self._config), indent=2) + "\n")
        if history:
            self._write_metrics(history)

    def load_last(self) -> dict[str, Any] | None:
        """The contents of last.pt, or None if there is none yet. Raises CheckpointError if it is damaged."""
        if not self.last.exists():
            return None
        try:
            return checkpoint.load(self.last)
        except checkpoint.CheckpointError as error:
            # The newest one may be a hard link to last.pt.
            kept = [path for path in self._kept().values() if not path.samefile(self.last)]
            advice = f"copy {kept[-1].name} to last.pt to resume from it" if kept else "choose another --out"
            raise checkpoint.CheckpointError(f"{error}; {advice}") from None

    def repair_best(self, state: dict[str, Any]) -> None:
        """Rewrite `best.pt` if it is not from the best epoch in `state`.

        This happens if the run was stopped between writing last.pt and best.pt, or if the user went back to a kept
        epoch. Raises CheckpointError if `best.pt` is damaged, and InputError if the best epoch is nowhere.
        """
        if not state["history"]:
            return
        errors = [record["rmse"] for record in state["history"]]
        best = 1 + errors.index(min(errors))
        newest = state["step"] == 0 and state["epoch"] == best
        if self.best.exists() and checkpoint.load(self.best).get("rmse") == state["best_rmse"]:
            return
        stored = state.get("best")
        if isinstance(stored, dict) and stored.get("rmse") == state["best_rmse"]:
            self._write(self.best, stored)
            return
        kept = self._epoch(best)
        if not newest and not kept.exists():
            raise InputError(
                f"expected {self.best} from epoch {best}, the best one in {self.last}, found neither it nor"
                f" {kept.name}; choose another --out, and add --init-from to keep the weights"
            )
        self._write(self.best, best_of(state if newest else checkpoint.load(kept)))

    def save(self, state: dict[str, Any]) -> None:
        """Write `state` to last.pt, and its entry "best", unless it is None, to best.pt.

        Raises InputError if a file cannot be written, or if another process has taken over the folder.
        """
        check_still_ours(self.path)
        self._write(self.last, state)
        if state["best"]:
            self._write(self.best, state["best"])
        if state["history"]:
            self._write_metrics(state["history"])
            if state["step"] == 0:  # the end of an epoch
                self._keep(state["epoch"])

    def _write(self, path: Path, contents: dict[str, Any]) -> None:
        try:
            save_checkpoint(path, contents)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the file system refuses a write
            raise InputError(
                f"{path} cannot be written: {_cause(error)}; the last checkpoint is intact; fix this, then --resume"
            ) from None

    def _write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def _epoch(self, number: int) -> Path:
        return self.path / f"epoch-{number:04}.pt"

    def _kept(self) -> dict[int, Path]:
        """The kept checkpoints by their epoch, in order."""
        paths = {path.stem.removeprefix("epoch-"): path for path in self.path.glob("epoch-*.pt")}
        return {int(number): paths[number] for number in sorted(paths) if number.isdecimal()}

    def _keep(self, epoch: int) -> None:
        """Link last.pt as the epoch's checkpoint, or copy it if the file system has no links.

        Remove older ones, and those of later epochs if the user went back.
        """
        wanted, path = self._config.runtime.keep, self._epoch(epoch)
        if wanted:
            path.unlink(missing_ok=True)
            try:
                os.link(self.last, path)
            except OSError:
                with self.last.open("rb") as last:
                    write_whole(path, lambda file: shutil.copyfileobj(last, file))
        kept = self._kept()
        earlier = [number for number in kept if number <= epoch]
        for number in {*kept} - {*earlier[max(0, len(earlier) - wanted) :]}:
            kept[number].unlink(missing_ok=True)


def best_of(state: dict[str, Any]) -> dict[str, Any]:
    """The contents of best.pt, from the state at the end of the best epoch.

    The network to use in the reference's layout, its metadata, and its RMSE in metres.
    """
    weights = state["average"] or state["model"]
    return {"model": weights, "stats": state["stats"], "about": state["about"], "rmse": state["best_rmse"]}


class CheckpointTimer:
    """When to save. `every`: "500" steps, "10m" minutes or "0" for never within an epoch, as `--checkpoint-every`."""

    def __init__(self, every: str) -> None:
        self._minutes = float(every[:-1]) if every.endswith("m") else None
        self._steps = None if self._minutes is not None else int(every)
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._since, self._steps_since = time.monotonic(), 0

    def count_step(self) -> None:
        """Count a step."""
        self._steps_since += 1

    @property
    def due_after_next_step(self) -> bool:
        """Whether to save at the end of the next step."""
        if self._steps is not None:
            return self._steps > 0 and self._steps_since >= self._steps - 1
        return time.monotonic() - self._since >= 60 * (self._minutes or 0)

    @property
    def due_after_epoch(self) -> bool:
        """Whether to save at the end of an epoch that was completed now."""
        every = 60 * self._minutes if self._minutes is not None else math.inf
        enough = self._steps is not None and 0 < self._steps <= self._steps_since
        return enough or time.monotonic() - self._since >= min(every, EPOCH_SAVE_S)


class Deadline:
    """When a run has to end. `limit`: "90s", "55m", "3h", or "0" for never, as `--time-limit`; counted from now."""

    def __init__(self, limit: str) -> None:
        seconds = float(limit[:-1]) * {"s": 1, "m": 60, "h": 3600}[limit[-1]] if limit != "0" else math.inf
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end


def _cause(error: BaseException) -> str:
    """The operating system's message, even if torch wrapped it."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.strerror:
            return current.strerror
        current = current.__cause__ or current.__context__
    return str(error).strip().splitlines()[0][:120]


def _read_settings(path: Path) -> dict[str, Any]:
    before = None
    with suppress(OSError, ValueError, RecursionError):
        before = json.loads(read_text(path, LARGEST_SETTINGS))
    if not is_settings(before):
        raise InputError(f"expected the configuration of a run at {path}, found none; choose another --out")
    return before


def checkpoint_of(run: Path) -> Path:
    """best.pt if `run` is a run folder, or `run` itself if it is a file."""
    return run / "best.pt" if run.is_dir() else run


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write `contents`, which are tensors and plain values, to `path`, whole or not at all."""
    write_whole(path, lambda file: torch.save(contents, file))
