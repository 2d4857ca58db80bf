"""One run, one folder: a lease names the process that writes into a run folder, and a second one is refused.

    with lease(out):  # raises InputError if another process has the folder
        ...

The lease is the file `.lease-1`. Its first line is the owner: host, process, start time. Its second line is a counter,
which a thread of the owner increases every `BEAT` seconds. The owner deletes the file at its end.

- An owner on this machine is looked up in the kernel: a dead one is replaced at once.
- An owner elsewhere, such as on another node or in another container, is watched. It is alive if the counter changes.
  If the counter stays the same for `STALE` seconds, the owner is replaced. Only changes count, so the clocks of two
  machines may differ.

The file system needs no locks, hard links or mmap. Whoever replaces `.lease-1` creates `.lease-2`, which only one
process can do, and then deletes `.lease-1`. An owner that was replaced because it was suspended, or cut off from the
file system, for more than `STALE` seconds, finds the other lease before its next write, and ends without writing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from dali_pipes.command import check_out_folder
from dali_pipes.console import printable
from dali_pipes.errors import InputError
from dali_pipes.files import sweep

BEAT = 5.0  # seconds from one heartbeat to the next
STALE = 60.0  # seconds without a heartbeat after which the owner on another machine counts as dead


class Owner(NamedTuple):
    """A process, as a lease names it."""

    host: str
    pid: int
    machine: str
    """The boot of the kernel and the namespace of `pid`: in containers, and after a reboot, it means another process.
    Empty where the kernel does not report both."""
    started: str
    """When the process started, in ticks since the boot; process numbers are used again."""
    since: str
    """When it took the folder, for the user."""
    token: str
    """Random."""

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        started = _start_of(os.getpid()) or ""
        since = f"{datetime.now():%Y-%m-%d %H:%M}"
        return cls(socket.gethostname(), os.getpid(), _machine(), started, since, secrets.token_hex(8))

    def is_same_process(self, other: Owner) -> bool:
        """Whether both are one process."""
        return self[:4] == other[:4]

    def is_alive(self) -> bool | None:
        """Whether the process runs; None if it does not run on this machine."""
        if not self.machine or self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it belongs to another user
            pass
        return _start_of(self.pid) in (self.started, None)


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Make the run folder if there is none, and keep other processes from writing into it.

    Also deletes the unfinished files that killed processes left. A folder that is still empty at the end is deleted.
    Raises InputError if another process has the folder, and OSError if it cannot be written.
    """
    check_out_folder(folder)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    me, ended = Owner.here(), Event()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = _acquire(folder, me)
        renewing = Thread(target=_renew, args=(path, me, ended), name="lease", daemon=True)
        renewing.start()
        try:
            sweep(folder)
            yield
        finally:
            ended.set()
            renewing.join()
            if _owner(_read(path)) == me:
                path.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # the first one that is not empty ends this
            for made in new:
                made.rmdir()


def check_still_ours(folder: Path) -> None:
    """Raise InputError if another process has replaced the lease of this one; called before files are written."""
    here = Owner.here()
    for path in _leases(folder):
        owner = _owner(_read(path))
        if owner and not owner.is_same_process(here):
            raise InputError(
                f"{folder} was taken over by process {owner.pid} on {owner.host}, because this process did not respond"
                f" for {STALE:.0f} s; this process ends without writing"
            )


def _acquire(folder: Path, me: Owner) -> Path:
    """The lease of this process, once no other one is alive."""
    while True:
        dead = _leases(folder)
        for path in dead:
            _refuse_if_alive(folder, path)
        path = folder / f".lease-{1 + max(map(_number, dead), default=0)}"
        try:
            with path.open("xb") as file:  # x: raises if another process was faster; then that one is alive
                file.write(_lines(me))
        except FileExistsError:
            continue
        except OSError:
            path.unlink(missing_ok=True)
            raise
        if set(_leases(folder)) <= {path, *dead}:
            for other in dead:
                other.unlink(missing_ok=True)
            return path
        path.unlink(missing_ok=True)  # somebody else came in between, under another number


def _refuse_if_alive(folder: Path, path: Path) -> None:
    before = _read(path)
    owner = _owner(before)
    alive = owner.is_alive() if owner else None
    if alive is None:
        named = f"process {owner.pid} on {owner.host}" if owner else "another process"
        print(
            printable(f"{folder} was in use by {named}; waiting up to {STALE:.0f} s for a sign of it"), file=sys.stderr
        )
        alive = _changes(path, before)
        owner = _owner(_read(path)) or owner
    if alive:
        named = f"process {owner.pid} on {owner.host}, since {owner.since}" if owner else "another process"
        raise InputError(
            f"{folder} is in use by {named}; wait until it has ended, or choose another --out; if the folder is a copy"
            f" of one in use, delete {path} first"
        )


def _changes(path: Path, before: bytes) -> bool:
    """Whether the lease changes within `STALE` seconds; False if it is deleted."""
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(min(1.0, STALE / 10))
        if (now := _read(path)) != before:
            return bool(now)
    return False


def _renew(path: Path, me: Owner, ended: Event) -> None:
    """Change the file at every heartbeat, until this process ends or another one has the folder."""
    for beat in count(1):
        if ended.wait(BEAT) or _owner(_read(path)) not in (me, None):
            return
        with suppress(OSError), path.open("r+b") as file:  # a full disk, or a network that is down: try again
            file.write(_lines(me, beat))


def _lines(owner: Owner, beat: int = 0) -> bytes:
    return f"{json.dumps(owner._asdict())}\n{beat:012}\n".encode()  # of one length, so it needs no more of the disk


def _leases(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(".lease-*") if path.name[7:].isdecimal())


def _number(path: Path) -> int:
    return int(path.name[7:])


def _read(path: Path) -> bytes:
    """The bytes of a lease, read from the server and not from a cache of attributes; none if it was deleted."""
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except FileNotFoundError:
        return b""


def _owner(lines: bytes) -> Owner | None:
    """The owner in the first line of a lease; None if it is not written yet, or not a lease."""
    with suppress(ValueError, TypeError):
        return Owner(**json.loads(lines.partition(b"\n")[0]))
    return None


def _machine() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since the boot; "" if it has ended but is not reaped, None if it is unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]
