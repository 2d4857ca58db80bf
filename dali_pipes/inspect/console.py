"""An inspection on a terminal: counts, small plots, sentences, and the worst of what was flagged.

Names come from other people's files: none is read as markup, and all are made printable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..samples.table import Split
from . import findings as findings
from .comparison import Comparison
from .findings import metres, printable
from .inspection import UNITS, Count, Inspection

MOST = 10  # rows of a list on a terminal; --json has all of them
BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def show(found: Inspection, console: Console) -> None:
    """Print all of it."""

    def say(sentences: Iterable[str]) -> None:
        for sentence in sentences:
            console.print(sentence, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def section(title: str, sentences: Iterable[str], *tables: Table | None) -> None:
        console.print()
        console.print(title, style="bold")
        say(sentences)
        for table in tables:
            if table is not None:
                console.print(table)

    say([printable(found.release), *findings.missing_in_words(found)])
    console.print(_totals(found))
    console.print(_counted("sensor", found.counts(found.sensor), list(found.tables)))
    console.print(_counted("scene", found.counts(found.labels.scene), list(found.tables)))
    console.print(_plots(found, BLOCKS if console.encoding.startswith("utf") else ASCII_BLOCKS))
    section("left out", findings.left_out_in_words(found))
    section("leakage", findings.leakage_in_words(found), _near_duplicates(found))
    closed_form = findings.closed_form_in_words(found)
    section("label audit: heights against the closed form", closed_form, _off_the_formula(found))
    scales = [*findings.scales_in_words(found), *findings.repeated_in_words(found)]
    section("label audit: one scale a scene", scales, _off_their_scene(found))
    if found.changes is not None:
        section("what changed", findings.changes_in_words(found))
        for split, comparison in found.changes.splits.items():
            if not comparison.nothing:
                console.print(_changes(split, comparison))


# --- Counts and plots.


def _totals(found: Inspection) -> Table:
    table = _table("", *found.tables)
    totals = [found.total(split) for split in found.tables]
    for name in Count._fields:
        table.add_row(name, *(f"{getattr(total, name):,}" for total in totals))
    table.add_row("left out", *(f"{len(samples.left_out):,}" for samples in found.tables.values()))
    return table


def _counted(noun: str, counts: dict[str, dict[Split, Count]], splits: Sequence[Split]) -> Table:
    fields = [field for field in Count._fields if not field.startswith(noun)]
    table = _table(
        f"\n{noun}", *(f"{'' if i else split}\n{field}" for split in splits for i, field in enumerate(fields))
    )
    for name, of in list(counts.items())[:MOST]:
        table.add_row(_name(name), *(f"{getattr(of[split], field):,}" for split in splits for field in fields))
    return _with_rest(table, len(counts), f"{noun}s")


def _plots(found: Inspection, blocks: str) -> Table:
    table = _table("", "", "least", "", "greatest", "median", lefts=2)
    table.columns[3].justify, table.columns[3].no_wrap = "left", True
    for name, splits in found.distributions().items():
        for i, (split, spread) in enumerate(splits.items()):
            figures = [f"{value:.4g}" for value in (spread.least, spread.greatest, spread.median)]
            table.add_row("" if i else UNITS[name], split, figures[0], bars(spread.counts, blocks), *figures[1:])
            if spread.beyond:
                table.add_row("", "", "", f"{spread.beyond:,} beyond the ends", "", "")
    return table


def bars(counts: Sequence[int], blocks: str = BLOCKS) -> str:
    """One character a bin, as high as its count; a bin that is not empty is never blank."""
    top, most = len(blocks) - 1, max(max(counts, default=0), 1)
    return "".join(blocks[-(-top * count // most)] for count in counts)


# --- What was flagged, the worst first.


def _near_duplicates(found: Inspection) -> Table | None:
    if found.leakage is None or not len(found.leakage.pairs):
        return None
    table, labels = _table("\nvalidation", "\ntraining", "height\nm", "length\npx", lefts=2), found.labels
    for ours, theirs in found.leakage.pairs[:MOST]:
        figures = metres(labels.height[ours]), f"{labels.length_px[ours]:.1f}"
        table.add_row(_name(labels.tile[ours]), _name(labels.tile[theirs]), *figures)
    return _with_rest(table, len(found.leakage.pairs), "pairs")


def _off_the_formula(found: Inspection) -> Table | None:
    flagged, labels = found.closed_form.flagged, found.labels
    if not len(flagged):
        return None
    table = _table("tile", "split", "region", "label", "formula", "off by", lefts=2)
    for i in flagged[:MOST]:
        figures = (metres(value[i]) for value in (labels.height, labels.expected, found.closed_form.deviation))
        table.add_row(_name(labels.tile[i]), labels.split[i], str(labels.region[i]), *figures)
    return _with_rest(table, len(flagged), "labels")


def _off_their_scene(found: Inspection) -> Table | None:
    if not found.scales:
        return None
    table = _table("worst tile of the scene", "region", "scale", "agree", "label", "off by")
    for scene in found.scales[:MOST]:
        worst = scene.flagged[0]
        where = _name(found.labels.tile[worst]), str(found.labels.region[worst])
        agree = f"{scene.agreeing:,} of {scene.labels:,}"
        figures = f"{scene.scale:.4g}", agree, metres(found.labels.height[worst]), metres(scene.deviation[0])
        table.add_row(*where, *figures)
    return _with_rest(table, len(found.scales), "scenes")


def _changes(split: Split, changes: Comparison) -> Table:
    table = _table(split, "", "", lefts=3)
    for kind, names in (
        ("added", changes.pictures_added),
        ("removed", changes.pictures_removed),
        ("changed", changes.pictures_changed),
    ):
        for name in names[:MOST]:
            table.add_row(f"picture {kind}", _name(name), "")
        _rest_of(table, f"picture {kind}", len(names))
    for kind, labels in (("added", changes.labels_added), ("removed", changes.labels_removed)):
        for label in labels[:MOST]:
            table.add_row(f"label {kind}", _name(label.tile), f"region {label.region}, {metres(label.height)} m")
        _rest_of(table, f"label {kind}", len(labels))
    for change in changes.labels_changed[:MOST]:
        table.add_row(
            "label changed",
            _name(change.after.tile),
            f"region {change.after.region}, {findings.change_in_words(change)}",
        )
    _rest_of(table, "label changed", len(changes.labels_changed))
    return table


# --- Tables.


def _table(*columns: str, lefts: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", caption_justify="left", caption_style="dim")
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i < lefts else "right", overflow="fold")
    return table


def _name(name: str) -> Text:
    """A name as a cell: Text is never read as markup."""
    return Text(printable(name))


def _with_rest(table: Table, n: int, noun: str) -> Table:
    if n > MOST:
        table.caption = f"and {n - MOST:,} {noun} more; --json has all"
    return table


def _rest_of(table: Table, what: str, n: int) -> None:
    if n > MOST:
        table.add_row(what, f"and {n - MOST:,} more; --json has all", "")
