"""What is in a release: counts, what was left out and why, and whether the labels follow their closed form.

python -m dali_pipes RELEASE
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from .geometry import closed_form_height, polyline_length_px
from .samples import SampleTable, Split

SPLITS: tuple[Split, ...] = ("train", "validation")
PRINTED = 0.0051  # metres: labels are printed to a hundredth


@dataclass(frozen=True)
class Audit:
    """Labels against height = length · gsd / sqrt(tan² roll + tan² pitch)."""

    with_metadata: int
    """Samples whose label has gsd, roll and pitch and a view that is not straight down."""
    deviating: int
    """Those of them whose height differs by more than the printed rounding."""
    largest: float
    """The largest difference, in metres."""


def audit(table: SampleTable) -> Audit:
    """Compare the heights of a table with the closed form; the model itself never sees these metadata."""
    expected = closed_form_height(polyline_length_px(table.polyline), table.gsd, table.roll, table.pitch)
    known = np.isfinite(expected)
    difference = np.abs(expected - table.height)[known]
    return Audit(int(known.sum()), int((difference > PRINTED).sum()), float(difference.max(initial=0.0)))


def inspect(release: Path, console: Console | None = None) -> None:
    """Print what the release in folder `release` holds.  Raises InputError where it cannot be read."""
    console = console or Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    tables = {split: SampleTable.from_release(release, split) for split in SPLITS}
    console.print(_counts(tables))
    for split, table in tables.items():
        for reason, count in Counter(item.reason for item in table.left_out).most_common():
            example = next(item.file for item in table.left_out if item.reason == reason)
            say(f"{split}: left out {count} because {reason.value}, such as {example}")
        found = audit(table)
        say(
            f"{split}: {found.deviating} of {found.with_metadata} heights deviate from the closed form by more than"
            f" their rounding; the largest difference is {found.largest:.3f} m"
        )
    shared = np.isin(tables["validation"].scene, tables["train"].scene)
    say(f"split: {shared.mean():.0%} of the validation samples lie in scenes that are also in training")


def _counts(tables: dict[Split, SampleTable]) -> Table:
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for split in tables:
        grid.add_column(split, justify="right", no_wrap=True)

    def row(name: str, of: Callable[[SampleTable], str]) -> None:
        grid.add_row(name, *(of(table) for table in tables.values()))

    row("scenes", lambda table: str(len(np.unique(table.scene))))
    row("tiles", lambda table: str(len(np.unique(table.tile))))
    row("polylines", lambda table: str(len(table)))
    row("left out", lambda table: str(len(table.left_out)))
    row("height, m", lambda table: _range(table.height))
    row("length, px", lambda table: _range(polyline_length_px(table.polyline)))
    row("scale, m a pixel", lambda table: _range(table.height / polyline_length_px(table.polyline)))
    grid.caption = "ranges: least, median, greatest"
    grid.caption_justify = "left"
    return grid


def _range(values: np.ndarray) -> str:
    return " ".join(f"{value:7.3g}" for value in (values.min(), np.median(values), values.max()))
