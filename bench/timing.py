"""How the throughput scripts measure: peers take turns in one process, and medians are told with their spread.

A busy machine slows everything by a changing factor; peers that alternate share it, so that their ratio holds where
a single rate would not.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from train.environment import describe

Work = Callable[[], int]
"""Does some work to its end, the device's included, and returns how many samples that was."""


@dataclass(frozen=True)
class Rate:
    """Samples a second over the repeats."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.low:,.0f}–{self.high:,.0f})"


def alternate(peers: Mapping[str, Work], repeats: int, warm_up: int = 1) -> dict[str, Rate]:
    """Run each peer `warm_up` times uncounted, then all in turn `repeats` times → their rates."""
    rates: dict[str, list[float]] = {name: [] for name in peers}
    console = Console(stderr=True)
    turns = [name for i in range(warm_up + repeats) for name in peers]
    for i, name in enumerate(track(turns, "measuring", console=console, disable=not console.is_terminal)):
        began = time.perf_counter()
        samples = peers[name]()
        if i >= warm_up * len(peers):
            rates[name].append(samples / (time.perf_counter() - began))
    return {name: Rate(statistics.median(values), min(values), max(values)) for name, values in rates.items()}


def report(table: Table, results: Mapping[str, Any], device: torch.device) -> None:
    """Print the table, and as the last line everything as one JSON object."""
    machine = describe(device)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    print(json.dumps({**results, "hardware": machine}, default=lambda x: vars(x) if isinstance(x, Rate) else str(x)))
