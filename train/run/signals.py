"""Signals that stop a run: while steps are trained, after saving at the end of a step; at other times, at once.

| signal | exit status | meaning for schedulers |
|---|---|---|
| SIGTERM | 143 | terminated on request (128 + 15) |
| SIGUSR1 | 75 | EX_TEMPFAIL of sysexits.h: start the same command again to resume |
| SIGINT | 130 | Ctrl-C (128 + 2) |
| SIGHUP | 129 | the terminal is gone (128 + 1); ignored under nohup |

A second signal ends the process at once, unless it comes within `ECHO` seconds of the first one: schedulers signal
every process of a job, and torchrun forwards the signal that it received.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 75, signal.SIGINT: 130, signal.SIGHUP: 129}
TIME_LIMIT = 3
"""Stands for --time-limit among the numbers of signals; no handler is installed for it. A signal of schedulers, which
is larger, has precedence."""
ECHO = 2.0
SAVED = "the last checkpoint is intact"


class Stopped(BaseException):
    """A run was stopped by a signal or by --time-limit; the message is a sentence for the user.

    Like KeyboardInterrupt it is not an Exception, so that code that handles errors does not catch it.
    """

    def __init__(self, number: int, state: str, advice: str = "add --resume to continue") -> None:
        reason = "--time-limit" if number == TIME_LIMIT else signal.Signals(number).name
        super().__init__(f"stopped by {reason}; {state}: {advice}")
        self.status = 0 if number == TIME_LIMIT else EXIT_STATUS[signal.Signals(number)]


class Signals:
    """Raises `Stopped` on the first signal, or only stores it within `remembered`; a context manager.

    `received`: the number of the first signal, or 0. Outside the main thread, where Python allows no handlers, signals
    are not handled.
    """

    def __init__(self) -> None:
        self.received = 0
        self._received_at = 0.0
        self._only_remember = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in EXIT_STATUS if _handled(number)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Raise nothing within this block: its code checks `received`, and saves before it stops."""
        self._only_remember = True
        yield
        self._only_remember = False
        if self.received:  # after the last check
            raise Stopped(self.received, SAVED)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._received_at = number, time.monotonic()
            if not self._only_remember:
                raise Stopped(number, SAVED)
        elif time.monotonic() - self._received_at > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _handled(number: signal.Signals) -> bool:
    """Whether to install a handler: nohup starts a process with SIGHUP ignored, and it stays ignored."""
    return number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN


def ignore_echoes() -> None:
    """Ignore further signals, so that they do not change the exit status while the interpreter shuts down."""
    if threading.current_thread() is threading.main_thread():
        for number in EXIT_STATUS:
            signal.signal(number, signal.SIG_IGN)
