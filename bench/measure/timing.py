"""How the throughput scripts measure: peers take turns in one process, and medians are told with their spread.

A busy machine slows everything by a changing factor; peers that alternate share it, so that their ratio holds where
a single rate would not.  So a ratio is taken within each turn, and its median told: `ratio`.

A script ends with `report`: its tables for people, and as the last line everything as one JSON object.  The object
holds the tables, too, so that `bench.fill` can put them into the README as they were printed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from dali_pipes.errors import InputError
from train.machine.choices import describe

WIDTH = 140  # columns of what is not printed on a terminal

Work = Callable[[], int]
"""Does some work to its end, the device's included, and returns how many samples that was."""


@dataclass(frozen=True)
class Rate:
    """Samples a second, or any other figure, over the repeats: `f"{rate:.2f}"` tells median, lowest and highest."""

    median: float
    low: float
    high: float
    each: tuple[float, ...] = ()
    """One figure a repeat, in their order."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Rate:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values), tuple(values))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}–{self.high:{spec}})"

    def __str__(self) -> str:
        return f"{self:,.0f}"


def at_least(least: int, what: str = "", **numbers: int) -> None:
    """Raise InputError where a number is smaller, batch_size=0 told as --batch-size; `what` tells what `least` is."""
    for name, value in numbers.items():
        if value < least:
            is_what = f" ({what})" if what else ""
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}{is_what}, found {value}")


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(mine: Rate, other: Rate) -> Rate:
    """`mine` over `other`, repeat by repeat."""
    return Rate.of([a / b for a, b in zip(mine.each, other.each, strict=True)])


def alternate(
    peers: Mapping[str, Work], repeats: int, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Rate]:
    """Run each peer `warm_up` times uncounted, then all in turn `repeats` times → their rates.

    `clock`: in seconds; `time.process_time` for the CPU's, which other programs do not change.
    """
    rates: dict[str, list[float]] = {name: [] for name in peers}
    console = Console(stderr=True)
    turns = [name for i in range(warm_up + repeats) for name in peers]
    for i, name in enumerate(track(turns, "measuring", console=console, disable=not console.is_terminal)):
        began = clock()
        samples = peers[name]()
        if i >= warm_up * len(peers):
            rates[name].append(samples / (clock() - began))
    return {name: Rate.of(values) for name, values in rates.items()}


def report(tables: Table | Sequence[Table], results: Mapping[str, Any], device: torch.device) -> None:
    """Print the tables, and as the last line everything as one JSON object."""
    tables = [tables] if isinstance(tables, Table) else tables
    machine = describe(device)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(*tables, sep="\n\n")
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    everything = {**results, "tables": [as_plain(table) for table in tables], "hardware": machine}
    print(json.dumps(everything, default=lambda x: vars(x) if isinstance(x, Rate) else str(x)))


def as_plain(table: Table) -> dict[str, Any]:
    """A table of texts as plain values: `title`, `columns`, `rows` and `caption`."""
    columns = [[_text(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": _text(table.title),
        "columns": [_text(column.header) for column in table.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "caption": _text(table.caption),
    }


def _text(cell: Any) -> str:
    return "" if cell is None else cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
