"""What commands show on a terminal: text of users as it is, and the progress of long work.

Every line that a command prints with a path, a name or a label goes through `say`, and every cell through `cell`.
Each command calls `accept_all_characters`, so that text is also shown where the terminal's encoding lacks a character.

Long work runs inside an `activity`:

    with activity(console, "checking tiles", total=2000) as shown:
        for tile in tiles:
            …
            shown.done += 1

The work only sets attributes; a thread reads and shows them, so that the work never waits for the terminal.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Literal, TextIO, TypeVar

from .units import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.constrain import Constrain
    from rich.text import Text

_NO_BREAK = "\N{NO-BREAK SPACE}"  # between a number and its unit
QUIET_FOR = 10.0
"""Seconds without a line after which an activity prints one, where it draws no bar."""

ProgressStyle = Literal["auto", "bar", "plain"]
Item = TypeVar("Item")

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
    _Lines.last = time.monotonic()


def cell(text: str) -> Text:
    """Return the cell of a table that shows `text` exactly as it is."""
    from rich.text import Text

    return Text(printable(text))


# --- Where bars can be drawn.


def open_console(progress: ProgressStyle = "auto", *, stderr: bool = False, quiet: bool = False) -> Console:
    """A console on which an activity draws a bar, or prints lines. `progress` is the value of --progress."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    bars = progress == "bar" or (progress == "auto" and draws_bars(os.environ, is_terminal=stream.isatty()))
    return Console(stderr=stderr, quiet=quiet, force_terminal=progress == "bar" or None, force_interactive=bars)


def draws_bars(environment: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Whether a line can be drawn again: not in a file, a notebook, a CI log, or a terminal without cursor movement.

    `!command` in a notebook runs on a pseudo-terminal, whose output is a growing text. It inherits the variables of
    the kernel: jupyter_client sets JPY_PARENT_PID, ipykernel the two others of `TERMINAL_OF_IPYKERNEL`.
    """
    if not is_terminal or environment.get("TERM", "") in ("dumb", "unknown", ""):
        return False
    if any(environment.get(name) not in (None, "", "false", "0") for name in ("CI", "JPY_PARENT_PID")):
        return False
    if any(name.startswith(("COLAB_", "KAGGLE_")) for name in environment):
        return False
    return any(environment.get(name) != value for name, value in TERMINAL_OF_IPYKERNEL.items())


TERMINAL_OF_IPYKERNEL = {"TERM": "xterm-color", "GIT_PAGER": "cat"}


# --- Progress.


def activity(console: Console, title: str, total: int | None = None) -> Activity:
    """Shows `title` and how much of `total` is done, as a bar or as lines, whichever `console` allows."""
    kind = Activity if console.quiet else _Bar if console.is_interactive else _Lines
    return kind(console, title, total)


class Activity:
    """Work that takes a while; a context manager. This class shows nothing.

    `done`: how much of the total is done. `figures`: facts about the work. `left`: an estimate of the remaining
    seconds, if the work has a better one than from `done`. All may be set at any time.
    """

    _open: ClassVar[list[Activity]] = []  # an inner activity hides the outer one while it is shown

    def __init__(self, console: Console, title: str, total: int | None = None) -> None:
        self.console = console
        self.begin(title, total)

    def begin(self, title: str, total: int | None = None) -> None:
        """Go to the next part of the work."""
        self.title, self.total = title, total
        self.done, self.figures = 0, ""
        self.left: float | None = None
        self._began = time.monotonic()

    def track(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and count each one when the next one is requested."""
        for item in items:
            yield item
            self.done += 1

    def __enter__(self) -> Activity:
        if self.console.quiet:
            return self
        if self._open:
            self._open[-1]._hide()
        self._open.append(self)
        self._show()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.quiet:
            return
        self._hide()
        self._open.remove(self)
        if self._open:
            self._open[-1]._show()

    def _show(self) -> None: ...

    def _hide(self) -> None: ...

    def _progress(self) -> str:
        """How far the work is, such as "312 of 2,000"; empty without a total."""
        return f"{self.done:,} of {self.total:,}" if self.total else ""

    def _time(self) -> str:
        """The remaining time, or the elapsed time if the total is unknown."""
        elapsed = time.monotonic() - self._began
        if not self.total:
            return f"{elapsed:.0f} s"
        known = self.left is not None or self.done
        left = self.left if self.left is not None else elapsed / max(self.done, 1) * (self.total - self.done)
        return f"{duration(max(left, 0.0))} left" if known else ""


class _Lines(Activity):
    """Prints a line when nothing was printed for `QUIET_FOR` seconds."""

    last: ClassVar[float] = time.monotonic()  # when this process last printed a line

    def _show(self) -> None:
        if len(self._open) == 1 and time.monotonic() > _Lines.last + QUIET_FOR:
            _Lines.last = time.monotonic()  # the time before any work is not silence
        self._hidden = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, daemon=True)
        self._thread.start()

    def _hide(self) -> None:
        self._hidden.set()
        self._thread.join()

    def _print_lines(self) -> None:
        while not self._hidden.wait(max(0.0, _Lines.last + QUIET_FOR - time.monotonic())):
            if time.monotonic() >= _Lines.last + QUIET_FOR:  # otherwise another line was printed in the meantime
                facts = ", ".join(filter(None, (self._progress(), self.figures, self._time())))
                with suppress(OSError):  # a closed pipe; the next line of the work itself reports it
                    say(self.console, f"{self.title}: {facts}")


class _Bar(Activity):
    """Draws a spinner and a bar, and below them the figures, several times a second."""

    def _show(self) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._spinner = Spinner("dots" if self.console.encoding.startswith("utf") else "line")
        self._live = Live(
            get_renderable=self._drawn,
            console=self.console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=not self.console.stderr,
        )
        self._live.start()
        self.console.show_cursor()  # a process that is killed could not show it again

    def _hide(self) -> None:
        self._live.stop()

    def _drawn(self) -> Constrain:
        from rich.constrain import Constrain
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        bar = ProgressBar(self.total, self.done) if self.total else ""
        line = Table.grid("", "", "", "", padding=(0, 1), expand=True)
        for column in line.columns:
            column.no_wrap = True
        line.columns[2].ratio = 1
        line.add_row(
            self._spinner, cell(self.title), bar, cell("  ".join(filter(None, (self._progress(), self._time()))))
        )
        both = Table.grid("", expand=True)
        both.add_row(line)
        if self.figures:
            both.add_row(cell(f"  {self.figures}"), style="dim")
        return Constrain(both, self.console.width - 2)  # else the echo of Ctrl-C would begin another line
