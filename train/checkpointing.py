"""A run folder: what is in it, when it may be continued, and how nothing in it is lost.

    config.json       the resolved configuration        metrics.jsonl   a line an epoch
    environment.txt   hardware and versions             last.pt         where a resumed run goes on
    samples.json      counts, and what was left out     best.pt         lowest RMSE so far
    report.html, predictions.csv                        written at the end

`last.pt` holds the metrics of all epochs, too: resuming writes metrics.jsonl anew, so that no line is lost or
doubled wherever a run was stopped.  Every file is written whole or not at all (model/whole_file.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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

    def create(self, environment: dict[str, str], samples: dict[str, Any]) -> None:
        """Make the folder and write what is known before the first step."""
        self.path.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}: {value}\n" for name, value in environment.items())
        write_text(self.path / "environment.txt", lines)
        write_text(self.path / "samples.json", json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
        write_text(self.path / "config.json", json.dumps(asdict(self._config), indent=2) + "\n")

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
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        before = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise InputError(f"expected the configuration of a run at {path}, found none; choose another --out")
    return before
