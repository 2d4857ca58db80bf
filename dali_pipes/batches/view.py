"""Which part of its tile a sample shows: the whole, a window around its polyline, or both.

    view = View("both", crop=256)
    frames = view.frames(table, size=224)
    frames.window  # (N, 2, 4): the tile, then the window

`Frames` alone knows the windows: the callback, the graph, the masks, the caches and their files all ask it, and none of
them knows the name of a view.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..geometry import Letterbox, letterbox, window
from ..samples.table import SampleTable
from .masks import polyline_frame

Kind = Literal["tile", "crop", "both"]


@dataclass(frozen=True)
class View:
    """What is shown of a sample: its `tile`, a `crop` around its polyline, or `both`, the tile first.

    `crop`: the least side of that window, in pixels of the tile; see `geometry.window`.  Raises ValueError where there
    is no such kind.
    """

    kind: Kind = "tile"
    crop: int = 256

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"expected a view of {', '.join(get_args(Kind))}, found {self.kind!r}")

    def __len__(self) -> int:
        """V, the frames of a sample."""
        return 2 if self.kind == "both" else 1

    def frames(self, table: SampleTable, size: int) -> Frames:
        """What each sample of `table` shows in its frames of `size` × `size` pixels."""
        height, width = table.height_px, table.width
        nothing = np.zeros_like(height)
        whole = np.stack([nothing, nothing, height, width], axis=-1)
        around = window(table.polyline, height, width, self.crop)
        windows = {"tile": [whole], "crop": [around], "both": [whole, around]}[self.kind]
        return Frames(table, size, np.stack(windows, axis=1))


WHOLE_TILE = View()


@dataclass(frozen=True)
class Frames:
    """V square frames, `size` = S pixels a side, for each of the N samples of `table`.

    `window`: (N, V, 4) int64, top, left, height and width in pixels of the image: what is cut out of it and then
    letterboxed as an image of that size would be.
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
        """(V,), whether a view shows all of every image."""
        image = np.stack([self.table.height_px, self.table.width], axis=-1)
        return (self.window[:, :, 2:] == image[:, None]).all(axis=(0, 2))

    @property
    def square(self) -> NDArray[np.bool_]:
        """(V,), whether all windows of a view are, so that they fill their frames."""
        return (self.window[:, :, 2] == self.window[:, :, 3]).all(axis=0)

    @cached_property
    def picture(self) -> NDArray[np.int64]:
        """(N,), the number of a sample's picture: one for all that show the same windows of the same image.

        Pictures are numbered by their images, then by their windows.
        """
        return distinct(np.column_stack([self.table.image, self.window.reshape(len(self.window), -1)]))[1]

    def boxes(self, row: int) -> list[Letterbox]:
        """Where the windows of `row` lie in their frames."""
        return [letterbox(height, width, self.size) for _, _, height, width in self.window[row].tolist()]

    def polyline(self, row: int) -> NDArray[np.uint8]:
        """The polyline of `row`, drawn in its frames: (S, S, V)."""
        points, height, width = self.table.polyline[row], int(self.table.height_px[row]), int(self.table.width[row])
        masks = [polyline_frame(points, height, width, cut, self.size) for cut in self.window[row].tolist()]
        return masks[0][..., None] if len(masks) == 1 else np.stack(masks, axis=-1)


def distinct(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each distinct row of `rows` (N, K) stands first (M,), and which of them each row is (N,).

    In their order, as `np.unique` by an axis has them, which takes seconds.
    """
    order = np.lexsort(rows.T[::-1])
    new = np.ones(len(rows), bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    which = np.empty(len(rows), np.int64)
    which[order] = np.cumsum(new) - 1
    return order[new], which
