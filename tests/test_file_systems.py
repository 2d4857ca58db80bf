"""A run on a file system that has no hard links, no locks, no memory maps and no fsync of folders, such as Drive's."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_resume import STEPPED, Signalling
from tests.test_training import Quiet
from train.engine.run import train
from train.run.signals import Stopped


def refuses(number: int) -> Callable[..., Any]:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.fixture
def plain_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def of_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    for function in ("link", "symlink"):
        monkeypatch.setattr(os, function, refuses(errno.ENOTSUP))
    for function in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, function, refuses(errno.ENOLCK))
    monkeypatch.setattr(os, "fsync", of_files_only)
    monkeypatch.setattr(mmap, "mmap", refuses(errno.ENODEV))
    monkeypatch.setattr(torch, "from_file", refuses(errno.ENODEV))


def test_a_run_is_saved_resumed_and_finished(release: Path, tmp_path: Path, plain_file_system: None) -> None:
    config = replace(STEPPED, epochs=1, data=replace(STEPPED.data, cache="disk"))
    with pytest.raises(Stopped):
        train(config, release, tmp_path / "run", resume=False, console=Signalling(1, 1))
    train(config, release, tmp_path / "run", resume=True, console=Quiet())
    last, kept = ((tmp_path / "run" / name).read_bytes() for name in ("last.pt", "epoch-0001.pt"))
    assert last == kept
    assert torch.load(tmp_path / "run/best.pt", weights_only=True)["model"]
    assert list((tmp_path / "index-cache").glob("tiles-*.u8"))
