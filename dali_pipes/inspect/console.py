"""An inspection on a terminal: its sections, the first rows of each table, and small plots.

Names come from other people's files: none is read as markup, and all are made printable.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import table as rich
from rich.console import Console
from rich.text import Text

from ..console import IN_ASCII, printable, say
from .findings import LONGEST, Plot, Table, headline, missing_splits, sections
from .inspection import Inspection

ROWS = 10  # of a table on a terminal; --json has all
BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def show(inspection: Inspection, console: Console) -> None:
    """Print the whole inspection."""

    utf = console.encoding.startswith("utf")
    signs, blocks = ({}, BLOCKS) if utf else (str.maketrans(IN_ASCII), ASCII_BLOCKS)

    def say_all(*sentences: str) -> None:
        for sentence in sentences:
            say(console, sentence.translate(signs))

    say_all(printable(inspection.release, LONGEST), headline(inspection), *missing_splits(inspection))
    for section in sections(inspection):
        console.print()
        console.print(section.title, style="bold")
        say_all(*section.sentences)
        for table in section.tables:
            if table.title:
                say_all(f"{table.title}:")
            console.print(_table(table, signs))
        if section.plots:
            console.print(_plots(section.plots, blocks))


def _table(table: Table, signs: dict[int, str]) -> rich.Table:
    shown = _columns(*table.columns, texts=table.texts)
    for row in table.rows[:ROWS]:
        shown.add_row(*(Text(printable(cell, LONGEST).translate(signs)) for cell in row))
    if table.total > ROWS:
        shown.caption = f"and {table.total - ROWS:,} more; --json has all"
    return shown


def _plots(plots: Sequence[Plot], blocks: str) -> rich.Table:
    shown = _columns("", "", "", "", texts=4)
    shown.show_header = False
    shown.columns[2].no_wrap = True
    for plot in plots:
        shown.add_row(plot.quantity, plot.split, bars(plot.histogram.counts, blocks), plot.caption)
    return shown


def bars(counts: Sequence[int], blocks: str = BLOCKS) -> str:
    """One character per bin, as high as its count; a bin that is not empty is never blank."""
    top, most = len(blocks) - 1, max(max(counts, default=0), 1)
    return "".join(blocks[-(-top * count // most)] for count in counts)


def _columns(*columns: str, texts: int) -> rich.Table:
    table = rich.Table(box=None, pad_edge=False, header_style="dim", caption_justify="left", caption_style="dim")
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i < texts else "right", overflow="fold", vertical="bottom")
    return table
