"""A file system without locks, hard links and fsync of folders, as some network file systems and FUSE mounts are.

    Run.start(release, folder, main=lacking(train))

The calls of this process fail as the kernel lets them fail there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any, NoReturn


def lacking(main: Callable[[list[str]], object]) -> Callable[[list[str]], object]:
    """The command `main`, which takes these functions from its process first; only for a process of its own."""

    def limited(arguments: list[str]) -> None:
        fsync = os.fsync

        def fsync_of_files(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            fsync(descriptor)

        fcntl.flock = fcntl.lockf = _raising(errno.ENOLCK)
        os.link = _raising(errno.EPERM)
        os.fsync = fsync_of_files  # type: ignore[assignment]  # of a descriptor, not of any object with one
        main(arguments)

    return limited


def _raising(number: int) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call
