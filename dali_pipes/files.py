"""Files that are written whole or not at all, even across a crash or a power cut, and a lock between processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, fsync it, rename it to `path`, and fsync the folder.

    The unfinished file has one name a path, so that one left by a kill is overwritten by the next try.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; lone surrogates, which a hostile file name may hold, become escapes."""
    write_whole(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


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
