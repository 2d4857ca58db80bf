"""What a notebook shows: of an object its one line and the first rows of a table, and pages such as a report.

    Page("runs/one")        # runs/one/report.html, inside the notebook

All text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import islice
from pathlib import Path

from .console import printable
from .errors import InputError
from .units import byte_size

ROWS = 10  # of a table that is shown


def as_html(line: str, rows: Iterable[Mapping[str, object]] = (), total: int = 0) -> str:
    """Return `line`, and the first of `total` rows (column → value) as an HTML table."""
    shown = list(islice(rows, ROWS))
    if not shown:
        return f"<p>{_text(line)}</p>"
    more = f"<p>… and {total - len(shown):,} more rows</p>" if total > len(shown) else ""
    body = "".join(_row("td", row.values()) for row in shown)
    return f"<p>{_text(line)}</p><table>{_row('th', shown[0])}{body}</table>{more}"


class Page:
    """An HTML page of this project, or the report of a run folder, shown `height` pixels high in a notebook.

    Raises InputError if there is no page.
    """

    def __init__(self, path: str | Path, height: int = 800) -> None:
        self.path = Path(path) / "report.html" if Path(path).is_dir() else Path(path)
        self.height = height
        if not self.path.is_file():
            raise InputError(f"expected a page at {self.path}, found none; a run writes it after its last epoch")

    def __repr__(self) -> str:
        return f"Page({self.path}, {byte_size(self.path.stat().st_size)})"

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text("utf-8"))  # in the notebook itself: Colab cannot reach files by their address
        return f'<iframe srcdoc="{page}" width="100%" height="{self.height}" style="border: 0"></iframe>'


def _row(tag: str, values: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_text(str(value))}</{tag}>' for value in values)}</tr>"


def _text(value: str) -> str:
    return escape(printable(value, 120))
