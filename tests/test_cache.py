"""A cached epoch equals the streamed one, byte for byte; free memory decides where the cache is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dali_pipes.batches.tile_cache
from dali_pipes import Batch, CacheOptions, Loader, SampleTable, Shard
from dali_pipes.batches.mask_cache import PaddingMasks, PolylineMasks
from dali_pipes.batches.masks import padding_mask, polyline_frame
from dali_pipes.batches.tile_cache import TileCache, bytes_needed, choose_cache
from dali_pipes.batches.view import WHOLE_TILE, View, ViewKind
from dali_pipes.geometry import letterbox, window
from tests.conftest import jpeg, via_label

CPU = torch.device("cpu")


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(vars(one).values(), vars(other).values(), strict=True))


def table_of_sizes(sizes: list[tuple[int, int]], polyline: np.ndarray | None = None) -> SampleTable:
    """A table of images of `sizes` (height, width) without files, each with one polyline."""
    n = len(sizes)
    return SampleTable(
        **{name: np.zeros(n) for name in ("length", "height", "gsd", "roll", "pitch")},  # type: ignore[arg-type]
        tile=np.array(["a"] * n),
        scene=np.array(["a"] * n),
        polyline=np.zeros((n, 2, 2)) if polyline is None else polyline,
        height_px=np.array([h for h, _ in sizes]),
        width=np.array([w for _, w in sizes]),
        image=np.arange(n),
        images=None,  # type: ignore[arg-type]
    )


VIEWS = [WHOLE_TILE, View("crop", 100), View("both", 100), View("aligned", 60), View("tile+aligned", 60)]
of_each_view = pytest.mark.parametrize("view", VIEWS, ids=[view.kind for view in VIEWS])


@of_each_view
@pytest.mark.parametrize("shuffle", [True, False])
def test_three_cached_epochs_equal_the_streamed_ones(shuffle: bool, view: View, release: Path) -> None:
    table = SampleTable.from_release(release)
    streaming, cached = (
        Loader(table, 32, shuffle=shuffle, shard=Shard(seed=4), size=64, view=view, cache=CacheOptions(place))
        for place in ("none", "host")
    )
    for _ in range(3):
        for one, other in zip(streaming, cached, strict=True):
            assert same(one, other)
    assert len(table) % 32, "this test needs a remainder that training drops"


def test_later_epochs_do_not_decode(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SampleTable.from_release(release)
    loader = Loader(table, 32, shuffle=True, size=32, cache=CacheOptions("host"))
    list(loader)
    assert loader._stream._pipeline, "the next epoch may stream, too"
    list(loader)  # completes the cache
    assert not loader._stream._pipeline, "DALI's threads and buffers are given back"
    monkeypatch.setattr(type(table.images), "read", lambda *_: pytest.fail("an image was read"))
    assert len(list(loader)) == len(loader)


def test_a_first_epoch_that_ends_early_is_completed(release: Path) -> None:
    table = SampleTable.from_release(release, "validation")
    loader = Loader(table, 16, size=32, cache=CacheOptions("host"))
    next(iter(loader))
    for one, other in zip(loader.epoch(1), Loader(table, 16, size=32), strict=True):
        assert same(one, other)


@of_each_view
def test_tiles_of_different_sizes_keep_their_own_padding(view: View, write_split: Callable[..., Path]) -> None:
    sizes = [(64, 64), (40, 90), (90, 40), (64, 64)]
    tiles = {
        f"a_{i}.jpg": (jpeg(h, w, i), via_label(f"a_{i}.jpg", [[(1, 1), (30, 30)], [(5, 1), (9, 30)]]))
        for i, (h, w) in enumerate(sizes)
    }
    table = SampleTable.from_release(write_split(tiles))
    loader = Loader(table, 3, size=48, view=replace(view, crop=50), cache=CacheOptions("host"))
    list(loader)
    for one, other in zip(loader, Loader(table, 3, size=48, view=replace(view, crop=50)), strict=True):
        assert same(one, other)


def test_samples_share_the_picture_of_their_tile_but_not_of_their_windows(write_split: Callable[..., Path]) -> None:
    polylines = [[(1, 1), (30, 30)], [(40, 30), (60, 60)], [(5, 1), (9, 60)]]
    tiles = {f"a_{i}.jpg": (jpeg(64, 64, i), via_label(f"a_{i}.jpg", polylines)) for i in range(4)}
    table = SampleTable.from_release(write_split(tiles))
    kinds: list[tuple[ViewKind, int]] = [("tile", 4), ("crop", 12), ("both", 2 * 12), ("aligned", 12)]
    for kind, frames in kinds:
        assert bytes_needed(View(kind, 40).frames(table, 32)) == frames * 3 * 32 * 32, kind
    assert bytes_needed(View("crop", 64).frames(table, 32)) == 4 * 3 * 32 * 32, "these windows are whole tiles"


@pytest.mark.parametrize("place", ["host", "disk"])
@pytest.mark.parametrize(
    ("shuffle", "view"),
    [(True, WHOLE_TILE), (False, WHOLE_TILE), (True, View("both", 90)), (True, View("aligned", 90))],
)
def test_two_ranks_with_a_cache_see_what_one_rank_streams(
    place: str, shuffle: bool, view: View, release: Path, tmp_path: Path
) -> None:
    table = SampleTable.from_release(release)
    one = Loader(table, 16, shuffle=shuffle, size=32, view=view)
    ranks = [
        Loader(table, 16, shuffle=shuffle, shard=shard, size=32, view=view, cache=CacheOptions(place, tmp_path))
        for shard in (Shard(0, 2), Shard(1, 2))
    ]
    for _ in range(3):  # each rank gets other tiles in each epoch
        seen = {row: batch.rgb[i] for batch in one for i, row in enumerate(batch.sample.tolist())}
        for batch in (batch for rank in ranks for batch in rank):
            for i, row in enumerate(batch.sample.tolist()):
                assert torch.equal(batch.rgb[i], seen.pop(row))
        assert not seen, "together the ranks see every sample once"


def test_a_validating_rank_caches_only_its_own_tiles(write_split: Callable[..., Path]) -> None:
    tiles = {f"a_{i}.jpg": (jpeg(64, 64, i), via_label(f"a_{i}.jpg", [[(1, 1), (30, 30)]])) for i in range(8)}
    table = SampleTable.from_release(write_split(tiles))
    loader = Loader(table, 4, shard=Shard(1, 2), size=32, cache=CacheOptions("host"))
    list(loader)
    assert loader._cache is not None
    assert loader._cache.complete
    assert loader._cache._rgb.shape == (4, 32, 32, 3)


@given(
    sizes=st.lists(st.tuples(st.integers(20, 90), st.integers(20, 90)), min_size=1, max_size=5),
    size=st.integers(16, 64),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_cached_masks_equal_drawn_masks(sizes: list[tuple[int, int]], size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = table_of_sizes(sizes, rng.integers(0, 20, (len(sizes), 3, 2)).astype(float))
    frames = View("both", crop=25).frames(table, size)
    rows = rng.integers(0, len(sizes), 7)
    polylines, paddings = PolylineMasks(frames, np.arange(len(sizes)), CPU), PaddingMasks(frames, CPU)
    assert frames.filled[0] == all(h == w for h, w in sizes)
    for view in range(2):
        drawn, padded = [], []
        for row in rows:
            points, (h, w) = table.polyline[row], sizes[row]
            cut = window(points, h, w, 25).tolist() if view else (0, 0, h, w)
            drawn.append(polyline_frame(points, h, w, cut, size))
            padded.append(padding_mask(letterbox(cut[2], cut[3], size), size))
        assert np.array_equal(polylines(rows, torch.from_numpy(rows))[..., view], drawn)
        assert np.array_equal(paddings(torch.from_numpy(rows))[..., view], padded)


def test_the_cache_takes_the_bytes_that_were_estimated(release: Path) -> None:
    table = SampleTable.from_release(release)
    frames = WHOLE_TILE.frames(table, 224)
    cache = TileCache(frames, np.arange(len(table)), CPU, CPU)
    masks = sum(tensor.nbytes for tensor in cache._polylines._pixels[1:])
    assert 1 <= (cache._rgb.nbytes + masks) / bytes_needed(frames) < 1.02


def test_free_memory_decides_where_the_cache_is_and_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.batches.tile_cache, "free_memory", lambda: 4 << 30)
    assert choose_cache("auto", 2 << 30, CPU) == ("host", "the tiles take 2.0 GiB of 4.0 GiB free")
    assert choose_cache("auto", 3 << 30, CPU).value == "none"
    assert choose_cache("none", 0, CPU) == ("none", "as asked")
    assert choose_cache("auto", 2 << 30, CPU, ranks=2).value == "none", "each rank caches all tiles"
    monkeypatch.setattr(dali_pipes.batches.tile_cache, "free_disk", lambda _: 40 << 30)
    chosen = choose_cache("auto", 3 << 30, CPU, folder=Path("cache"))
    assert chosen.value == "disk"
    assert chosen.reason == (
        "the tiles would take 3.0 GiB, more than half of the 4.0 GiB free, but 40.0 GiB are free in cache"
    )
    assert choose_cache("auto", 30 << 30, CPU, folder=Path("cache")).value == "none"
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 << 30, 80 << 30))
    assert choose_cache("auto", 2 << 30, cuda).value == "device"
    assert choose_cache("auto", 3 << 30, cuda).value == "none"
