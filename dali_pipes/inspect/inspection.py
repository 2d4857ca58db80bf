"""What is in a release, what is wrong with it, and what will be trained on: gathered here, shown elsewhere.

    found = inspect(paths, against=earlier)         Inspection
    show(found, console)                            inspection_console.py
    json.dumps(as_json(found), allow_nan=False)     inspection_json.py
    write_page(path, found)                         inspection_page.py

A release may hold only one of the two splits; the other is then told to be missing.  Labels and the headers of the
pictures are read, the pictures themselves only for a page and, where an archive states no CRC, for `against`.
The computations are in audit.py, leakage.py and comparison.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..release.paths import SPLITS, ReleasePaths, Split
from ..samples.index import open_index
from ..samples.labels import LeftOut
from ..samples.table import SampleTable
from ..samples.via import Reason
from .audit import ClosedForm, Float64, Int64, Labels, SceneScale, closed_form, repeated, scene_scales
from .comparison import Comparison, compare
from .leakage import Leakage, leakage

BINS = 24  # beside its names and figures a plot has to fit into 80 columns

UNITS = {"height": "height, m", "length": "length, px", "scale": "scale, m/px"}

Tables = dict[Split, SampleTable]
Missing = dict[Split, str]


def read_release(paths: ReleasePaths) -> tuple[Tables, Missing]:
    """The tables of the splits that can be read, and of each of the others the sentence that says why not.

    The one place where a release is opened; every image is decoded, or was for the index in `paths.index_cache`.
    Raises InputError, the first sentence, if no split can be read.
    """
    tables: Tables = {}
    missing: Missing = {}
    for split in SPLITS:
        try:
            tables[split] = open_index(paths, split).table
        except InputError as error:  # noqa: PERF203
            missing[split] = str(error)
    if not tables:
        raise InputError(next(iter(missing.values())))
    return tables, missing


def inspect(paths: ReleasePaths, against: Path | None = None) -> Inspection:
    """Read and audit the release in `paths`, and compare it with an earlier one in `against`.

    Raises InputError where neither split of a release can be read.
    """
    tables, missing = read_release(paths)
    columns = Labels.of(tables)
    changes = None
    if against is not None:
        before, lacking = read_release(ReleasePaths(against, index_cache=paths.index_cache))
        changes = Changes(str(against), {s: compare(before[s], tables[s]) for s in tables if s in before}, lacking)
    return Inspection(
        release=str(paths.release),
        tables=tables,
        missing=missing,
        labels=columns,
        leakage=leakage(columns) if len(tables) == len(SPLITS) else None,
        closed_form=closed_form(columns),
        scales=scene_scales(columns),
        repeated=repeated(columns, {split: table.polyline for split, table in tables.items()}),
        changes=changes,
    )


class Count(NamedTuple):
    """How much there is of something."""

    scenes: int
    tiles: int
    polylines: int


class Histogram(NamedTuple):
    """How N values spread: their moments, and how many lie in each of `BINS` bins between `low` and `high`."""

    least: float
    median: float
    greatest: float
    mean: float
    std: float
    low: float
    high: float
    counts: list[int]
    beyond: int
    """Values outside the bins, which are counted in the outermost."""


@dataclass(frozen=True)
class Changes:
    """What is new against an earlier release."""

    other: str
    splits: dict[Split, Comparison]
    missing: Missing
    """Splits that the earlier release lacks, and why."""


@dataclass(frozen=True)
class Inspection:
    """All that is found out about a release; the rows of the audits are rows of `labels`."""

    release: str
    tables: Tables
    missing: Missing
    labels: Labels
    leakage: Leakage | None
    """None where there is only one split."""
    closed_form: ClosedForm
    scales: list[SceneScale]
    repeated: Int64
    changes: Changes | None

    @cached_property
    def sensor(self) -> np.ndarray:
        """The first word of each label's file name (M,) str: K3, K3A, …"""
        return np.array([name.split("_", 1)[0] for name in self.labels.tile.tolist()])

    def total(self, split: Split) -> Count:
        """Scenes, tiles and polylines of a split."""
        table = self.tables[split]
        return Count(len(np.unique(table.scene)), len(np.unique(table.tile)), len(table))

    def counts(self, by: np.ndarray) -> dict[str, dict[Split, Count]]:
        """Scenes, tiles and polylines by the values of a column (M,) and by split; the largest first."""
        names, group = np.unique(by, return_inverse=True)
        order = np.argsort(-np.bincount(group), kind="stable")
        tile, scene = (np.unique(column, return_inverse=True)[1] for column in (self.labels.tile, self.labels.scene))
        found: dict[str, dict[Split, Count]] = {str(names[i]): {} for i in order}
        for split in self.tables:
            of = self.labels.split == split
            polylines = np.bincount(group[of], minlength=len(names))
            scenes, tiles = (
                np.bincount(np.unique(np.stack([group[of], column[of]]), axis=1)[0], minlength=len(names))
                for column in (scene, tile)
            )
            for i in order:
                found[str(names[i])][split] = Count(int(scenes[i]), int(tiles[i]), int(polylines[i]))
        return found

    def distributions(self) -> dict[str, dict[Split, Histogram]]:
        """Height, length and scale of each split; both splits in the same bins."""
        columns = {"height": self.labels.height, "length": self.labels.length_px, "scale": self.labels.scale}
        return {
            name: {split: histogram(values[self.labels.split == split], *bounds) for split in self.tables}
            for name, values in columns.items()
            for bounds in (plot_range(values),)
        }

    def left_out(self, split: Split) -> dict[Reason, list[LeftOut]]:
        """What is not in the table of a split, by reason, the most frequent first."""
        found: dict[Reason, list[LeftOut]] = {}
        for item in self.tables[split].left_out:
            found.setdefault(item.reason, []).append(item)
        return dict(sorted(found.items(), key=lambda entry: -len(entry[1])))


def plot_range(values: Float64) -> tuple[float, float]:
    """Where a histogram of `values` (n,) begins and ends: three interquartile ranges beyond the quartiles at most.

    One height of 10⁹ m, which the plot should tell and not be flattened by, lies beyond.
    """
    values = np.clip(values, 0, 1e12)  # metres or pixels that are finite, and whose differences are
    lower, upper = np.quantile(values, (0.25, 0.75))
    reach = 3 * (upper - lower)
    return float(max(values.min(), lower - reach)), float(min(values.max(), upper + reach))


def histogram(values: Float64, low: float, high: float) -> Histogram:
    """Count `values` (n,) in `BINS` bins between `low` and `high`."""
    with np.errstate(all="ignore"):
        mean, std = float(values.mean()), float(values.std())
    width = (high - low) / BINS or 1.0  # all values may be one
    bins = np.clip((np.clip(values, low, high) - low) / width, 0, BINS - 1).astype(np.int64)
    return Histogram(
        least=float(values.min()),
        median=float(np.median(values)),
        greatest=float(values.max()),
        mean=mean,
        std=std,
        low=low,
        high=high,
        counts=np.bincount(bins, minlength=BINS).tolist(),
        beyond=int(((values < low) | (values > high)).sum()),
    )
