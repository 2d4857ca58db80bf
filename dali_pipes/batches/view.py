"""Which part of its tile a sample shows: the whole tile, a window around its polyline, or both.

    view = View("both", crop=256)
    frames = view.frames(table, size=224)
    frames.window  # (N, 2, 4): the tile, then the window

Only this module knows the names of views. The source, the graph, the masks and the caches use the windows of `Frames`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..geometry import Letterbox, letterbox, window
from ..samples.table import SampleTable

ViewKind = Literal["tile", "crop", "both"]


@dataclass(frozen=True)
class View:
    """What is shown of a sample: its `tile`, a `crop` around its polyline, or `both`, the tile first.

    `crop`: the smallest side of that window, in pixels of the tile; see `geometry.window`. Raises ValueError for an
    unknown kind.
    """

    kind: ViewKind = "tile"
    crop: int = 256

    def __post_init__(self) -> None:
        if self.kind not in get_args(ViewKind):
            raise ValueError(f"expected a view of {', '.join(get_args(ViewKind))}, found {self.kind!r}")

    def __len__(self) -> int:
        """V, the number of frames per sample."""
        return 2 if self.kind == "both" else 1

    @property
    def windowed(self) -> bool:
        """Whether only windows are shown, so that no image has to be decoded as a whole."""
        return self.kind == "crop"

    def frames(self, table: SampleTable, size: int) -> Frames:
        """What each sample of `table` shows, in frames of `size` × `size` pixels."""
        return Frames(table, size, self.windows(table.polyline, table.height_px, table.width))

    def windows(
        self, polyline: NDArray[np.float64], height: NDArray[np.int64], width: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The windows (N, V, 4) of polylines (N, P, 2) px in images of `height` × `width` (N,) px."""
        zero = np.zeros_like(height)
        tile = np.stack([zero, zero, height, width], axis=-1)
        crop = window(polyline, height, width, self.crop)
        windows = {"tile": [tile], "crop": [crop], "both": [tile, crop]}[self.kind]
        return np.stack(windows, axis=1)


WHOLE_TILE = View()


@dataclass(frozen=True)
class Frames:
    """V square frames, of `size` = S pixels a side, for each of the N samples of `table`.

    `window`: (N, V, 4) int64, top, left, height and width in pixels of the image. Each window is cut out and then
    letterboxed like an image of its size.
    """

    table: SampleTable
    size: int
    window: NDArray[np.int64]

    @property
    def views(self) -> int:
        """V."""
        return self.window.shape[1]

    @property
    def whole(self) -> NDArray[np.bool_]:
        """(V,), whether a view shows every image as a whole."""
        image = np.stack([self.table.height_px, self.table.width], axis=-1)
        return (self.window[:, :, 2:] == image[:, None]).all(axis=(0, 2))

    @property
    def square(self) -> NDArray[np.bool_]:
        """(V,), whether all windows of a view are square, so that they fill their frames."""
        return (self.window[:, :, 2] == self.window[:, :, 3]).all(axis=0)

    @cached_property
    def picture(self) -> NDArray[np.int64]:
        """(N,), the number of each sample's picture; samples that show the same windows of one image share it.

        Pictures are numbered by image, then by window.
        """
        return unique_rows(np.column_stack([self.table.image, self.window.reshape(len(self.window), -1)]))[1]

    def boxes(self, row: int) -> list[Letterbox]:
        """The letterbox of each window of `row`."""
        return [letterbox(height, width, self.size) for _, _, height, width in self.window[row].tolist()]

    def rgb(self, rows: NDArray[np.int64], images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Letterbox the views of `rows` (B,) on the CPU → (B, S, S, 3·V), with black padding.

        `images`: for each row its whole image (h, w, 3) uint8; if one view is shown, what it shows.
        """
        from .letterbox import letterbox_views

        new = np.empty if self.square.all() else np.zeros  # without padding every pixel is written
        rgb = new((len(rows), self.size, self.size, 3 * self.views), np.uint8)
        for frame, image, row in zip(rgb, images, rows.tolist(), strict=True):
            windows = [np.s_[y : y + h, x : x + w] for y, x, h, w in self.window[row].tolist()]
            views = [image] if self.views == 1 else [image[window] for window in windows]
            letterbox_views(frame, views, self.boxes(row))
        return rgb

    def polyline(self, row: int) -> NDArray[np.uint8]:
        """The polyline mask of `row`, (S, S, V)."""
        from .masks import polyline_frame

        points, height, width = self.table.polyline[row], int(self.table.height_px[row]), int(self.table.width[row])
        masks = [polyline_frame(points, height, width, cut, self.size) for cut in self.window[row].tolist()]
        return masks[0][..., None] if len(masks) == 1 else np.stack(masks, axis=-1)


def unique_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each unique row of `rows` (N, K) its first index (M,), and for each row the number of its unique row (N,).

    In the order of `np.unique(rows, axis=0)`, which takes seconds for the same result.
    """
    order = np.lexsort(rows.T[::-1])
    new = np.ones(len(rows), bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    unique = np.empty(len(rows), np.int64)
    unique[order] = np.cumsum(new) - 1
    return order[new], unique
