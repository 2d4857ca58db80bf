"""The output of a benchmark: tables to read, then one JSON object, in a file or as the last line.

The JSON object also contains the tables, so that `bench.fill` can copy them into a page as they were printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measure.timing import Rate
from dali_pipes.command import check_out, default_is
from dali_pipes.console import say
from dali_pipes.files import write_text

if TYPE_CHECKING:
    import torch

WIDTH = 140  # columns where the output is not a terminal


def grid(title: str, *columns: str, first: str = "") -> Table:
    """An empty table: a left-aligned column `first` with the names of the rows, then right-aligned `columns`."""
    table = Table(first, title=title, box=None, title_justify="left", caption_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table


@dataclass(frozen=True, kw_only=True)
class Output:
    """The flags of every benchmark about its output."""

    json: Annotated[Path | None, default_is("the last line of the output, unless that is a terminal")] = None
    """File for the results as a JSON object."""

    def __post_init__(self) -> None:
        if self.json is not None:
            check_out(self.json, "--json")


def report(tables: Sequence[Table], results: Mapping[str, Any], device: torch.device, file: Path | None = None) -> None:
    """Print the tables, the hardware, and everything as one JSON object: into `file`, or else as the last line."""
    from train.machine.choices import describe

    machine = describe(device)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(*tables, sep="\n\n")
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    everything = {**results, "tables": [as_plain(table) for table in tables], "hardware": machine}
    text = json.dumps(everything, default=lambda x: vars(x) if isinstance(x, Rate) else str(x))
    if file is not None:
        write_text(file, f"{text}\n")
        say(console, f"results: {file}")
    elif not console.is_terminal:  # on a terminal it would fill the screen
        print(text)


def as_plain(table: Table) -> dict[str, Any]:
    """A table as plain values: `title`, `columns`, `rows` and `caption`."""
    columns = [[_text(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": _text(table.title),
        "columns": [_text(column.header) for column in table.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "caption": _text(table.caption),
    }


def as_markdown(plain: Mapping[str, Any]) -> str:
    """A table from `as_plain` in Markdown, its title before it and its caption after it."""
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [plain["columns"], *plain["rows"]]]
    rule = ["---", *("---:" for _ in rows[0][1:])]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])
    return "\n\n".join(text for text in (plain["title"], lines, plain["caption"]) if text)


def _text(cell: Any) -> str:
    return "" if cell is None else cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain
