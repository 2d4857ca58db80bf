"""The content of a release, its faults, and what will be trained on, computed here and shown elsewhere.

    inspection = inspect(paths, against=earlier)
    show(inspection, console)                           console.py
    json.dumps(as_json(inspection), allow_nan=False)    as_json.py
    write_page(path, inspection)                        page.py

A release may have only one of the two splits; the other one is then reported as missing. Labels and the headers of the
pictures are read. The pictures themselves are read only for a page, and for `against` where an archive states no CRC.
The computations are in audit.py, leakage.py and comparison.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from ..console import open_console
from ..errors import InputError
from ..release.names import name_key
from ..release.paths import SPLITS, ReleasePaths, Split
from ..release.stage import staged
from ..samples.index import open_index
from ..samples.labels import LeftOut
from ..samples.splits import refuse_same_tiles, repeated_pictures, shared_tiles
from ..samples.table import SampleTable
from ..samples.via import Reason
from .audit import ClosedForm, Float64, Int64, Labels, SceneScale, closed_form, repeated, scene_scales
from .comparison import SplitChanges, compare
from .leakage import Leakage, leakage

BINS = 24  # a plot, its name and its range have to fit into 80 columns

Tables = dict[Split, SampleTable]
Missing = dict[Split, str]


def read_release(paths: ReleasePaths, console: Console | None = None) -> tuple[Tables, Missing]:
    """The tables of the splits that can be read, and for each other split the sentence that says why it cannot.

    Every image is decoded, unless `paths.index_cache` has an index of this release. With `paths.stage` they are read
    from the copy there. Raises InputError if that cannot be made, and with the first of these sentences if no split can
    be read.
    """
    tables: Tables = {}
    missing: Missing = {}
    console = console or open_console(stderr=True)
    local = staged(paths, console)
    for split in SPLITS:
        try:
            tables[split] = open_index(local, split, console=console).table
        except InputError as error:  # noqa: PERF203
            missing[split] = str(error)
    if not tables:
        raise InputError(next(iter(missing.values())))
    return tables, missing


def inspect(paths: ReleasePaths, against: Path | None = None, console: Console | None = None) -> Inspection:
    """Read and audit the release in `paths`, and compare it with an earlier one in `against`.

    The progress is shown on `console`, by default stderr. Raises InputError where neither split of a release can be
    read.
    """
    tables, missing = read_release(paths, console)
    columns = Labels.of(tables)
    changes = None
    if against is not None:
        before, lacking = read_release(ReleasePaths(against, stage=paths.stage, index_cache=paths.index_cache), console)
        changes = Changes(str(against), lacking, {s: compare(before[s], tables[s]) for s in tables if s in before})
    return Inspection(
        release=str(paths.release),
        tables=tables,
        missing=missing,
        labels=columns,
        leakage=leakage(columns, shared_pictures=_shared_pictures(tables)) if len(tables) == len(SPLITS) else None,
        closed_form=closed_form(columns),
        scales=scene_scales(columns),
        repeated=repeated(columns, {split: table.polyline for split, table in tables.items()}),
        twins={split: _twins(table) for split, table in tables.items()},
        changes=changes,
    )


def _shared_pictures(tables: Tables) -> tuple[tuple[str, str], ...]:
    """Return the names in validation and in training of each picture that has two.

    Raises InputError if both splits were read from the same files, which is a mistake in the paths.
    """
    train, validation = tables["train"], tables["validation"]
    shared = shared_tiles(train, validation)
    if shared and train.images.fingerprint() == validation.images.fingerprint():
        refuse_same_tiles(train, validation, shared)
    names = [(validation.images.names[j], train.images.names[i]) for i, j in shared.items()]
    return tuple(pair for pair in names if name_key(pair[0]) != name_key(pair[1]))


def _twins(table: SampleTable) -> tuple[tuple[str, str], ...]:
    """Return the two names of each picture that one split has twice."""
    return tuple((table.images.names[i], table.images.names[j]) for i, j in repeated_pictures(table).items())


class Totals(NamedTuple):
    """How many scenes, tiles and polylines there are."""

    scenes: int
    tiles: int
    polylines: int


class Histogram(NamedTuple):
    """The distribution of N values: their moments, and how many are in each of `BINS` bins from `low` to `high`."""

    least: float
    median: float
    greatest: float
    mean: float
    std: float
    low: float
    high: float
    counts: list[int]
    beyond: int
    """Values outside the bins; the outermost bins count them."""


@dataclass(frozen=True)
class Changes:
    """The changes since another release."""

    other: str
    missing: Missing
    """Splits that the other release lacks, and why."""
    splits: dict[Split, SplitChanges]


@dataclass(frozen=True)
class Inspection:
    """Everything that was found in a release; the rows of the audits are rows of `labels`."""

    release: str
    tables: Tables
    missing: Missing
    labels: Labels
    leakage: Leakage | None
    """None where there is only one split."""
    closed_form: ClosedForm
    scales: list[SceneScale]
    repeated: Int64
    twins: dict[Split, tuple[tuple[str, str], ...]]
    """Both names of each picture that a split has twice."""
    changes: Changes | None

    @cached_property
    def sensor(self) -> NDArray[np.str_]:
        """The first word of each label's file name (M,) str: K3, K3A, …"""
        return np.array([name.split("_", 1)[0] for name in self.labels.tile.tolist()])

    def total(self, split: Split) -> Totals:
        """The totals of a split."""
        table = self.tables[split]
        return Totals(len(np.unique(table.scene)), len(np.unique(table.tile)), len(table))

    def counts(self, by: NDArray[np.str_]) -> dict[str, dict[Split, Totals]]:
        """The totals for each value of a column (M,), by split; the values with most polylines first."""
        names = [name for name, _ in Counter(sorted(by.tolist())).most_common()]
        totals: dict[str, dict[Split, Totals]] = {name: {} for name in names}
        for split in self.tables:
            rows = self.labels.split == split
            groups = by[rows].tolist()
            scenes, tiles = (
                Counter(name for name, _ in set(zip(groups, column[rows].tolist(), strict=True)))
                for column in (self.labels.scene, self.labels.tile)
            )
            polylines = Counter(groups)
            for name in names:
                totals[name][split] = Totals(scenes[name], tiles[name], polylines[name])
        return totals

    def distributions(self) -> dict[str, dict[Split, Histogram]]:
        """Height, length and scale of each split; both splits have the same bins."""
        columns = {"height": self.labels.height, "length": self.labels.length_px, "scale": self.labels.scale}
        return {
            name: {split: histogram(values[self.labels.split == split], *plot_range(values)) for split in self.tables}
            for name, values in columns.items()
        }

    def left_out(self, split: Split) -> dict[Reason, list[LeftOut]]:
        """The labels and tiles that are not in the table of a split, by reason, the most frequent first."""
        by_reason: dict[Reason, list[LeftOut]] = {}
        for item in self.tables[split].left_out:
            by_reason.setdefault(item.reason, []).append(item)
        return dict(sorted(by_reason.items(), key=lambda entry: -len(entry[1])))


def plot_range(values: Float64) -> tuple[float, float]:
    """Where a histogram of `values` (n,) begins and ends: at most three interquartile ranges beyond the quartiles.

    A single height of 10⁹ m therefore does not flatten the plot.
    """
    values = np.clip(values, 0, 1e12)  # so that values and their differences are finite
    lower, upper = np.quantile(values, (0.25, 0.75))
    reach = 3 * (upper - lower)
    return float(max(values.min(), lower - reach)), float(min(values.max(), upper + reach))


def histogram(values: Float64, low: float, high: float) -> Histogram:
    """Count `values` (n,) in `BINS` bins from `low` to `high`."""
    with np.errstate(all="ignore"):
        mean, std = float(values.mean()), float(values.std())
    width = (high - low) / BINS or 1.0  # all values may be equal
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
