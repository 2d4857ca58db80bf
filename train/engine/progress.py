"""The progress of a run: epoch, step, time and history."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dali_pipes import Batch

from ..run.folder import History


@dataclass
class Progress:
    """The progress of a run. last.pt stores each field under its name."""

    epoch: int = 0
    """Completed epochs."""
    step: int = 0
    """Completed steps of the current epoch."""
    learning_rate: float = 0.0
    """Learning rate at the first step of the current epoch."""
    seconds: float = 0.0
    """Duration of the current epoch so far."""
    waited: float = 0.0
    """How many of these seconds were spent waiting for data."""
    best_rmse: float = math.inf
    """Metres; of the best completed epoch."""
    history: History = field(default_factory=list)
    """The records of the completed epochs, as in metrics.jsonl."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """Read the fields from the contents of last.pt. Raises KeyError, TypeError or ValueError."""
        numbers = {name: type(value)(state[name]) for name, value in vars(cls()).items() if name != "history"}
        return cls(**numbers, history=[dict(record) for record in state["history"]])

    def end_epoch(self, record: dict[str, Any]) -> bool:
        """Add the epoch's record and go to the next epoch; returns whether it is the best one so far."""
        is_best: bool = record["rmse"] < self.best_rmse
        self.history.append(record)
        self.best_rmse = min(self.best_rmse, record["rmse"])
        self.epoch, self.step = self.epoch + 1, 0
        self.seconds = self.waited = 0.0
        return is_best

    @property
    def epochs_since_best(self) -> int:
        """Completed epochs since the one of the lowest RMSE."""
        errors = [record["rmse"] for record in self.history]
        return len(errors) - 1 - errors.index(min(errors)) if errors else 0

    def seconds_left(self, steps: int, epochs: int) -> float:
        """An estimate for the rest of `epochs` with `steps` each, from the last epoch or, in the first, its steps."""
        if self.history:
            return float((epochs - self.epoch - self.step / steps) * self.history[-1]["seconds"])
        return self.seconds / self.step * (steps * (epochs - self.epoch) - self.step)


class Clock:
    """Adds the time since its creation to the `seconds` of a progress, and waiting for data to its `waited`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = time.perf_counter()

    def read(self) -> None:
        """Add the seconds since the last call."""
        now = time.perf_counter()
        self._progress.seconds += now - self._last
        self._last = now

    def time_waits(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches; add the time that each one takes to arrive."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._progress.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch
