"""Graph → `Batch` of torch tensors, zero copy.

    for batch in Loader(table, batch_size=32, device="cpu", shuffle=False):
        batch.rgb, batch.polyline, batch.padding, batch.length, batch.height, batch.sample

One iteration is one epoch; the next one continues with the next epoch's order, already prefetched.  With a cache in
memory the first epoch is streamed and kept, and the others are gathered from it, byte for byte the same; with one on
disk all are gathered.  Augmentation comes after both, so that it cannot tell them apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia import dali
from rich.console import Console
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ..errors import InputError
from ..samples.table import SampleTable, Statistics
from ..samples.via import Reason
from .augment import Augmentation, shade, turn
from .graph import build
from .mask_cache import Paddings
from .plan import Plan, TrainingPlan, ValidationPlan
from .source import Source
from .tile_cache import TileCache
from .tile_file import open_tiles, tile_path
from .view import WHOLE_TILE, View


@dataclass(frozen=True)
class Batch:
    """B letterboxed samples in V views, the tile before the window, on one device.

    `rgb`: (B, S, S, 3·V) uint8; `polyline`, `padding`: (B, S, S, V) uint8, 255 is foreground; `length`: (B, 1)
    float32 and `height`: (B,) float32, z-normalised if the loader was given statistics, else the normalised length
    and metres, or in its place what the loader was given as `target`; `sample`: (B,) int64, rows of the table.
    """

    rgb: torch.Tensor
    polyline: torch.Tensor
    padding: torch.Tensor
    length: torch.Tensor
    height: torch.Tensor
    sample: torch.Tensor

    def __len__(self) -> int:
        return len(self.sample)

    def split(self, parts: int) -> list[Batch]:
        """Equal parts, in order, as views; `parts` must divide the number of samples."""
        size = len(self) // parts
        columns = [getattr(self, field.name).split(size) for field in fields(self)]
        return [Batch(*part) for part in zip(*columns, strict=True)]


class Loader:
    """Epochs of batches from a table of samples.

    `batch_size`: samples a step, over all ranks; `device`: "cpu", "cuda" or "cuda:N"; `shuffle`: a training epoch (a
    new order each epoch from `seed`, equal batches, the remainder dropped) or a validation epoch (the table's order,
    each sample once, the last batch partial); `size`: S, the frame's side in pixels; `view`: which parts of its tile a
    sample shows; `statistics`: z-normalises
    length and height; `target`: (N,) one number a row, given as `height` instead; `threads`: DALI's, default all
    cores this process may use; `prefetch`: batches made ahead; `cache`: "none", or where tiles are kept: after the
    first epoch in the memory of the "host" or of the "device", before it on "disk", in `folder`; `augmentation`:
    what is changed anew each epoch, drawn from `seed`.  Raises InputError where the table is too small for a batch,
    an image cannot be decoded, or the disk is full.
    """

    def __init__(
        self,
        table: SampleTable,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        size: int = 224,
        view: View = WHOLE_TILE,
        statistics: Statistics | None = None,
        target: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        prefetch: int = 2,
        cache: str = "none",
        folder: Path | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.table = table
        self.device = torch.device(device)
        self._executor = "gpu" if self.device.type == "cuda" else "cpu"
        self.view = view
        self.frames = view.frames(table, size)
        self.plan = _plan(len(table), batch_size, shuffle, seed, rank, world_size)
        self.threads = threads or len(os.sched_getaffinity(0))
        self._prefetch = prefetch
        stats = statistics or Statistics(0.0, 1.0, 0.0, 1.0)
        length = (table.length - stats.length_mean) / stats.length_std
        height = (table.height - stats.height_mean) / stats.height_std if target is None else target
        self._length = torch.from_numpy(length).to(self.device, torch.float32)
        self._height = torch.from_numpy(height).to(self.device, torch.float32)
        self._paddings = Paddings(self.frames, self.device)
        self._augmentation, self._seed = augmentation, seed
        self._pipeline: Any = None
        self._next_step = 0
        self._place, self._folder = cache, folder
        self._cache: TileCache | None = None

    def __len__(self) -> int:
        """Batches in an epoch of this rank."""
        return self.plan.steps_per_epoch

    @property
    def most_batches(self) -> int:
        """Batches in an epoch of the rank that has most of them."""
        return self.plan.most_steps

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch that has not been begun."""
        return self.epoch(-(-self._next_step // max(1, len(self))))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches `first`, `first` + 1, … of `epoch`; going on where the last epoch ended costs nothing."""
        cache = self._open_cache()
        for step in range(epoch * len(self) + first, (epoch + 1) * len(self)):
            rows = self.plan.ids(step)
            if cache and cache.complete:
                self._next_step = step + 1
                batch = self._batch(*cache.get(rows))
            else:
                batch = self._stream(step)
                if cache:
                    cache.put(rows, batch.rgb)
            yield self._augment(batch, epoch, rows)

    def close(self) -> None:
        """Free the pipeline's threads and buffers; the next streamed epoch builds it anew."""
        self._pipeline = None

    def _open_cache(self) -> TileCache | None:
        """The cache as an epoch begins: with one in memory the first epoch fills it, and the second completes it."""
        if self._place == "none":
            return None
        if self._cache is None:
            rows, place = self.plan.rows, self.device if self._place == "device" else torch.device("cpu")
            rgb = None
            if self._place == "disk":
                rows = np.arange(len(self.table))  # one file for all ranks
                rgb = self._tiles_on_disk()
            self._cache = TileCache(self.frames, rows, place, self.device, rgb)
        elif not self._cache.complete and self._cache.begun:
            self.close()
            # What the first epoch did not show: the remainder that its last batch left, and other ranks' tiles.
            for rows, rgb in self._tiles(self._cache.missing):
                self._cache.put(rows, rgb)
        return self._cache

    def _tiles_on_disk(self) -> Tensor:
        if self._folder is None:
            raise InputError('expected a folder for cache="disk", found none')
        first = np.unique(self.frames.picture, return_index=True)[1]
        size = self.frames.size
        path = tile_path(self.frames, self._folder, f"DALI {dali.__version__} {self._executor}")
        shape = (len(first), size, size, 3 * len(self.view))
        return open_tiles(path, shape, (rgb for _, rgb in self._tiles(first)))

    def _tiles(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Stream `rows`, one of each picture: the rows and their RGB, batch by batch."""
        if len(rows):
            table, batch_size, size = self.table.select(rows), self.plan.largest_batch, self.frames.size
            for batch in Loader(table, batch_size, device=self.device, size=size, view=self.view, threads=self.threads):
                yield rows[: len(batch)], batch.rgb
                rows = rows[len(batch) :]

    def _augment(self, batch: Batch, epoch: int, rows: np.ndarray) -> Batch:
        if not self._augmentation:
            return batch
        draws = self._augmentation.draw(self._seed, epoch, rows)
        rgb, polyline, padding = turn((batch.rgb, batch.polyline, batch.padding), draws)
        return replace(batch, rgb=shade(rgb, padding, draws), polyline=polyline, padding=padding)

    def _stream(self, step: int) -> Batch:
        if self._pipeline is None or step != self._next_step:
            self._pipeline = self._build(step)
        self._next_step = step + 1
        # On a GPU the outputs are ordered after the stream that trains, so that nobody waits on the host.
        stream = (torch.cuda.current_stream(self.device).cuda_stream,) if self.device.type == "cuda" else ()
        try:
            outputs = self._pipeline.run(*stream)
        except RuntimeError as error:
            self.close()  # DALI's state is undefined after an exception
            raise InputError(self._undecodable(step, error)) from error
        rgb, polyline, sample = (from_dlpack(output.as_tensor()) for output in outputs)
        return self._batch(rgb, polyline, sample.flatten())

    def _batch(self, rgb: Tensor, polyline: Tensor, sample: Tensor) -> Batch:
        padding = self._paddings(sample)
        return Batch(rgb, polyline, padding, self._length[sample, None], self._height[sample], sample)

    def _build(self, step: int) -> Any:
        source = Source(self.frames, self.plan, first_step=step, ahead=self._prefetch + 4)
        return build(
            source,
            batch_size=self.plan.largest_batch,
            device=self._executor,
            device_id=(self.device.index or 0) if self._executor == "gpu" else None,
            threads=self.threads,
            prefetch=self._prefetch,
        )

    def _undecodable(self, step: int, error: RuntimeError) -> str:
        """DALI names no sample: ask the index's decoder which it was."""
        from ..samples.index import check_by_decoding

        images = np.unique(self.table.image[self.plan.ids(step)]).tolist()
        console = Console(quiet=True)
        checked = check_by_decoding(self.table.images, images, title="", console=console, threads=self.threads)
        bad = [
            f"{self.table.images.names[i]} ({found.value})"
            for i, found in zip(images, checked, strict=True)
            if isinstance(found, Reason)
        ]
        named = ", ".join(bad) or f"none that another decoder refuses ({str(error).strip().splitlines()[-1]})"
        return (
            f"expected tiles that decode, found {named} in batch {step};"
            " `python -m dali_pipes` lists all of the release"
        )


def _plan(samples: int, batch_size: int, shuffle: bool, seed: int, rank: int, world_size: int) -> Plan:
    try:
        if shuffle:
            return TrainingPlan(samples, batch_size, seed, rank, world_size)
        return ValidationPlan(samples, batch_size, rank, world_size)
    except ValueError as error:
        raise InputError(str(error)) from None
