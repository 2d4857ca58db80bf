"""Texts in a CSV that no spreadsheet takes for a formula.

A spreadsheet runs a cell that begins with = + - or @, also after a tab or a line end, and quotes do not prevent it. The
names of tiles come from other people's files. Such a text is therefore written with an apostrophe in front, the sign by
which spreadsheets mark a text, and read back without it:

    =1+1.jpg  ─ escaped ─►  '=1+1.jpg  ─ unescaped ─►  =1+1.jpg

A text that already begins with apostrophes and one of these characters gets one more, so that every text comes back.
"""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # spreadsheets in Asian languages take the wide signs


def escaped(text: str) -> str:
    """Return a text as the cell of a CSV. Numbers are not passed through this: -1.5 is one."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescaped(cell: str) -> str:
    """Return the text of a cell; the inverse of `escaped`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
