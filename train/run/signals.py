"""Signals that end a run in order: at the end of a step, where all is saved first, and elsewhere at once.

| signal | exit status | read by schedulers as |
|---|---|---|
| SIGTERM | 143 | ended as asked (128 + 15) |
| SIGUSR1 | 75 | EX_TEMPFAIL of sysexits.h: the same command, started again, goes on |
| SIGINT | 130 | Ctrl-C (128 + 2) |

A second signal ends the process at once.  Within `SAME` seconds it is taken for the first one once more: schedulers
signal every process of a job, and torchrun passes on what it received itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 75, signal.SIGINT: 130}
SAME = 2.0
SAVED = "what was saved is whole"
PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


class Stopped(BaseException):
    """A run ended by a signal; the message is a sentence for the user.

    No Exception, as KeyboardInterrupt is none: nobody who waits for an error shall take it for one.
    """

    def __init__(self, number: int, state: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {state}: add --resume to go on")
        self.status = EXIT_STATUS[signal.Signals(number)]


class Signals:
    """Turns the first signal into `Stopped`, or remembers it; a context manager.

    `received`: its number, 0 if there was none.  Outside the main thread, where Python allows no handlers, nothing is
    received.
    """

    def __init__(self) -> None:
        self.received = 0
        self._at = 0.0
        self._only_remember = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in EXIT_STATUS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """In here nothing is raised: who asks for it looks at `received`, and saves what would be lost."""
        self._only_remember = True
        yield
        self._only_remember = False
        if self.received:  # since the last look
            raise Stopped(self.received, SAVED)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._at = number, time.monotonic()
            if not self._only_remember:
                raise Stopped(number, SAVED)
        elif time.monotonic() - self._at > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def end_with_parent() -> None:
    """Have the kernel send SIGUSR1 where the process that started this one is gone.

    torchrun that is killed, also by a SIGUSR1 that it was not told to handle, leaves its ranks behind: they would train
    on, into the folder that the next start goes on from.  Linux alone can do this.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)


def ignore_echoes() -> None:
    """Let what signalled this process once more not change its exit status while the interpreter winds up."""
    if threading.current_thread() is threading.main_thread():
        for number in EXIT_STATUS:
            signal.signal(number, signal.SIG_IGN)
