"""A file is whole or it is not there: after a failed write, a kill, a power cut, and with several writers at once."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, BinaryIO

import pytest

from dali_pipes.files import ABANDONED_S, alone, replacing, sweep, write_text, write_whole


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_whole(path, lambda file: file.write(b"before"))

    def fail(file: BinaryIO) -> None:
        file.write(b"aft")
        file.flush()
        assert path.read_bytes() == b"before", "a reader could see it half written"
        raise OSError("half-way")

    with pytest.raises(OSError, match="half-way"):
        write_whole(path, fail)
    assert contents(tmp_path) == {"last.pt": b"before"}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_any_exception_removes_the_unfinished_file(stop: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(stop), replacing(tmp_path / "last.pt"):
        raise stop
    assert contents(tmp_path) == {}


def test_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_text(path, "before")

    def fill(file: BinaryIO) -> None:
        file.write(b"after")  # these bytes are still in the buffer
        descriptor = os.open("/dev/full", os.O_WRONLY)  # each write to this device fails as on a full disk
        os.dup2(descriptor, file.fileno())
        os.close(descriptor)

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_whole(path, fill)
    assert contents(tmp_path) == {"last.pt": b"before"}


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut could leave the name of a file without its bytes, or neither, after the run went on."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        fsync(descriptor)

    def noted_replace(self: Path, target: Any) -> Path:
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_whole(tmp_path / "last.pt", lambda file: file.write(b"after"))
    assert done == ["5 bytes", "name", "folder"]


def fsync_of_folders_raises(code: int) -> Callable[[int], None]:
    fsync = os.fsync

    def patched(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    return patched


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
def test_a_file_system_that_cannot_fsync_a_folder_is_no_error(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fsync_of_folders_raises(code))
    write_text(tmp_path / "last.pt", "after")
    assert contents(tmp_path) == {"last.pt": b"after"}


def test_a_disk_that_fails_to_fsync_a_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fsync_of_folders_raises(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_text(tmp_path / "last.pt", "after")
    assert contents(tmp_path) == {"last.pt": b"after"}, "it was renamed before"


def test_two_writers_do_not_mix_their_bytes(tmp_path: Path) -> None:
    path, meet = tmp_path / "last.pt", Barrier(2)

    def write(letter: bytes) -> None:
        for _ in range(20):
            with replacing(path) as file:
                meet.wait(60)  # both have begun, and each has swept
                for _ in range(50):
                    file.write(letter * 100)
                    file.flush()

    with ThreadPoolExecutor(2) as writers:
        list(writers.map(write, (b"a", b"b")))
    assert contents(tmp_path)["last.pt"] in (b"a" * 5000, b"b" * 5000)
    assert len(contents(tmp_path)) == 1


@pytest.mark.parametrize("name", [".last.pt.unfinished", "last.pt.unfinished", "last.pt"])
def test_a_planted_link_is_never_written_through(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / name).symlink_to(precious)
    write_text(tmp_path / "last.pt", "after")
    assert precious.read_text() == "precious"
    assert (tmp_path / "last.pt").read_text() == "after"
    assert not (tmp_path / "last.pt").is_symlink()


def test_a_planted_link_under_the_very_name_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".last.pt.unfinished-guessed.pt").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "last.pt", "after")
    assert precious.read_text() == "precious"


def test_the_lock_file_is_not_opened_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "a.lock").symlink_to(precious)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)), alone(tmp_path / "a.lock"):
        pass
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_bits_are_those_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "last.pt", "after")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "last.pt").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", ["network.pt2", "페이지.html", "가" * 80 + ".onnx", "a." + "b" * 253, "no-suffix"])
def test_the_unfinished_file_lies_in_the_same_folder_hidden_and_with_the_suffix(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with replacing(path) as file:
        unfinished = Path(file.name)
        unfinished.write_bytes(b"by name")
    assert unfinished.parent == tmp_path
    assert unfinished.name.startswith(".")
    assert not 0 < len(path.suffix) <= 10 or unfinished.suffix == path.suffix
    assert contents(tmp_path) == {name: b"by name"}


HANG = """
import sys, time
from pathlib import Path
from dali_pipes.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def a_writer_that_hangs(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HANG, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_a_killed_process_left_is_deleted_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_text(path, "before")
    writer = a_writer_that_hangs(path)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert path.read_text() == "before"
    assert len(contents(tmp_path)) == 2
    write_text(tmp_path / "best.pt", "another file")
    assert len(contents(tmp_path)) == 3, "it belongs to last.pt"
    write_text(path, "after")
    assert contents(tmp_path) == {"best.pt": b"another file", "last.pt": b"after"}


def test_what_another_process_is_writing_is_not_deleted_however_old(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    writer = a_writer_that_hangs(path)
    try:
        (unfinished,) = tmp_path.iterdir()
        os.utime(unfinished, (0, 0))
        write_text(path, "after")
        sweep(tmp_path)
        assert contents(tmp_path) == {"last.pt": b"after", unfinished.name: b"half"}
    finally:
        writer.kill()
        writer.communicate()


def test_a_sweep_deletes_what_every_killed_writer_of_the_folder_left(tmp_path: Path) -> None:
    dead, alive = a_writer_that_hangs(tmp_path / "report.html"), a_writer_that_hangs(tmp_path / "best.pt")
    dead.kill()
    dead.communicate()
    try:
        sweep(tmp_path)
        assert [path.name[:8] for path in tmp_path.iterdir()] == [".best.pt"]
    finally:
        alive.kill()
        alive.communicate()


def test_a_file_that_a_sweep_deleted_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = tmp_path / "last.pt", fcntl.flock
    swept: list[bool] = []

    def swept_once(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(True)
            sweep(tmp_path)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", swept_once)
    write_text(path, "after")
    assert contents(tmp_path) == {"last.pt": b"after"}


def test_without_locks_only_what_nobody_wrote_to_for_a_day_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    old, fresh = tmp_path / ".last.pt.unfinished-1.pt", tmp_path / ".last.pt.unfinished-2.pt"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - ABANDONED_S - 60))
    write_text(tmp_path / "last.pt", "after")
    assert contents(tmp_path) == {"last.pt": b"after", fresh.name: b"half"}
    with alone(tmp_path / "a.lock"), alone(tmp_path / "a.lock"):
        pass  # nobody waits


def test_a_sweep_of_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    sweep(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "last.pt", "after")


def test_of_those_that_want_to_be_alone_one_is(tmp_path: Path) -> None:
    inside: list[int] = []

    def enter(_: int) -> None:
        with alone(tmp_path / "a.lock"):
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.01)
            inside.pop()

    with ThreadPoolExecutor(4) as processes:
        list(processes.map(enter, range(8)))
    assert not list(tmp_path.iterdir()), "the lock file is deleted"
