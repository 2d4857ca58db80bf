"""The disk cache is complete or absent, made once, shared, and never mistaken for that of other data."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipes import CacheOptions, Loader, SampleTable
from dali_pipes.batches.tile_file import open_tiles, tile_path
from dali_pipes.batches.view import WHOLE_TILE, View
from dali_pipes.errors import InputError
from dali_pipes.samples.splits import merge

SHAPE = (6, 8, 8, 3)
TILES = torch.arange(6 * 8 * 8 * 3).remainder(251).to(torch.uint8).view(SHAPE)


def never() -> Iterator[torch.Tensor]:
    pytest.fail("the tiles were made a second time")
    yield TILES


def test_epochs_from_disk_equal_the_streamed_ones_in_the_first_loader_and_in_the_next(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = SampleTable.from_release(release)
    streaming, on_disk = Loader(table, 32, shuffle=True, size=48), CacheOptions("disk", tmp_path)
    streamed = [batch for _ in range(2) for batch in streaming]
    for loader in (Loader(table, 32, shuffle=True, size=48, cache=on_disk) for _ in range(2)):
        cached = [batch for _ in range(2) for batch in loader]
        for one, other in zip(streamed, cached, strict=True):
            for name, value in vars(one).items():
                assert torch.equal(value, getattr(other, name)), name
        monkeypatch.setattr(type(table.images), "read", lambda *_: pytest.fail("an image was read"))
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".lock", ".u8"]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield TILES[:3]
        raise InputError("an image does not decode")

    path = tmp_path / "tiles-a.u8"
    with pytest.raises(InputError, match="does not decode"):
        open_tiles(path, SHAPE, broken())
    assert [file.name for file in tmp_path.iterdir()] == ["tiles-a.lock"]
    assert torch.equal(open_tiles(path, SHAPE, [TILES]), TILES)
    assert torch.equal(open_tiles(path, SHAPE, never()), TILES)


def failing() -> bool:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_rename_gives_the_complete_file_its_name(tmp_path: Path) -> None:
    path = tmp_path / "tiles-a.u8"
    unfinished: list[int] = []

    def frames() -> Iterator[torch.Tensor]:
        unfinished.extend(file.stat().st_ino for file in tmp_path.glob(".tiles-a*"))
        yield TILES

    open_tiles(path, SHAPE, frames())
    assert [path.stat().st_ino] == unfinished, "other processes could see half a copy"


def _fill_slowly(path: Path) -> None:
    def slow() -> Iterator[torch.Tensor]:
        yield TILES[:5]
        time.sleep(60)

    open_tiles(path, SHAPE, slow())


def test_a_killed_writer_leaves_no_half_file_and_its_rest_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "tiles-a.u8"
    process = multiprocessing.get_context("spawn").Process(target=_fill_slowly, args=(path,))
    process.start()
    while not list(tmp_path.glob(".tiles-a*")):
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not path.exists()
    assert torch.equal(open_tiles(path, SHAPE, [TILES]), TILES)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiles-a.lock", "tiles-a.u8"]


def test_a_truncated_file_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "tiles-a.u8"
    path.write_bytes(b"\0" * 100)
    assert torch.equal(open_tiles(path, SHAPE, [TILES[:2], TILES[2:]]), TILES)


@pytest.mark.parametrize("locks", [True, False])
def test_concurrent_processes_all_get_complete_tiles(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def frames() -> Iterator[torch.Tensor]:
        made.append(1)
        for tile in TILES:
            time.sleep(0.01)
            yield tile[None]

    if not locks:
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError("no locks here")))
    with ThreadPoolExecutor(4) as ranks:
        found = list(ranks.map(lambda _: open_tiles(tmp_path / "tiles-a.u8", SHAPE, frames()), range(4)))
    assert all(torch.equal(tiles, TILES) for tiles in found)
    assert len(made) == 1 or not locks
    assert not list(tmp_path.glob(".*"))


def test_the_file_name_depends_on_everything_that_changes_the_tiles(release: Path, tmp_path: Path) -> None:
    release = shutil.copytree(release, tmp_path / "release")
    train, validation = (SampleTable.from_release(release, split) for split in ("train", "validation"))
    some = train.select(train.image > 3)
    pooled = merge(train, validation)

    def name(table: SampleTable, size: int = 64, decoder: str = "a", view: View = WHOLE_TILE) -> Path:
        return tile_path(view.frames(table, size), tmp_path, decoder)

    names = {name(table) for table in (train, validation, some, pooled)}
    views = [View("crop", 100), View("crop", 101), View("both", 100)]
    others = [name(train, 65), name(train, decoder="b"), *(name(train, view=view) for view in views)]
    assert len({*names, *others}) == 9
    backwards = train.select(np.arange(len(train))[::-1])
    for view in (WHOLE_TILE, *views):
        assert name(backwards, view=view) == name(train, view=view), "the order of the rows does not matter"
    shifted = name(replace(train, polyline=train.polyline + 1), view=views[0])
    assert shifted not in others, "other windows need another file"
    os.utime(release / "TS_KS.zip", ns=(1, 1))
    changed = SampleTable.from_release(release)
    assert name(changed) not in names


def test_a_cache_that_cannot_be_written_or_named_is_an_error_sentence(release: Path, tmp_path: Path) -> None:
    table = SampleTable.from_release(release)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=r"cannot be written: .*choose another --index-cache or --cache"):
        next(iter(Loader(table, 32, cache=CacheOptions("disk", file / "below"))))
    with pytest.raises(InputError, match=r"GiB free in .* for the disk cache, found .* [GM]iB; choose"):
        open_tiles(tmp_path / "tiles-a.u8", (1 << 40, 8, 8, 3), never())
    with pytest.raises(InputError, match="the tiles for the disk cache cannot be read: Input/output error; check"):
        open_tiles(tmp_path / "tiles-a.u8", SHAPE, (_ for _ in [TILES] if failing()))
    with pytest.raises(InputError, match="expected a folder"):
        CacheOptions("disk")
    with pytest.raises(ValueError, match="expected a cache of none, host, device, disk, found 'ram'"):
        CacheOptions("ram")
