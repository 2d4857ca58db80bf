"""A run folder: what is in it, when it may be continued, and how nothing in it is lost.

    config.json       the resolved configuration        metrics.jsonl   a line an epoch
    environment.txt   hardware and versions             last.pt         where a resumed run goes on
    samples.json      counts, and what was left out     best.pt         lowest RMSE so far
    report.html, predictions.csv                        written at the end
    epoch-0007.pt     the last.pt of the last epochs' ends, `--keep` of them: to go back to one, copy it to last.pt

`last.pt` is the truth: it holds the metrics of all epochs, too, and metrics.jsonl is written from it, also when a run
goes on, so that no line is lost or doubled wherever it was stopped.  Every file is written whole or not at all
(model/whole_file.py), and `best.pt` before the `last.pt` that speaks of it.
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

from dali_pipes.errors import InputError
from model import checkpoint
from model.whole_file import write_text

from .config import Config, differences

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

        Raises CheckpointError, also if `best.pt` is gone: better known now than after the last epoch.
        """
        if not self.last.exists():
            return None
        try:
            state = checkpoint.load(self.last)
        except checkpoint.CheckpointError as error:
            kept = self._kept()
            advice = f"copy {kept[-1].name} to last.pt to go on from there" if kept else "choose another --out"
            raise checkpoint.CheckpointError(f"{error}; {advice}") from None
        if state.get("history"):
            checkpoint.load(self.best)
        return state

    def save(self, state: dict[str, Any], best: dict[str, Any] | None = None) -> None:
        """Save `state`, which holds the history; `best` first, if the epoch that ended is the best one."""
        if best is not None:
            self._write(self.best, best)
        self._write(self.last, state)
        if state["step"] == 0 and state["history"]:  # an epoch has just ended
            self._write_metrics(state["history"])
            self._keep(state["epoch"])

    def _write(self, path: Path, contents: dict[str, Any]) -> None:
        try:
            checkpoint.save(path, contents)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's own, where the file system refused a write
            raise InputError(
                f"{path} cannot be written: {_cause(error)}; what was saved before is whole; see to it, and --resume"
            ) from None

    def _write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def _kept(self) -> list[Path]:
        return sorted(self.path.glob("epoch-[0-9][0-9][0-9][0-9]*.pt"))

    def _keep(self, epoch: int) -> None:
        """Give last.pt a second name, which costs no second copy where the file system has links."""
        wanted = self._config.runtime.keep
        if wanted:
            path = self.path / f"epoch-{epoch:04}.pt"
            path.unlink(missing_ok=True)
            try:
                os.link(self.last, path)
            except OSError:
                shutil.copyfile(self.last, path)
        for old in self._kept()[: -wanted or None]:
            old.unlink(missing_ok=True)


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

    def after_step(self) -> bool:
        """Count a step; whether it is time to save at the end of the next one."""
        self._steps_since += 1
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
