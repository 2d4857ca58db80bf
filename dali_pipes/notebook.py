"""What a notebook shows of an object: its one line, then the first rows of a table. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import islice

from .console import printable

ROWS = 10  # of a table that is shown


def as_html(line: str, rows: Iterable[Mapping[str, object]] = (), total: int = 0) -> str:
    """Return `line`, and the first of `total` rows (column → value) as an HTML table."""
    shown = list(islice(rows, ROWS))
    if not shown:
        return f"<p>{_text(line)}</p>"
    more = f"<p>… and {total - len(shown):,} more rows</p>" if total > len(shown) else ""
    body = "".join(_row("td", row.values()) for row in shown)
    return f"<p>{_text(line)}</p><table>{_row('th', shown[0])}{body}</table>{more}"


def _row(tag: str, values: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_text(str(value))}</{tag}>' for value in values)}</tr>"


def _text(value: str) -> str:
    return escape(printable(value, 120))
