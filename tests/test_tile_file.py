"""The disk cache is complete or absent, made once, shared, and never mistaken for that of other data."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import dali_pipes.samples.cache_folder
from dali_pipes import CacheOptions, Loader, SampleTable
from dali_pipes.batches.tile_file import TileFile, open_tiles, tile_path
from dali_pipes.batches.view import WHOLE_TILE, View
from dali_pipes.errors import InputError
from dali_pipes.samples.splits import merge

SHAPE = (6, 8, 8, 3)
TILES = torch.arange(6 * 8 * 8 * 3).remainder(251).to(torch.uint8).view(SHAPE)


CPU = torch.device("cpu")


def all_of(tiles: TileFile) -> torch.Tensor:
    return tiles.read(np.arange(len(TILES)), CPU)


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
    assert [path.suffix for path in tmp_path.iterdir()] == [".u8"]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield TILES[:3]
        raise InputError("an image does not decode")

    path = tmp_path / "tiles-a.u8"
    with pytest.raises(InputError, match="does not decode"):
        open_tiles(path, SHAPE, broken())
    assert not list(tmp_path.iterdir())
    assert torch.equal(all_of(open_tiles(path, SHAPE, [TILES])), TILES)
    assert torch.equal(all_of(open_tiles(path, SHAPE, never())), TILES)


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
    assert torch.equal(all_of(open_tiles(path, SHAPE, [TILES])), TILES)
    assert [file.name for file in tmp_path.iterdir()] == ["tiles-a.u8"]


def test_a_truncated_file_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "tiles-a.u8"
    path.write_bytes(b"\0" * 100)
    assert torch.equal(all_of(open_tiles(path, SHAPE, [TILES[:2], TILES[2:]])), TILES)


def test_every_byte_of_the_file_is_checked_when_a_tile_is_first_read(tmp_path: Path) -> None:
    path = tmp_path / "tiles-a.u8"
    open_tiles(path, SHAPE, [TILES])
    whole = path.read_bytes()
    assert len(whole) == TILES.numel() + 4 * len(TILES)
    for byte in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << byte % 8
        path.write_bytes(damaged)
        tiles = open_tiles(path, SHAPE, never())
        with pytest.raises(
            InputError, match=r"tiles-a\.u8 is damaged: tile \d does not match its checksum; start again"
        ):
            all_of(tiles)
        assert not path.exists(), "the next start would find the same file"
    path.write_bytes(whole[192:384] + whole[:192] + whole[384:])
    with pytest.raises(InputError, match="tile 0 does not match"):  # exchanged tiles
        all_of(open_tiles(path, SHAPE, never()))


def test_a_tile_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = open_tiles(tmp_path / "tiles-a.u8", SHAPE, [TILES])
    checked = Mock(wraps=zlib.crc32)
    monkeypatch.setattr("zlib.crc32", checked)
    for _ in range(3):
        tiles.read(np.array([1, 4]), CPU)
    assert checked.call_count == 2


def test_a_file_that_is_cut_short_while_it_is_open_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "tiles-a.u8"
    tiles = open_tiles(path, SHAPE, [TILES])
    all_of(tiles)
    os.truncate(path, 3 * 192 + 5)
    assert torch.equal(tiles.read(np.array([2]), CPU), TILES[2:3])
    with pytest.raises(
        InputError, match=r"is damaged: it ends at byte 581, not at byte 1176; start again with --resume, and it is"
    ):
        tiles.read(np.array([2, 3]), CPU)
    assert torch.equal(all_of(open_tiles(path, SHAPE, [TILES])), TILES)


def test_a_read_error_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = open_tiles(tmp_path / "tiles-a.u8", SHAPE, [TILES])
    monkeypatch.setattr(os, "preadv", lambda *_: failing())
    with pytest.raises(InputError, match="is damaged: Input/output error; start again"):
        all_of(tiles)


def test_the_least_recently_used_files_are_deleted_above_the_limit_but_not_those_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["tiles-a.u8", "tiles-b.u8", "tiles-c.u8"]
    for name in names:
        open_tiles(tmp_path / name, SHAPE, [TILES])
    for name, hours in zip(names, (30, 20, 10), strict=True):
        os.utime(tmp_path / name, (0, time.time() - 3600 * hours))
    (tmp_path / "notes.txt").write_text("of the user")
    size = (tmp_path / names[0]).stat().st_size
    monkeypatch.setattr(dali_pipes.samples.cache_folder, "LIMIT", 3 * size)
    used = open_tiles(tmp_path / "tiles-a.u8", SHAPE, never())
    capsys.readouterr()
    open_tiles(tmp_path / "tiles-d.u8", SHAPE, [TILES])
    assert {path.name for path in tmp_path.iterdir()} == {"tiles-a.u8", "tiles-c.u8", "tiles-d.u8", "notes.txt"}
    assert f"deleted {tmp_path / 'tiles-b.u8'}, the least recently used" in capsys.readouterr().err
    monkeypatch.setattr(dali_pipes.samples.cache_folder, "LIMIT", 0)
    open_tiles(tmp_path / "tiles-e.u8", SHAPE, [TILES])
    assert {path.name for path in tmp_path.iterdir()} == {"tiles-a.u8", "tiles-e.u8", "notes.txt"}, "a is in use"
    del used


def test_a_full_disk_is_freed_of_files_that_nobody_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_tiles(tmp_path / "tiles-a.u8", SHAPE, [TILES])
    old = tmp_path / "tiles-a.u8"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if old.exists() else 1 << 20))
    open_tiles(tmp_path / "tiles-b.u8", SHAPE, [TILES])
    assert [path.name for path in tmp_path.iterdir()] == ["tiles-b.u8"]


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
    assert all(torch.equal(all_of(tiles), TILES) for tiles in found)
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
