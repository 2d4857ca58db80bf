"""Text from users and files on a terminal: never read as markup, and without characters that move a cursor.

Every line that a command prints with a path, a name or a label goes through `say`, and every cell through `cell`.
Each command calls `accept_all_characters`, so that text is also shown where the terminal's encoding lacks a character.
"""

from __future__ import annotations

import codecs
import io
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NO_BREAK = "\N{NO-BREAK SPACE}"  # between a number and its unit

IN_ASCII = {
    "−": "-",
    "–": "-",
    "±": "+-",
    "÷": "/",
    "×": "x",
    "→": "->",
    "↺": "<-",
    "…": "...",
    "σ": "sigma",
    "β": "beta",
    "²": "2",
    "½": "1/2",
    "√": "sqrt",
    "°": " deg",
    "≤": "<=",
    "≥": ">=",
    "·": "-",
    "•": "*",
    "†": "+",
    "‡": "++",
    "─": "-",
    "━": "-",
    "│": "|",
    "╭": "+",
    "╮": "+",
    "╰": "+",
    "╯": "+",
    "╸": "-",
    "╺": "-",
    _NO_BREAK: " ",
}
"""Signs of our own texts, and how they are written where the encoding of the output lacks them."""


def accept_all_characters() -> None:
    """Let stdout and stderr print every character, also in ASCII or EUC-KR, and warnings of libraries stay on one line.

    A sign that the encoding lacks is spelled as in `IN_ASCII`, and any other character becomes an escape.
    """
    codecs.register_error("spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spelled")
    warnings.showwarning = _show_warning


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """A handler of `codecs`: what to write in place of the characters that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(c) or c.encode("unicode_escape").decode() for c in missing), error.end


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one printable line; a library may put names of files into it."""
    print(printable(f"{filename}:{lineno}: {category.__name__}: {message}"), file=file or sys.stderr)


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
