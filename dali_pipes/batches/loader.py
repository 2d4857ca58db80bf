"""Table of samples → `Batch`es of torch tensors, epoch by epoch.

    for batch in Loader(table, batch_size=32, device="cpu", shuffle=False):
        batch.rgb, batch.polyline, batch.padding, batch.length, batch.height, batch.sample

Each iteration is the next epoch. A batch is made in three stages:

1.  The images: `Stream` decodes and letterboxes them, or `TileCache` returns them from an earlier pass, byte for byte
    the same. A cache in memory keeps what the first epoch streams. A cache on disk is filled before the first epoch.
    Both take the tiles that the index has just decoded, if it has kept them all (`FirstPass`).
2.  The labels: padding masks, lengths and heights are picked by row.
3.  The augmentation, which is the same for streamed and cached images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ..console import activity
from ..errors import InputError
from ..samples.table import SampleTable, Statistics
from .augment import Augmentation, jitter, reorient
from .batch import Batch, Letterboxed
from .first_pass import FirstPass
from .mask_cache import PaddingMasks
from .plan import ONE_RANK, Plan, ScenePlan, Shard, TrainingPlan, ValidationPlan
from .stream import Stream
from .tile_cache import NO_CACHE, CacheOptions, TileCache
from .tile_file import TileFile, open_tiles, tile_path
from .view import WHOLE_TILE, View

FILL_BATCH = 64
"""Fewest pictures of a batch that fills a cache: a rank's own batch may have two."""


class Loader:
    """Epochs of batches from a table of samples. All arguments but `table` and `batch_size` have defaults.

    `batch_size`: samples per step, over all ranks.
    `device`: "cpu", "cuda" or "cuda:N".
    `shuffle`: True for training epochs: a new order each epoch, equal batches, the remainder dropped. False for
    validation epochs: the table's order, each sample once, the last batch may be smaller.
    `shard`: this process's rank, the number of ranks, and the seed.
    `scene_group`: samples of a scene that stay together in a shuffled epoch; 1: samples are shuffled alone.
    `size`: S, the side of a frame in pixels.
    `view`: which parts of its tile a sample shows.
    `statistics`: z-normalises length and height.
    `target`: (N,), one number per row, replaces the height in `Batch.height`.
    `threads`: DALI's threads, by default one per core that this process may use.
    `cache`: where letterboxed tiles are kept between epochs.
    `first_pass`: tiles that the index has kept for the cache; only a loader on a CPU uses them.
    `augmentation`: random changes, new in each epoch.
    `console`: shows the progress where a cache is filled outside an epoch's batches; by default nothing is shown.

    Raises InputError if the table is too small for a batch, an image cannot be decoded, or a disk cache is damaged or
    does not fit on its disk.
    """

    def __init__(
        self,
        table: SampleTable,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        shard: Shard = ONE_RANK,
        scene_group: int = 1,
        size: int = 224,
        view: View = WHOLE_TILE,
        statistics: Statistics | None = None,
        target: NDArray[np.floating] | None = None,
        threads: int | None = None,
        cache: CacheOptions = NO_CACHE,
        first_pass: FirstPass | None = None,
        augmentation: Augmentation | None = None,
        console: Console | None = None,
    ) -> None:
        self.table, self.view = table, view
        self.device = torch.device(device)
        self.threads = threads or len(os.sched_getaffinity(0))
        self.frames = view.frames(table, size)
        self.plan = _plan(table, batch_size, shuffle, shard, scene_group)
        self._stream = Stream(self.frames, self.plan, self.device, self.threads)
        self._cache_options = cache
        self._cache: TileCache | None = None
        usable = first_pass and self.device.type == "cpu" and cache.place != "none"
        self._kept = first_pass.tiles(self.frames) if first_pass and usable else None
        stats = statistics or Statistics(0.0, 1.0, 0.0, 1.0)
        length = (table.length - stats.length_mean) / stats.length_std
        height = (table.height - stats.height_mean) / stats.height_std if target is None else target
        self._length = torch.from_numpy(length).to(self.device, torch.float32)
        self._height = torch.from_numpy(height).to(self.device, torch.float32)
        self._paddings = PaddingMasks(self.frames, self.device)
        self._augmentation, self._seed = augmentation, shard.seed
        self._console = console or Console(quiet=True)
        self._next_step = 0

    def __len__(self) -> int:
        """Batches in an epoch of this rank."""
        return self.plan.steps_per_epoch

    @property
    def most_batches(self) -> int:
        """Batches in an epoch of the rank that has most of them."""
        return self.plan.max_steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the next epoch; the rest of an unfinished one is skipped."""
        return self.epoch(-(-self._next_step // max(1, len(self))))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches `first`, `first` + 1, … of `epoch`. The first batches of the next one are already prefetched."""
        cache = self._open_cache()
        for step in range(epoch * len(self) + first, (epoch + 1) * len(self)):
            rows = self.plan.ids(step)
            self._next_step = step + 1
            if cache and cache.complete:
                images = cache.get(rows)
            else:
                images = self._stream.batch(step)
                if cache:
                    cache.put(rows, images.rgb)
                    if cache.complete:
                        self.close()
            yield self._augmented(self._labelled(images), epoch, rows)

    def close(self) -> None:
        """Free DALI's threads and buffers; the next streamed epoch builds a new pipeline."""
        self._stream.close()

    def _labelled(self, images: Letterboxed) -> Batch:
        rgb, polyline, sample = images
        return Batch(rgb, polyline, self._paddings(sample), self._length[sample, None], self._height[sample], sample)

    def _augmented(self, batch: Batch, epoch: int, rows: NDArray[np.int64]) -> Batch:
        if not self._augmentation:
            return batch
        draws = self._augmentation.draw(self._seed, epoch, rows)
        rgb, polyline, padding = batch.rgb, batch.polyline, batch.padding
        if self._augmentation.reorients:  # in every batch or in none, because the strides select the compiled graph
            rgb, polyline, padding = reorient((rgb, polyline, padding), draws)
        return replace(batch, rgb=jitter(rgb, padding, draws), polyline=polyline, padding=padding)

    def _open_cache(self) -> TileCache | None:
        """The cache at the start of an epoch. In memory the first epoch fills it, and the second completes it."""
        place = self._cache_options.place
        if place == "none":
            return None
        if self._cache is None:
            storage = self.device if place == "device" else torch.device("cpu")
            tiles = self._tiles_on_disk() if place == "disk" else self._kept  # one file for all ranks
            rows = np.arange(len(self.table)) if tiles else self.plan.rows
            self._cache, self._kept = TileCache(self.frames, rows, storage, self.device, tiles), None
        elif self._cache.begun and not self._cache.complete:
            # The first epoch did not contain the samples that its batches dropped, or the tiles of other ranks.
            self.close()
            for rows, rgb in self._pictures(self._cache.missing):
                self._cache.put(rows, rgb)
        return self._cache

    def _tiles_on_disk(self) -> TileFile:
        folder = self._cache_options.folder
        assert folder is not None  # `CacheOptions` checks it
        first = np.unique(self.frames.picture, return_index=True)[1]
        size = self.frames.size
        shape = (len(first), size, size, 3 * len(self.view))
        path = tile_path(self.frames, folder, self._stream.decoder)
        return open_tiles(path, shape, self._kept or (rgb for _, rgb in self._pictures(first)))

    def _pictures(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Stream `rows`, one of each picture: rows (B,) and their RGB (B, S, S, 3·V) uint8, batch by batch."""
        frames = self.view.frames(self.table.select(rows), self.frames.size)
        plan = ValidationPlan(len(rows), max(FILL_BATCH, self.plan.largest_batch))
        stream = Stream(frames, plan, self.device, self.threads)
        with activity(self._console, "filling the cache", plan.steps_per_epoch) as shown:
            for step in shown.track(range(plan.steps_per_epoch)):
                yield rows[plan.ids(step)], stream.batch(step).rgb
        stream.close()


def _plan(table: SampleTable, batch_size: int, shuffle: bool, shard: Shard, scene_group: int) -> Plan:
    samples = len(table)
    try:
        if shuffle and scene_group > 1:
            scene, tile = (np.unique(names, return_inverse=True)[1] for names in (table.scene, table.tile))
            return ScenePlan(samples, batch_size, shard, scene_group, scene=scene, tile=tile)
        return (TrainingPlan if shuffle else ValidationPlan)(samples, batch_size, shard)
    except ValueError as error:
        raise InputError(str(error)) from None
