"""Files are there whole or not at all: what fails half-way, and a power cut, leave the one before."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dali_pipes.files import write_whole


def test_a_write_that_fails_half_way_leaves_the_file_before_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_whole(path, lambda file: file.write(b"before"))

    def fail(file: BinaryIO) -> None:
        file.write(b"aft")
        file.flush()
        assert path.read_bytes() == b"before", "a reader could see it half written"
        raise OSError("half-way")

    with pytest.raises(OSError, match="half-way"):
        write_whole(path, fail)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("last.pt", b"before")]


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave the name of a file without its bytes, or neither, after the run went on."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        fsync(descriptor)

    def noted_replace(self: Path, target: Any) -> Path:
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_whole(tmp_path / "last.pt", lambda file: file.write(b"after"))
    assert done == ["5 bytes", "name", "folder"]
