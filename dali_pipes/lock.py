"""One process at a time, by a lock on a file: the ranks of a node that want the same thing agree on who makes it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Hold the file `lock`, which stays; yields False where the file system knows no locks, and others may be here.

    If the holder dies, the kernel frees the lock.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = True
        except OSError:
            held = False
        yield held
