"""Text from users and files on a terminal: never read as markup, and without characters that move a cursor.

Every line that a command prints with a path, a name or a label goes through `say`, and every cell through `cell`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NO_BREAK = "\N{NO-BREAK SPACE}"  # between a number and its unit


def printable(text: str, longest: int | None = None) -> str:
    """Return `text` on one line, with escapes for characters that move a cursor or turn the direction of writing.

    A text of more than `longest` characters loses its middle.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 2 :]}"
    return "".join(c if c.isprintable() or c == _NO_BREAK else c.encode("unicode_escape").decode() for c in text)


def say(console: Console, text: str) -> None:
    """Print one line exactly as it is, whatever it contains."""
    console.print(printable(text), markup=False, highlight=False, emoji=False, soft_wrap=True)


def cell(text: str) -> Text:
    """Return the cell of a table that shows `text` exactly as it is."""
    from rich.text import Text

    return Text(printable(text))
