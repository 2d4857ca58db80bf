"""What room there is in memory and on a disk, and bytes in words."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Cgroup(NamedTuple):
    """Where a version of Linux's control groups says what a container may use."""

    folder: str
    limit: str
    used: str
    cached: str
    """The line of memory.stat that counts files in `used` which are given up when memory is short."""


V1 = Cgroup("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = Cgroup("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of host memory that can be had without swapping; None where the system does not tell.

    The least of what the machine has and what each control group around this process leaves: /proc/meminfo, which is
    the machine's in a container, too, may promise ten times what the container gets.  `root`: where proc and sys are.
    """
    machine = (int(line.split()[1]) * 1024 for line in _lines(root / "proc/meminfo") if line.startswith("MemAvail"))
    return min([*machine, *_left_by_cgroups(root)], default=None)


def _left_by_cgroups(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = V1 if controllers else V2
        group = PurePosixPath(path.lstrip("/"))
        for around in (group, *group.parents):  # each limits all that is in it
            folder = root / version.folder / around
            limit, used = ("".join(_lines(folder / name)) for name in (version.limit, version.used))
            if limit.isdecimal() and used.isdecimal():  # else there is none, or it is "max"
                stat = dict(line.split() for line in _lines(folder / "memory.stat"))
                yield max(0, int(limit) - int(used) + int(stat.get(version.cached, 0)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be.  Raises OSError if nothing can be written there."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):  # mode bits do not tell: not of read-only mounts, nor to root
        return shutil.disk_usage(existing).free


def in_words(count: int) -> str:
    """Bytes in GiB, or in MiB where they are few: 1.2 GiB, 310 MiB."""
    return f"{count / 2**20:.0f} MiB" if count < 2**29 else f"{count / 2**30:.1f} GiB"
