"""Signals that end a run in order: the loop sees them at the end of a step, saves, and leaves.

| signal | exit status | read by schedulers as |
|---|---|---|
| SIGTERM | 143 | ended as asked (128 + 15) |
| SIGUSR1 | 75 | EX_TEMPFAIL of sysexits.h: the same command, started again, goes on |
| SIGINT | 130 | Ctrl-C (128 + 2) |

A second signal ends the process at once.  Within `SAME` seconds it is taken for the first one once more: schedulers
signal every process of a job, and torchrun passes on what it received itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 75, signal.SIGINT: 130}
SAME = 2.0


class Stopped(Exception):
    """A run ended by a signal after it saved where it was; the message is a sentence for the user."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.status = EXIT_STATUS[signal.Signals(number)]


class Signals:
    """Remembers the first signal; a context manager.  `received`: its number, 0 if there was none.

    Outside the main thread, where Python allows no handlers, it remembers nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in EXIT_STATUS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._at = number, time.monotonic()
        elif time.monotonic() - self._at > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
