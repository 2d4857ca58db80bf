"""A run folder: what is in it, when it may be continued, and how nothing in it is lost.

    config.json       the resolved configuration        metrics.jsonl   a line an epoch
    environment.txt   hardware and versions             last.pt         where a resumed run goes on
    samples.json      counts, and what was left out     best.pt         lowest validation RMSE so far
    report.html, predictions.csv                        written at the end

`last.pt` holds the metrics of all epochs, too: resuming writes metrics.jsonl anew, so that no line is lost or
doubled wherever a run was stopped.  Every file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dali_pipes.errors import InputError
from model import checkpoint

from .config import Config, differences, to_dict

History = list[dict[str, Any]]


class RunFolder:
    """The folder of one run.

    Raises InputError if it holds another run, or one that was not asked to be resumed; until then nothing is written.
    """

    def __init__(self, path: Path, config: Config, *, resume: bool) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise InputError(f"--out takes a folder, found a file at {path}")
        before = self._config_before()
        if before is not None:
            if not resume:
                raise InputError(f"{path} already holds a run; add --resume to continue it, or choose another --out")
            changed = differences(config, before)
            if changed:
                raise InputError(
                    f"{path} holds a run with another configuration ({'; '.join(changed)});"
                    " resume with the flags it was started with, or choose another --out"
                )
        self.best, self.last = path / "best.pt", path / "last.pt"
        self._config = config

    def create(self, environment: dict[str, str], samples: dict[str, Any]) -> None:
        """Make the folder and write what is known before the first step."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("environment.txt", "".join(f"{name}: {value}\n" for name, value in environment.items()))
            self._write("samples.json", json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
            self._write("config.json", json.dumps(to_dict(self._config), indent=2) + "\n")
        except OSError as error:
            raise InputError(f"--out {self.path} cannot be written: {error.strerror}; choose another folder") from None

    def load_last(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, or None if the run did not come so far."""
        return checkpoint.load(self.last) if self.last.exists() else None

    def save(self, state: dict[str, Any], history: History, best: dict[str, Any] | None) -> None:
        """Save the end of an epoch: `best` if it is one, the metrics, and `state` last of all."""
        if best is not None:
            checkpoint.save(self.best, best)
        self.write_metrics(history)
        checkpoint.save(self.last, {**state, "history": history})

    def write_metrics(self, history: Sequence[dict[str, Any]]) -> None:
        """Write metrics.jsonl."""
        self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def _config_before(self) -> dict[str, Any] | None:
        path = self.path / "config.json"
        if not path.exists():
            return None
        try:
            before = json.loads(path.read_text("utf-8"))
            assert isinstance(before, dict)
        except (OSError, ValueError, AssertionError):
            raise InputError(f"{path} is not the configuration of a run; choose another --out") from None
        return before

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.{os.getpid()}.tmp"
        try:
            temporary.write_text(text, "utf-8")
            temporary.replace(self.path / name)
        finally:
            temporary.unlink(missing_ok=True)
