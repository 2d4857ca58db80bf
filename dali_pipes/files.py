"""Files that are read up to a limit, or written whole or not at all, even across a crash; a lock between processes.

    data = read_bounded(path, 1 << 20)      never waits for a pipe, never reads a device or a larger file


    write_text(path, text)
    write_whole(path, lambda file: torch.save(contents, file))
    with replacing(path) as file:       for a library that writes by name: give it file.name
        export(network, file.name)

An unfinished file is in the same folder, so that it can be renamed. Each writer uses its own hidden name, so that two
writers cannot mix their bytes. It holds a lock on its file. When a process is killed, the kernel frees the lock, and
the next writer of the same path, or the next `sweep` of the folder, deletes the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import BinaryIO

ABANDONED_S = 24 * 3600  # without locks, an unfinished file that nobody wrote to for so long has no writer

# What opening or fsyncing a folder raises where the file system or its permissions do not allow it.
_NO_FOLDER_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM)


def read_bounded(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file of at most `most` bytes. Raises OSError for any other file."""
    with open_regular(path, most) as file:
        data = file.read(most + 1)  # the files of /proc have a size of 0
    if data is None:  # of a regular file only in /proc, such as /proc/kmsg
        raise OSError(errno.EAGAIN, "it has no data yet", str(path))
    if len(data) > most:
        raise _too_large(path, most)
    return data


def read_text(path: Path, most: int) -> str:
    """Return a file of at most `most` bytes as UTF-8. Raises OSError as `read_bounded` does, and UnicodeDecodeError."""
    return read_bounded(path, most).decode("utf-8")


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Open a regular file for reading, without waiting; links are followed.

    Raises OSError for a folder, a pipe, a socket or a device, and for a file of more than `most` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)  # a pipe would wait for a writer
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
            kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
            raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
        if most is not None and status.st_size > most:
            raise _too_large(path, most)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _too_large(path: Path, most: int) -> OSError:
    limit = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
    return OSError(errno.EFBIG, f"it has more than the {limit} allowed", str(path))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; lone surrogates, which a hostile file name may contain, become escapes. Raises OSError."""
    write_whole(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file, then replace `path` with it. Raises OSError, and what `write` raises."""
    with replacing(path) as file:
        write(file)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, open for writing, that takes the place of `path` if the block ends without an exception.

    The file `file.name` has the suffix of `path`; a library may write to that name, but must not replace the file.
    Order: fsync of the file, rename, fsync of the folder. On an exception `path` is as before, and the new file is
    deleted. A link at `path` is replaced, not followed; a pipe or a device stays, such as /dev/null. Raises OSError.
    """
    if os.path.lexists(path) and not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISLNK(mode):
        raise OSError(errno.EINVAL, "it is no file that can be replaced", str(path))
    sweep(path.parent, f"{escape(_prefix(path))}*")
    file = _create(path)
    unfinished = Path(file.name)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            unfinished.replace(path)  # under the lock: a sweep never sees the file without it
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError) and error.errno and not error.filename:  # errors of write and fsync have no name
            error.filename = str(path)
        raise
    _fsync_folder(path.parent)


def sweep(folder: Path, pattern: str = ".*.unfinished-*") -> None:
    """Delete the files in `folder` whose names match `pattern` and that killed processes left, by default all of them.

    Those of live processes stay; see `delete_unless_held`. A folder that cannot be read is not an error.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            if fnmatchcase(name, pattern):
                with suppress(OSError):  # another sweep was faster, or the file belongs to somebody else
                    delete_unless_held(folder / name)


def delete_unless_held(path: Path) -> bool:
    """Delete a file unless a process holds a lock on it, as its writer or by `hold`; returns whether it was deleted.

    Where the file system has no locks, a file is deleted only if nobody wrote to it for a day. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = False
    except BlockingIOError:
        held = True
    except OSError:
        held = time.time() - os.fstat(descriptor).st_mtime <= ABANDONED_S
    try:
        if not held:
            path.unlink()
    finally:
        os.close(descriptor)
    return not held


def hold(path: Path) -> int:
    """Open `path` for reading, as a descriptor; until it is closed, `delete_unless_held` leaves the file.

    The file's time of modification becomes its time of last use. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    with suppress(OSError):  # it may belong to somebody else, or lie on a read-only disk
        os.utime(descriptor)
    return descriptor


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold the file `lock`, so that other processes wait, then delete it. Raises OSError if it cannot be made.

    Where the file system has no locks nobody waits: others may do the same work at the same time.
    """
    descriptor = _lock(lock)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before the lock is freed: those who wait notice, and make a new file
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        _wait_for_lock(descriptor)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the process that had it has deleted it


def _create(path: Path) -> BinaryIO:
    """A new unfinished file of `path`, locked; its mode bits are those that the umask gives."""
    while True:
        name = f"{_prefix(path)}{secrets.token_hex(8)}{path.suffix[:10]}"
        file = path.with_name(name).open("xb")  # x: raises if the name exists, even as a link
        _wait_for_lock(file.fileno())
        if os.path.lexists(file.name):
            return file
        file.close()  # a sweep deleted it before it was locked


def _prefix(path: Path) -> str:
    return f".{path.name[:45]}.unfinished-"  # cut: a name of more than 255 bytes is refused


def _wait_for_lock(descriptor: int) -> None:
    """Lock an open file until it is closed, if the file system has locks."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable. It is not an error if the file system cannot fsync a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            error.filename = str(folder)
            raise
