"""Runs a command on a pseudo-terminal, and shows what a user would see on it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyte

ROOT = Path(__file__).parent.parent
ROWS = 60


@dataclass(frozen=True)
class Shown:
    """What a command showed."""

    screens: list[list[str]]
    """Each change of the screen, as lines without trailing blanks."""
    raw: bytes
    status: int
    """Exit status."""
    cursor_hidden: bool
    """At the end."""
    seconds: list[float]
    """When each change came."""

    @property
    def final(self) -> list[str]:
        """The screen at the end."""
        return self.screens[-1]


def on_terminal(
    argv: list[str], columns: int = 80, environment: Mapping[str, str] = {}, *, interrupt_at: str = ""
) -> Shown:
    """Run Python with `argv` on a terminal of `columns`; press Ctrl-C when `interrupt_at` is on the screen."""
    usual = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "LINES", "NO_COLOR")}
    child, terminal = pty.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
            os.execve(sys.executable, [sys.executable, *argv], {**usual, "TERM": "xterm-256color", **environment})
        finally:
            os._exit(127)
    screen = pyte.Screen(columns, ROWS)
    stream, raw, screens, seconds = pyte.ByteStream(screen), b"", [[""]], [0.0]
    began = time.monotonic()
    while select.select([terminal], [], [], 60)[0]:
        try:
            received = os.read(terminal, 1 << 16)
        except OSError:  # the child has closed the terminal
            break
        raw += received
        stream.feed(received)
        screens.append([line.rstrip() for line in screen.display if line.strip()])
        seconds.append(time.monotonic() - began)
        if interrupt_at and interrupt_at in "\n".join(screens[-1]):
            os.write(terminal, b"\x03")
            interrupt_at = ""
    else:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return Shown(screens, raw, os.waitstatus_to_exitcode(status), screen.cursor.hidden, seconds)
