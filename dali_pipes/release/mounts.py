"""Which file system a path is on: a network mount, and FUSE as for Google Drive, reads small pieces slowly."""

from __future__ import annotations

import re
from pathlib import Path

_SLOW = re.compile(r"fuse|nfs|cifs|smb|9p|drvfs|ceph|lustre|gpfs|beegfs|afs|glusterfs|virtiofs")


def slow_mount(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the FUSE or network file system that `path` is on, such as fuse.drive, or "".

    What is mounted at / does not count: in a container it may be such a file system, and no other disk is known.
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    where, found, kind = path.resolve(), Path("/"), ""
    for line in lines:
        fields, _, file_system = line.partition(" - ")
        mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4]))
        if where.is_relative_to(mount) and mount.is_relative_to(found):  # a later mount hides an earlier one
            found, kind = mount, file_system.split()[0]
    return kind if found != Path("/") and _SLOW.match(kind) else ""
