"""An inspection as text: sections with sentences and tables, which the terminal and the page show.

    for section in sections(inspection): ...

Texts are plain, without any markup. The names in them come from other people's files. In sentences they are already
printable; the code that shows a table must make its cells `printable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..console import printable
from ..samples.table import Split
from ..units import count, number
from .audit import HALF_DIGIT, VERTEX_PX
from .comparison import ChangedLabel, Label, SplitChanges
from .inspection import Changes, Histogram, Inspection, Totals
from .leakage import CRITERION

EXAMPLES = 3
LONGEST = 160  # characters of a name; a label's "filename" may be a megabyte
ROWS = 200  # of a table; --json has all

UNITS = {"height": "height, m", "length": "length, px", "scale": "scale, m/px"}
TALLY = {"added": "added", "removed": "removed", "changed": "changed", "same": "the same"}


class Table(NamedTuple):
    """The first rows of a list, the worst or the largest first."""

    title: str
    columns: tuple[str, ...]
    texts: int
    """How many columns are text; the ones after them are numbers."""
    rows: list[tuple[str, ...]]
    total: int
    """Rows of the whole list."""


class Plot(NamedTuple):
    """How one quantity of one split is distributed."""

    quantity: str
    split: Split
    histogram: Histogram

    @property
    def caption(self) -> str:
        """The range and the median."""
        spread = self.histogram
        beyond = f"; {spread.beyond:,} beyond the plot" if spread.beyond else ""
        return f"{spread.least:.4g} to {spread.greatest:.4g}, median {spread.median:.4g}{beyond}"


class Section(NamedTuple):
    """One subject; the page shows pictures in the section with their `name`."""

    name: str
    title: str
    sentences: list[str]
    tables: list[Table]
    plots: Sequence[Plot] = ()


class Flagged(NamedTuple):
    """A label that the audit flags, and each reason."""

    row: int
    reasons: list[str]


def flagged(inspection: Inspection) -> list[Flagged]:
    """All flagged labels, each once: those that deviate most from the closed form first."""
    labels, reasons = inspection.labels, dict[int, list[str]]()
    for i in inspection.closed_form.flagged.tolist():
        reasons[i] = [f"label {number(labels.height[i])} m, closed form {number(labels.expected[i])} m"]
    for scene in inspection.scales:
        for i in scene.flagged.tolist():
            others = (
                f"{scene.scale:.4g} in {scene.agreeing:,} of {count(scene.labels, 'label')}" if scene.agreeing else ""
            )
            reasons.setdefault(i, []).append(
                f"height ÷ length {labels.scale[i]:.4g} m/px, in its scene {others or 'no two labels agree'}"
            )
    return [Flagged(*item) for item in reasons.items()]


def headline(inspection: Inspection) -> str:
    """The release in one sentence: how much there is, and how much of it is suspicious or unusable."""
    labels = inspection.labels
    suspicious = len(flagged(inspection))
    skipped = sum(len(table.left_out) for table in inspection.tables.values())
    return (
        f"{count(len(labels), 'polyline')} in {count(len(np.unique(labels.tile)), 'tile')} of"
        f" {count(len(np.unique(labels.scene)), 'scene')}; the audit flags"
        f" {count(suspicious, 'height') if suspicious else 'no height'}, and {skipped:,} regions or tiles are skipped."
    )


def missing_splits(inspection: Inspection) -> list[str]:
    """The missing splits, with reasons."""
    return [f"{split} is missing: {printable(why, 10 * LONGEST)}" for split, why in inspection.missing.items()]


def sections(inspection: Inspection) -> list[Section]:
    """All subjects, in the order in which they are shown."""
    parts = (_contents, _distributions, _skipped, _leakage, _closed_form, _scales)
    changes = [] if inspection.changes is None else [_changes(inspection, inspection.changes)]
    return [part(inspection) for part in parts] + changes


# --- Contents.


def _contents(inspection: Inspection) -> Section:
    totals = (
        (split, *(f"{n:,}" for n in (*inspection.total(split), len(table.left_out))))
        for split, table in inspection.tables.items()
    )
    tables = [
        *_table("", ("split", *Totals._fields, "skipped"), 1, totals, len(inspection.tables)),
        *_counted("sensor", inspection.counts(inspection.sensor)),
        *_counted("scene", inspection.counts(inspection.labels.scene)),
    ]
    return Section("contents", "What is in it", [], tables)


def _counted(noun: str, counts: dict[str, dict[Split, Totals]]) -> list[Table]:
    cells = [
        (split, i)
        for split in next(iter(counts.values()))
        for i, field in enumerate(Totals._fields)
        if field != f"{noun}s"
    ]
    columns = noun, *(f"{split}\n{Totals._fields[i]}" for split, i in cells)
    rows = ((name, *(f"{totals[split][i]:,}" for split, i in cells)) for name, totals in counts.items())
    return _table(f"By {noun}", columns, 1, rows, len(counts))


def _distributions(inspection: Inspection) -> Section:
    distributions = inspection.distributions()
    plots = [Plot(UNITS[name], *item) for name, splits in distributions.items() for item in splits.items()]
    return Section("distributions", "Distributions", [], [], plots)


def _skipped(inspection: Inspection) -> Section:
    sentences = [
        f"{split}: skipped {len(items):,} because {reason.value}, such as {_examples(item.file for item in items)}"
        for split in inspection.tables
        for reason, items in inspection.left_out(split).items()
    ]
    return Section("skipped", "What is skipped", sentences or ["nothing is skipped"], [])


# --- What validation shares with training.


def _leakage(inspection: Inspection) -> Section:
    title, leak, labels = "What validation shares with training", inspection.leakage, inspection.labels
    if leak is None:
        return Section("leakage", title, ["leakage cannot be measured without both splits"], [])
    shared = count(len(leak.shared_tiles), "file name")
    sentences = [
        f"{leak.in_shared_scenes / leak.samples:.0%} of the validation samples lie in scenes that are also in training"
        f" ({len(leak.shared_scenes):,} of {count(leak.scenes, 'scene')})",
        *(
            [f"both splits have {shared} in common, such as {_examples(leak.shared_tiles)}"]
            if leak.shared_tiles
            else []
        ),
        *(
            [
                f"{count(len(leak.shared_pictures), 'validation tile')} also in training under another name, such as"
                f" {_examples(leak.shared_pictures[0])}"
            ]
            if leak.shared_pictures
            else []
        ),
        f"{len(leak.pairs):,} of {count(leak.samples, 'validation sample')} have a near-duplicate in training; about"
        f" {leak.by_chance:.0f} are expected by chance (near-duplicates: {CRITERION})",
    ]
    rows = (
        (labels.tile[ours], labels.tile[theirs], number(labels.height[ours]), number(labels.length_px[ours], 1))
        for ours, theirs in leak.pairs
    )
    columns = ("validation", "training", "height, m", "length, px")
    return Section("leakage", title, sentences, _table("Near-duplicates", columns, 2, rows, len(leak.pairs)))


# --- The label audit.


def _closed_form(inspection: Inspection) -> Section:
    labels, audit, sentences = inspection.labels, inspection.closed_form, []
    for split in inspection.tables:
        of_split = labels.split == split
        known, off = int(audit.known[of_split].sum()), int(of_split[audit.flagged].sum())
        largest = np.abs(audit.deviation[of_split]).max(initial=0.0)
        without = f"; {of_split.sum() - known:,} have no gsd, roll or pitch" if known < of_split.sum() else ""
        sentences.append(
            f"{split}: {off:,} of {known:,} heights deviate from the closed form by more than rounding explains;"
            f" the largest difference is {number(largest, 3)} m{without}"
        )
    sentences.append(f"rounding explains ± {HALF_DIGIT} m, and what the last digits of roll and pitch add to it")
    metres = (labels.height, labels.expected, audit.deviation)
    rows = (
        (labels.tile[i], labels.split[i], str(labels.region[i]), *(number(values[i]) for values in metres))
        for i in audit.flagged
    )
    columns = ("tile", "split", "region", "label, m", "formula, m", "off by, m")
    tables = _table("Labels that deviate, the worst first", columns, 2, rows, len(audit.flagged))
    return Section("formula", "Heights against the closed form", sentences, tables)


def _scales(inspection: Inspection) -> Section:
    labels, scales = inspection.labels, inspection.scales
    sentences = [
        f"{len(scales):,} of {count(len(np.unique(labels.scene)), 'scene')} have no constant scale (height ÷ length):"
        f" no single scale gives all their heights to ± {HALF_DIGIT} m from polylines in whole pixels"
    ]
    if rounded := sum(scene.vertex_rounding for scene in scales):
        sentences.append(
            f"{rounded:,} of these would be constant if the heights had been computed before the vertices were rounded"
            f" to whole pixels (± {VERTEX_PX:.2f} px per segment)"
        )
    if len(inspection.repeated):
        repeated, examples = count(len(inspection.repeated), "polyline"), labels.tile[inspection.repeated].tolist()
        sentences.append(f"{repeated} repeated within one tile, and kept, such as {_examples(examples)}")
    for split, twins in inspection.twins.items():
        if twins:
            repeated = count(len(twins), "picture")
            sentences.append(f"{split}: {repeated} also there under another name, such as {_examples(twins[0])}")
    rows = (
        (
            labels.tile[i],
            str(labels.region[i]),
            f"{scene.scale:.4g}",
            f"{scene.agreeing:,} of {scene.labels:,}",
            number(labels.height[i]),
            number(scene.deviation[0]),
        )
        for scene in scales
        for i in scene.flagged[:1]
    )
    columns = ("worst tile of the scene", "region", "scale, m/px", "agree", "label, m", "off by, m")
    tables = _table("Scenes without a constant scale, the worst first", columns, 1, rows, len(scales))
    return Section("scale", "One scale per scene", sentences, tables)


# --- What changed since another release.


def _changes(inspection: Inspection, changes: Changes) -> Section:
    sentences = [
        f"compared with {printable(changes.other, LONGEST)}",
        *(_tally(split, splits) for split, splits in changes.splits.items()),
        *(f"{split}: not compared, because this release lacks it" for split in inspection.missing),
        *(
            f"{split}: not compared, because the other release lacks it: {printable(why, 10 * LONGEST)}"
            for split, why in changes.missing.items()
        ),
    ]
    lists = [
        (split, name, items)
        for split, splits in changes.splits.items()
        for name, items in vars(splits).items()
        if isinstance(items, list)
    ]
    tables = []
    for split, name, items in lists:  # a table for each kind of change
        columns = ("tile", "region", "label") if name.startswith("labels") else ("tile",)
        tables += _table(f"{split}: {name.replace('_', ' ')}", columns, 3, map(_change, items), len(items))
    return Section("changes", "What changed", sentences, tables)


def _tally(split: Split, changes: SplitChanges) -> str:
    if changes.nothing:
        pictures, labels = count(changes.pictures_same, "picture"), count(changes.labels_same, "label")
        return f"{split}: no change in {pictures} and {labels}"
    numbers = {name: value if isinstance(value, int) else len(value) for name, value in vars(changes).items()}
    pictures, labels = (
        ", ".join(f"{numbers[f'{kind}_{name}']:,} {words}" for name, words in TALLY.items())
        for kind in ("pictures", "labels")
    )
    return f"{split}: pictures {pictures}; labels {labels}"


def _change(item: str | Label | ChangedLabel) -> tuple[str, ...]:
    """A row of a table of changes."""
    if isinstance(item, str):
        return (item,)
    if isinstance(item, Label):
        return item.tile, str(item.region), _value(item, "height")
    changes = (f"{what} {_value(item.before, what)} → {_value(item.after, what)}" for what in item.what)
    return item.after.tile, str(item.after.region), "; ".join(changes)


def _value(label: Label, what: str) -> str:
    if what == "height":
        return f"{number(label.height)} m"
    if what == "polyline":
        return " ".join(f"{x:g},{y:g}" for x, y in label.polyline)
    return " ".join("–" if value is None else f"{value:g}" for value in label.metadata)


# --- Texts and tables.


def _table(
    title: str, columns: tuple[str, ...], texts: int, rows: Iterable[tuple[str, ...]], total: int
) -> list[Table]:
    """The table of the first of `total` rows, or no table where there is no row."""
    return [Table(title, columns, texts, list(islice(rows, ROWS)), total)] if total else []


def _examples(names: Iterable[str]) -> str:
    return ", ".join(printable(name, LONGEST) for name in list(dict.fromkeys(names))[:EXAMPLES])
