"""Timing: workloads take turns in one process, and a rate is a median with its lowest and highest value.

On a busy machine everything becomes slower by a factor that changes. Workloads that alternate share this factor, so
their ratio is reliable where a single rate is not. `ratio` therefore divides turn by turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dali_pipes.console import activity, open_console

if TYPE_CHECKING:
    import torch

Work = Callable[[], int]
"""Does some work, waits for the device, and returns the number of samples."""


@dataclass(frozen=True)
class Rate:
    """Samples per second, or another quantity, over all repeats; `f"{rate:.2f}"` shows median, lowest and highest."""

    median: float
    low: float
    high: float
    each: tuple[float, ...] = ()
    """The value of each repeat, in order."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Rate:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values), tuple(values))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}–{self.high:{spec}})"

    def __str__(self) -> str:
        return f"{self:,.0f}"


def ratio(mine: Rate, other: Rate) -> Rate:
    """`mine` divided by `other`, repeat by repeat."""
    return Rate.of([a / b for a, b in zip(mine.each, other.each, strict=True)])


def alternate(
    works: Mapping[str, Work], repeats: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Rate]:
    """Run each work `warm_up` times uncounted, then all in turn `repeats` times → their rates.

    `clock` returns seconds; `time.process_time` counts CPU time, which other programs do not change.
    """
    rates: dict[str, list[float]] = {name: [] for name in works}
    turns = [name for i in range(warm_up + repeats) for name in works]
    shown_on = open_console(stderr=True)
    with activity(shown_on, "measuring", len(turns)) as shown:
        for i, name in enumerate(shown.track(turns)):
            began = clock()
            samples = works[name]()
            if i >= warm_up * len(works):
                rates[name].append(samples / (clock() - began))
                if not shown_on.is_terminal:  # a run that is cut short still leaves what it measured
                    shown_on.print(f"{name}: {rates[name][-1]:,.1f}", markup=False, highlight=False)
    return {name: Rate.of(values) for name, values in rates.items()}


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def finish(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
