"""A cached epoch is the streamed epoch, byte for byte; the cache is chosen by what memory there is."""

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
from dali_pipes.batches.view import WHOLE_TILE, Kind, View
from dali_pipes.geometry import letterbox, window
from tests.conftest import jpeg, via_label

CPU = torch.device("cpu")


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(vars(one).values(), vars(other).values(), strict=True))


def table_of_sizes(sizes: list[tuple[int, int]], polyline: np.ndarray | None = None) -> SampleTable:
    """A table of images of `sizes` (height, width), each with one polyline, and without pixels."""
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


VIEWS = [WHOLE_TILE, View("crop", 100), View("both", 100)]
of_each_view = pytest.mark.parametrize("view", VIEWS, ids=[view.kind for view in VIEWS])


@of_each_view
@pytest.mark.parametrize("shuffle", [True, False])
def test_three_cached_epochs_are_the_streamed_ones(shuffle: bool, view: View, release: Path) -> None:
    table = SampleTable.from_release(release)
    streaming, cached = (
        Loader(table, 32, shuffle=shuffle, shard=Shard(seed=4), size=64, view=view, cache=CacheOptions(place))
        for place in ("none", "host")
    )
    for _ in range(3):
        for one, other in zip(streaming, cached, strict=True):
            assert same(one, other)
    assert len(table) % 32, "the remainder that training drops is what makes this hard"


def test_later_epochs_do_not_decode(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SampleTable.from_release(release)
    loader = Loader(table, 32, shuffle=True, size=32, cache=CacheOptions("host"))
    list(loader)
    list(loader)  # completes the cache
    monkeypatch.setattr(type(table.images), "read", lambda *_: pytest.fail("an image was read"))
    assert len(list(loader)) == len(loader)


def test_an_epoch_that_was_left_early_is_completed(release: Path) -> None:
    table = SampleTable.from_release(release, "validation")
    loader = Loader(table, 16, size=32, cache=CacheOptions("host"))
    next(iter(loader))
    for one, other in zip(loader.epoch(1), Loader(table, 16, size=32), strict=True):
        assert same(one, other)


@of_each_view
def test_tiles_of_several_sizes_keep_their_own_padding(view: View, write_split: Callable[..., Path]) -> None:
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


def test_a_tile_of_several_samples_is_kept_once_and_its_windows_each(write_split: Callable[..., Path]) -> None:
    polylines = [[(1, 1), (30, 30)], [(40, 30), (60, 60)], [(5, 1), (9, 60)]]
    tiles = {f"a_{i}.jpg": (jpeg(64, 64, i), via_label(f"a_{i}.jpg", polylines)) for i in range(4)}
    table = SampleTable.from_release(write_split(tiles))
    kinds: list[tuple[Kind, int]] = [("tile", 4), ("crop", 12), ("both", 2 * 12)]
    for kind, frames in kinds:
        assert bytes_needed(View(kind, 40).frames(table, 32)) == frames * 3 * 32 * 32, kind
    assert bytes_needed(View("crop", 64).frames(table, 32)) == 4 * 3 * 32 * 32, "windows that are the whole tile"


@pytest.mark.parametrize("place", ["host", "disk"])
@pytest.mark.parametrize(("shuffle", "view"), [(True, WHOLE_TILE), (False, WHOLE_TILE), (True, View("both", 90))])
def test_two_ranks_with_a_cache_see_what_one_streams(
    place: str, shuffle: bool, view: View, release: Path, tmp_path: Path
) -> None:
    table = SampleTable.from_release(release)
    one = Loader(table, 16, shuffle=shuffle, size=32, view=view)
    ranks = [
        Loader(table, 16, shuffle=shuffle, shard=shard, size=32, view=view, cache=CacheOptions(place, tmp_path))
        for shard in (Shard(0, 2), Shard(1, 2))
    ]
    for _ in range(3):  # other tiles come to each rank in each epoch
        seen = {row: batch.rgb[i] for batch in one for i, row in enumerate(batch.sample.tolist())}
        for batch in (batch for rank in ranks for batch in rank):
            for i, row in enumerate(batch.sample.tolist()):
                assert torch.equal(batch.rgb[i], seen.pop(row))
        assert not seen, "between them the ranks see every sample once"


def test_a_rank_that_validates_keeps_its_own_tiles_alone(write_split: Callable[..., Path]) -> None:
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
def test_masks_that_are_kept_are_those_that_are_drawn(sizes: list[tuple[int, int]], size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = table_of_sizes(sizes, rng.integers(0, 20, (len(sizes), 3, 2)).astype(float))
    frames = View("both", crop=25).frames(drawn, size)
    rows = rng.integers(0, len(sizes), 7)
    polylines, paddings = PolylineMasks(frames, np.arange(len(sizes)), CPU), PaddingMasks(frames, CPU)
    assert frames.square[0] == all(h == w for h, w in sizes)
    for view in range(2):
        drawn_now, padded = [], []
        for row in rows:
            points, (h, w) = drawn.polyline[row], sizes[row]
            cut = window(points, h, w, 25).tolist() if view else (0, 0, h, w)
            drawn_now.append(polyline_frame(points, h, w, cut, size))
            padded.append(padding_mask(letterbox(cut[2], cut[3], size), size))
        assert np.array_equal(polylines(rows, torch.from_numpy(rows))[..., view], drawn_now)
        assert np.array_equal(paddings(torch.from_numpy(rows))[..., view], padded)


def test_the_bytes_that_are_told_are_those_that_are_taken(release: Path) -> None:
    table = SampleTable.from_release(release)
    frames = WHOLE_TILE.frames(table, 224)
    cache = TileCache(frames, np.arange(len(table)), CPU, CPU)
    assert 1 <= cache.nbytes / bytes_needed(frames) < 1.02


def test_the_cache_is_chosen_by_free_memory_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.batches.tile_cache, "free_memory", lambda: 4 << 30)
    assert choose_cache("auto", 2 << 30, CPU) == ("host", "the tiles take 2.0 GiB of 4.0 GiB free")
    assert choose_cache("auto", 3 << 30, CPU).value == "none"
    assert choose_cache("none", 0, CPU) == ("none", "as asked")
    assert choose_cache("auto", 2 << 30, CPU, ranks=2).value == "none", "each rank keeps all tiles"
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
