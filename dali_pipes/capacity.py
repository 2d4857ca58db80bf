"""Free space: bytes of host memory and of a disk that this process may still use."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .errors import InputError

LEAST_ADDRESS_SPACE = 6 << 30  # bytes; torch with its CUDA libraries and DALI map 4.7 GiB before the first batch


class Cgroup(NamedTuple):
    """The files in which one version of Linux's control groups reports the memory of a container."""

    folder: str
    limit: str
    used: str
    cached: str
    """Key in memory.stat: cached files that count as `used` but are dropped when memory is short."""


V1 = Cgroup("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = Cgroup("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of host memory that can be allocated without swapping; None if the system does not report it.

    The minimum of what the machine has and what each control group around this process leaves. In a container
    /proc/meminfo still describes the machine, and may show ten times the memory of the container. `root`: the
    folder that contains proc and sys.
    """
    machine = (int(line.split()[1]) * 1024 for line in _lines(root / "proc/meminfo") if line.startswith("MemAvail"))
    return min([*machine, *_free_in_cgroups(root)], default=None)


def _free_in_cgroups(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = V1 if controllers else V2
        group = PurePosixPath(path.lstrip("/"))
        for ancestor in (group, *group.parents):  # each limits all groups inside it
            folder = root / version.folder / ancestor
            limit, used = ("".join(_lines(folder / name)) for name in (version.limit, version.used))
            if limit.isdecimal() and used.isdecimal():  # otherwise there is no limit, or it is "max"
                stat = dict(line.split() for line in _lines(folder / "memory.stat"))
                yield max(0, int(limit) - int(used) + int(stat.get(version.cached, 0)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def check_address_space() -> None:
    """Raise InputError if `ulimit -v` is too low to import torch and DALI, which abort the process in that case."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise InputError(
            f"expected an address space of at least {LEAST_ADDRESS_SPACE >> 30} GiB for torch and DALI, found a limit"
            f" of {limit / 2**30:.1f} GiB; raise it with ulimit -v unlimited"
        )


def free_disk(folder: Path) -> int:
    """Bytes free on the disk of `folder`, which need not exist yet. Raises OSError if it cannot be written."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):  # mode bits show neither a read-only mount nor what root may do
        return shutil.disk_usage(existing).free
