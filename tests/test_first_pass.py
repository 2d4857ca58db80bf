"""The tiles that the index keeps for the cache are those that a CPU streams, to the bit, and no image is read twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

import dali_pipes.batches.tile_cache
from dali_pipes import CacheOptions, Loader, SampleTable
from dali_pipes.batches.first_pass import FirstPass
from dali_pipes.batches.view import View, ViewKind
from dali_pipes.release.archive import Archive
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.index import open_index
from dali_pipes.samples.splits import Division
from tests.conftest import jpeg, via_label
from train.engine.run import _first_pass
from train.recipe.config import Config, Data
from train.recipe.data import load_datasets

QUIET = Console(quiet=True)
SIZES = [(512, 512), (200, 300), (333, 511), (31, 17), (90, 640)]
CODINGS: dict[str, list[int]] = {
    **{
        name: [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")]
        for name in ("411", "420", "422", "440", "444")
    },
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
    "coarse": [cv2.IMWRITE_JPEG_QUALITY, 20],
    "grey": [],
}


def encoded(height: int, width: int, coding: str, seed: int) -> bytes:
    """A JPEG with large shapes and noise, so that every coefficient of every channel counts."""
    image = cv2.imdecode(np.frombuffer(jpeg(height, width, seed), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    noise = np.random.default_rng(seed).integers(-40, 40, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy[..., 0] if coding == "grey" else noisy, CODINGS[coding])[1].tobytes()


@pytest.fixture(scope="module")
def every_kind() -> dict[str, tuple[bytes | None, Any]]:
    """Tiles of every size and coding with three polylines each, two of which are equal, and one that is damaged."""
    tiles: dict[str, tuple[bytes | None, Any]] = {}
    random = np.random.default_rng(3)
    for i, (size, coding) in enumerate((size, coding) for size in SIZES for coding in CODINGS):
        lines = random.integers(0, size[::-1], (2, 2, 2)).tolist()
        name = f"K3_CHN_20210518050720_{i}.jpg"
        tiles[name] = (
            encoded(*size, coding, i),
            via_label(name, [*lines, lines[0], [(0, 0), (9999, 9)], [(-(10**300), 0), (10**300, 9)]]),
        )
    tiles["a_1.jpg"] = (jpeg(64, 96)[:-900] + b"\xff\xd9", via_label("a_1.jpg", [[(1, 1), (9, 9)]]))
    return tiles


def rgb_of(loader: Loader) -> torch.Tensor:
    rgb = torch.cat([batch.rgb for batch in loader])
    loader.close()  # so that it does not read ahead while the next test counts
    return rgb


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each JPEG was read."""
    counted = Counter[str]()
    read = Archive.read

    def counting(self: Archive, index: int) -> Any:
        counted.update([self.names[index]] if self.names[index].endswith(".jpg") else [])
        return read(self, index)

    monkeypatch.setattr(Archive, "read", counting)
    return counted


@pytest.mark.parametrize(("kind", "place"), [("tile", "host"), ("crop", "host"), ("both", "disk"), ("aligned", "disk")])
def test_kept_tiles_are_the_streamed_ones_for_every_kind_of_jpeg(
    kind: ViewKind,
    place: str,
    every_kind: dict[str, Any],
    write_split: Callable[..., Path],
    tmp_path: Path,
    reads: Counter[str],
) -> None:
    view, size = View(kind, 60), 48
    first_pass = FirstPass(view, size)
    table, _ = open_index(ReleasePaths(write_split(every_kind)), "train", console=QUIET, keeper=first_pass)
    assert len(table) == 3 * len(SIZES) * len(CODINGS)
    options = CacheOptions(place, tmp_path / "cache")
    cached = Loader(table, 32, size=size, view=view, cache=options, first_pass=first_pass)
    kept = rgb_of(cached)
    assert set(reads.values()) == {1}, "a JPEG was read twice"
    assert torch.equal(kept, rgb_of(Loader(table, 32, size=size, view=view)))
    if place == "disk":
        (file,) = (tmp_path / "cache").iterdir()
        rgb_of(Loader(table, 32, size=size, view=view, cache=CacheOptions("disk", tmp_path / "streamed")))
        assert (tmp_path / "streamed" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("split", ["official", "scene"])
def test_each_jpeg_is_read_once_until_the_end_of_the_first_epoch(
    split: Any, release: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    before: list[torch.Tensor] = []
    for resumed in (False, True):
        first_pass, reads_before = FirstPass(View(), 32), reads.total()
        paths = ReleasePaths(release, index_cache=tmp_path)
        datasets = load_datasets(paths, Division(split), 0.2, console=QUIET, keeper=first_pass)
        assert first_pass.held == (0 if resumed else len(reads) * 32 * 32 * 3)
        loaders = [
            Loader(table, 8, size=32, shuffle=shuffle, cache=CacheOptions("host"), first_pass=first_pass)
            for table, shuffle in ((datasets.training, True), (datasets.selection, False))
        ]
        epoch = [rgb_of(loader) for loader in loaders]
        if resumed:  # the index was there: the tiles are streamed, as without a first pass
            assert reads.total() > reads_before
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(epoch, before, strict=True))
        else:
            assert set(reads.values()) == {1}
        before = epoch


def test_without_enough_memory_or_with_other_frames_the_loader_streams(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(free: int, size: int) -> tuple[FirstPass, SampleTable]:
        monkeypatch.setattr(dali_pipes.batches.tile_cache, "free_memory", lambda: free)
        first_pass = FirstPass(View(), size)
        return first_pass, open_index(ReleasePaths(release), "train", console=QUIET, keeper=first_pass).table

    for first_pass, table in (opened(2 * 96 * 32 * 32 * 3 - 1, 32), opened(1 << 40, 33)):
        assert first_pass.tiles(View().frames(table, 32)) is None
    first_pass, table = opened(2 * 96 * 32 * 32 * 3, 32)
    assert first_pass.tiles(View().frames(table, 32))
    assert first_pass.tiles(View("crop").frames(table, 32)) is None


def test_only_a_process_without_other_ranks_keeps_tiles_and_only_for_a_cache_on_a_cpu() -> None:
    alone, one_of_two = (SimpleNamespace(world_size=ranks) for ranks in (1, 2))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    caching, streaming = Config(), Config(data=Data(cache="none"))
    cases = [(caching, cpu, alone), (caching, gpu, alone), (caching, cpu, one_of_two), (streaming, cpu, alone)]
    kept = [_first_pass(config, device, place) is not None for config, device, place in cases]  # type: ignore[arg-type]
    assert kept == [True, False, False, False]
