"""Tiles that the index has just decoded, letterboxed for the cache of the run that built it.

    first_pass = FirstPass(view, size=224)
    table, _ = open_index(paths, "train", keeper=first_pass)
    Loader(table, 32, view=view, cache=CacheOptions("host"), first_pass=first_pass)

Without it each image is read and decoded twice: once for the index, and once more for the cache. On a CPU both decoders
are libjpeg-turbo and give the same bytes, so one of them is enough. A GPU needs both: the pixels of its
decoder, nvJPEG, differ by a few levels, and only the decoder of the index names a damaged image.

The tiles are kept in memory if they take at most half of what is free; otherwise the loader streams. A process that is
killed leaves nothing. Only the process that builds the index has them, so runs with several ranks stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..release.members import Members, origin
from ..samples.index import Keep
from ..samples.labels import Drawn
from .tile_cache import choose_cache
from .transfer import host_tensor
from .view import Frames, View

UInt8 = NDArray[np.uint8]
BATCH = 64  # tiles that are written into a file at once


class _Key(NamedTuple):
    """What a picture shows: an image, by its source and its number there, and the `key` of its cuts."""

    source: Members
    image: int
    cut: tuple[int, ...]

    @classmethod
    def of(cls, images: Members, image: int, cut: NDArray[np.int64]) -> _Key:
        """The key of a `cut` (K,) of one of the `images`, which may be merged."""
        return cls(*origin(images, image), tuple(cut.tolist()))


class FirstPass:
    """The pictures of `view` in frames of `size` × `size` pixels; as a `Keeper` it collects them."""

    def __init__(self, view: View, size: int) -> None:
        self.view, self.size = view, size
        self._frames: dict[_Key, UInt8] = {}

    @property
    def held(self) -> int:
        """Bytes of memory that the pictures take."""
        return len(self._frames) * self._bytes_of_one

    @property
    def _bytes_of_one(self) -> int:
        return self.size * self.size * 3 * len(self.view)

    def __call__(self, images: Members, wanted: Sequence[int], drawn: Drawn) -> Keep | None:
        """What keeps the pictures of `wanted`, or None if there is not enough memory for all of them."""
        most = len(wanted) if self.view.kind == "tile" else sum(len(drawn(image)) for image in wanted)
        needed = self.held + most * self._bytes_of_one
        if choose_cache("auto", needed, torch.device("cpu"), held=self.held).value != "host":
            return None
        room = np.zeros((most, self.size, self.size, 3 * len(self.view)), np.uint8)  # takes memory where it is written
        return partial(self._keep, images, drawn, room, count())

    def _keep(self, images: Members, drawn: Drawn, room: UInt8, free: Iterator[int], image: int, pixels: UInt8) -> None:
        """Letterbox each picture of an image (h, w, 3) into the next row of `room`, in any thread."""
        polylines = drawn(image)
        inside = (polylines >= 0) & (polylines <= pixels.shape[1::-1])
        polylines = polylines[inside.all(axis=(1, 2))]  # the table skips the others
        height, width = (np.full(len(polylines), side) for side in pixels.shape[:2])
        cuts = self.view.cuts(polylines, height, width, self.size)
        for key, row in {_Key.of(images, image, cut): row for row, cut in enumerate(cuts.key)}.items():
            frame = room[next(free)]
            cuts.draw(row, pixels, frame)
            self._frames[key] = frame

    def tiles(self, frames: Frames) -> KeptTiles | None:
        """All pictures of `frames`, in their order, or None if one was not kept."""
        if frames.size != self.size:
            return None
        images = frames.table.images
        first = np.unique(frames.picture, return_index=True)[1]
        shown = zip(frames.table.image[first].tolist(), frames.key[first], strict=True)
        kept = [self._frames.get(_Key.of(images, image, cut)) for image, cut in shown]
        found = [frame for frame in kept if frame is not None]
        return KeptTiles(found) if len(found) == len(kept) else None


class KeptTiles:
    """Pictures in memory, each (S, S, 3·V); iterating gives them in batches of tensors."""

    def __init__(self, pictures: Sequence[UInt8]) -> None:
        self._pictures = pictures

    def __iter__(self) -> Iterator[Tensor]:
        numbers = np.arange(len(self._pictures))
        for start in range(0, len(numbers), BATCH):
            yield self.read(numbers[start : start + BATCH], torch.device("cpu"))

    def read(self, tiles: NDArray[np.int64], device: torch.device) -> Tensor:
        """The pictures `tiles` (B,) as (B, S, S, 3·V) uint8 on `device`."""
        batch = host_tensor((len(tiles), *self._pictures[0].shape), torch.uint8, device)
        for pixels, tile in zip(batch.numpy(), tiles.tolist(), strict=True):
            pixels[...] = self._pictures[tile]
        return batch.to(device, non_blocking=True)
