"""A cached epoch is the streamed epoch, byte for byte; the cache is chosen by what memory there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dali_pipes.cache
from dali_pipes import Batch, Loader, SampleTable
from dali_pipes.cache import TileCache, bytes_needed, choose

from .conftest import jpeg, via_label

CPU = torch.device("cpu")


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(vars(one).values(), vars(other).values(), strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_three_cached_epochs_are_the_streamed_ones(shuffle: bool, release: Path) -> None:
    table = SampleTable.from_release(release)
    streaming, cached = (Loader(table, 32, shuffle=shuffle, seed=4, size=64, cache=cache) for cache in ("none", "host"))
    for _ in range(3):
        for one, other in zip(streaming, cached, strict=True):
            assert same(one, other)
    assert len(table) % 32, "the remainder that training drops is what makes this hard"


def test_later_epochs_do_not_decode(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SampleTable.from_release(release)
    loader = Loader(table, 32, shuffle=True, size=32, cache="host")
    list(loader)
    list(loader)  # completes the cache
    monkeypatch.setattr(type(table.images), "read", lambda *_: pytest.fail("an image was read"))
    assert len(list(loader)) == len(loader)


def test_an_epoch_that_was_left_early_is_completed(release: Path) -> None:
    table = SampleTable.from_release(release, "validation")
    loader = Loader(table, 16, size=32, cache="host")
    next(iter(loader))
    for one, other in zip(loader.epoch(1), Loader(table, 16, size=32), strict=True):
        assert same(one, other)


def test_tiles_of_several_sizes_keep_their_own_padding(write_split: Callable[..., Path]) -> None:
    sizes = [(64, 64), (40, 90), (90, 40), (64, 64)]
    tiles = {
        f"a_{i}.jpg": (jpeg(h, w, i), via_label(f"a_{i}.jpg", [[(1, 1), (30, 30)], [(5, 1), (9, 30)]]))
        for i, (h, w) in enumerate(sizes)
    }
    table = SampleTable.from_release(write_split(tiles))
    loader = Loader(table, 3, size=48, cache="host")
    list(loader)
    for one, other in zip(loader, Loader(table, 3, size=48), strict=True):
        assert same(one, other)


def test_the_bytes_that_are_told_are_those_that_are_taken(release: Path) -> None:
    table = SampleTable.from_release(release)
    cache = TileCache(table, 56, CPU)
    assert bytes_needed(table, 56) == cache._rgb.nbytes + cache._polyline.nbytes


def test_the_cache_is_chosen_by_free_memory_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.cache, "_free_host_memory", lambda: 4 << 30)
    assert choose("auto", 2 << 30, CPU) == ("host", "the tiles take 2.0 GiB of 4 GiB free")
    assert choose("auto", 3 << 30, CPU).value == "none"
    assert choose("none", 0, CPU) == ("none", "as asked")
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 << 30, 80 << 30))
    assert choose("auto", 3 << 30, cuda).value == "device"
    assert choose("auto", 5 << 30, cuda).value == "none"
