"""A rank ends when torchrun ends.

A killed torchrun leaves its ranks behind. They would write into the folder that the next start resumes, or wait half an
hour for other ranks. Two mechanisms end them, wherever they are:

1. On Linux the kernel sends SIGUSR1 when the parent ends. While a rank imports, this ends it; later it saves and ends.
2. A thread looks at the parent. It sends the signal where the kernel does not, and ends the process after `GRACE`
   seconds: the main thread may wait in C++ for other ranks, where Python handles no signal.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
POLL = 1.0  # seconds
GRACE = 30.0  # seconds for saving, as torchrun gives
EXIT_STATUS = 75  # EX_TEMPFAIL: start me again


def end_with_torchrun() -> None:
    """Call this first in a process that torchrun may have started; does nothing in others.

    Exits with status 75 if torchrun has already ended.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


@cache  # a second call would start a second thread
def end_with_parent() -> None:
    """End this process when its parent ends, with SIGUSR1 and time to save. Exits if the parent has already ended."""
    parent = os.getppid()
    kernel_signals = _ask_kernel()
    if os.getppid() != parent or _is_init(parent):  # it ended before the kernel was asked
        print("torchrun has ended, so this rank ends, too", file=sys.stderr)
        raise SystemExit(EXIT_STATUS)
    Thread(target=_watch, args=(parent, kernel_signals), name="parent", daemon=True).start()


def _ask_kernel() -> bool:
    with suppress(OSError, AttributeError):
        return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1) == 0
    return False


def _is_init(parent: int) -> bool:
    """Whether the parent is the process that gets all orphans; in a container torchrun itself may be process 1."""
    if parent != 1:
        return False
    with suppress(OSError):
        return not Path("/proc/1/comm").read_text().startswith(("python", "torchrun", "pt_"))
    return sys.platform != "linux"


def _watch(parent: int, kernel_signals: bool) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    if not kernel_signals:  # otherwise this would count as a second signal, which ends a run while it saves
        os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(GRACE)
    os._exit(EXIT_STATUS)
