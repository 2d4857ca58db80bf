"""Which part of its tile a sample shows: the whole tile, a window around its polyline, or several of them.

    view = View("both", crop=256)
    frames = view.frames(table, size=224)
    frames.window  # (N, 2, 4): the tile, then the window

Only this module knows the names of views. The source, the graph, the masks and the caches use the windows and matrices
of `Frames`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..geometry import Letterbox, Placement, aligned, letterbox, pointing_away, window
from ..samples.table import SampleTable
from ..units import count

ViewKind = Literal["tile", "crop", "aligned", "both", "tile+aligned"]
SHOWN: dict[ViewKind, tuple[ViewKind, ...]] = {"both": ("tile", "crop"), "tile+aligned": ("tile", "aligned")}

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """What is shown of a sample.

    `kind`: the `tile`, a `crop` around its polyline, a window `aligned` with it so that it points up, `both`, the tile
    and a crop, or `tile+aligned`. `crop`: the smallest side of a window, in pixels of the tile; see `geometry.window`
    and `geometry.aligned`. Raises ValueError for an unknown kind.
    """

    kind: ViewKind = "tile"
    crop: int = 256

    def __post_init__(self) -> None:
        if self.kind not in get_args(ViewKind):
            raise ValueError(f"expected a view of {', '.join(get_args(ViewKind))}, found {self.kind!r}")

    @property
    def shown(self) -> tuple[ViewKind, ...]:
        """The kinds of the V frames of a sample, in order."""
        return SHOWN.get(self.kind, (self.kind,))

    def __len__(self) -> int:
        """V, the number of frames per sample."""
        return len(self.shown)

    @property
    def windowed(self) -> bool:
        """Whether only windows are shown, so that no image has to be decoded as a whole."""
        return "tile" not in self.shown

    @property
    def turned(self) -> bool:
        """Whether a frame is turned; then an up-down flip or a quarter turn would no longer show what it does."""
        return "aligned" in self.shown

    def upside_down(self, table: SampleTable) -> str:
        """A warning about samples whose turned window is upside down, as it seems; empty if there are none."""
        away = pointing_away(table.polyline, table.scene) if self.turned else np.zeros(len(table), bool)
        if not away.any():
            return ""
        return (
            f"drawn from top to base, as it seems: {count(int(away.sum()), 'polyline')}, which the network sees upside"
            f" down, such as one on {table.tile[away][0]}; the others of the scene point the other way"
        )

    def frames(self, table: SampleTable, size: int) -> Frames:
        """What each sample of `table` shows, in frames of `size` × `size` pixels."""
        cuts = self.cuts(table.polyline, table.height_px, table.width, size)
        return Frames(size, cuts.window, cuts.matrix, table)

    def cuts(self, polyline: Float64, height: Int64, width: Int64, size: int) -> Cuts:
        """The windows of polylines (N, P, 2) px in images of `height` × `width` (N,) px."""
        zero = np.zeros_like(height)
        windows = []
        matrices = np.broadcast_to(np.nan, (len(height), len(self), 2, 3))  # takes no memory
        for view, kind in enumerate(self.shown):
            if kind == "tile":
                cut = np.stack([zero, zero, height, width], axis=-1)
            elif kind == "crop":
                cut = window(polyline, height, width, self.crop)
            else:
                matrices = matrices.copy()
                matrices[:, view] = aligned(polyline, self.crop, size)
                cut = _box(matrices[:, view], size, height, width)
            windows.append(cut)
        return Cuts(size, np.stack(windows, axis=1), matrices)


WHOLE_TILE = View()


def _box(matrix: Float64, size: int, height: Int64, width: Int64) -> Int64:
    """The part of an image that a turned frame shows: top, left, height and width (N, 4) px, at least one pixel.

    A pixel more at each side, for the bilinear interpolation.
    """
    last = size - 1
    corners = np.array([[0, last, 0, last], [0, 0, last, last], [1, 1, 1, 1]])
    seen = (matrix @ corners)[:, ::-1]  # (N, 2, 4), y first
    image = np.stack([height, width], axis=-1)
    start = np.clip(np.floor(seen.min(axis=-1)) - 1, 0, image - 1)
    stop = np.clip(np.ceil(seen.max(axis=-1)) + 2, start + 1, image)
    return np.concatenate([start, stop - start], axis=-1).astype(np.int64)


@dataclass(frozen=True)
class Cuts:
    """V square frames, of `size` = S pixels a side, for each of N samples.

    `window`: (N, V, 4) int64, top, left, height and width in pixels of the image. Each window is cut out and then
    letterboxed like an image of its size, unless it is turned.
    `matrix`: (N, V, 2, 3) float64, from pixels of a turned frame to pixels of the image; NaN if it is letterboxed.
    """

    size: int
    window: Int64
    matrix: Float64

    @property
    def views(self) -> int:
        """V."""
        return self.window.shape[1]

    @cached_property
    def turned(self) -> NDArray[np.bool_]:
        """(V,), whether the frames of a view are turned."""
        return np.logical_and.reduce(np.isfinite(self.matrix[:, :, 0, 0]), axis=0, dtype=np.bool_)

    @property
    def key(self) -> Int64:
        """(N, K), equal in two rows that show the same part of an image in the same way."""
        columns = self.window.reshape(len(self.window), -1)
        turned = self.matrix[:, self.turned].reshape(len(self.window), -1)
        return np.concatenate([columns, turned.view(np.int64)], axis=1)

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """(V,), whether a window covers its frame in every sample, as all turned and all square ones do."""
        return self.turned | (self.window[:, :, 2] == self.window[:, :, 3]).all(axis=0)

    def placements(self, row: int) -> list[Placement]:
        """How each window of `row` becomes a frame."""
        placed: list[Placement] = []
        for (top, left, height, width), matrix in zip(self.window[row].tolist(), self.matrix[row], strict=True):
            if np.isnan(matrix[0, 0]):
                placed.append(letterbox(height, width, self.size))
            else:
                placed.append(matrix - [[0, 0, left], [0, 0, top]])
        return placed

    def draw(self, row: int, image: UInt8, frame: UInt8) -> None:
        """Place all windows of `row`, cut out of its whole `image` (h, w, 3), in its black `frame` (S, S, 3·V)."""
        from .letterbox import place_views  # `--help` reads this module, and OpenCV takes long to import

        windows = [image[y : y + h, x : x + w] for y, x, h, w in self.window[row].tolist()]
        place_views(frame, windows, self.placements(row))


@dataclass(frozen=True)
class Frames(Cuts):
    """The frames of the samples of a `table`."""

    table: SampleTable

    @property
    def whole(self) -> NDArray[np.bool_]:
        """(V,), whether a view shows every image as a whole."""
        image = np.stack([self.table.height_px, self.table.width], axis=-1)
        return (self.window[:, :, 2:] == image[:, None]).all(axis=(0, 2))

    @cached_property
    def picture(self) -> Int64:
        """(N,), the number of each sample's picture; samples that show the same windows of one image share it.

        Pictures are numbered by image, then by window.
        """
        return unique_rows(np.column_stack([self.table.image, self.key]))[1]

    def rgb(self, rows: Int64, images: Iterable[UInt8]) -> UInt8:
        """Place the views of `rows` (B,) in frames on the CPU → (B, S, S, 3·V), black outside of the image.

        `images`: for each row its whole image (h, w, 3) uint8; if one view is shown, its window.
        """
        from .letterbox import place_views

        new = np.empty if self.filled.all() else np.zeros  # if every pixel is written
        rgb = new((len(rows), self.size, self.size, 3 * self.views), np.uint8)
        for frame, image, row in zip(rgb, images, rows.tolist(), strict=True):
            if self.views == 1:
                place_views(frame, [image], self.placements(row))
            else:
                self.draw(row, image, frame)
        return rgb

    def polyline(self, row: int) -> UInt8:
        """The polyline mask of `row`, (S, S, V)."""
        from .masks import polyline_frame, turned_polyline

        points, height, width = self.table.polyline[row], int(self.table.height_px[row]), int(self.table.width[row])
        masks = [
            polyline_frame(points, height, width, cut, self.size)
            if isinstance(placement, Letterbox)
            else turned_polyline(points, height, width, cut, self.size, placement)
            for cut, placement in zip(self.window[row].tolist(), self.placements(row), strict=True)
        ]
        return masks[0][..., None] if len(masks) == 1 else np.stack(masks, axis=-1)


def unique_rows(rows: Int64) -> tuple[Int64, Int64]:
    """For each unique row of `rows` (N, K) its first index (M,), and for each row the number of its unique row (N,).

    In the order of `np.unique(rows, axis=0)`, which takes seconds for the same result.
    """
    order = np.lexsort(rows.T[::-1])
    new = np.ones(len(rows), bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    unique = np.empty(len(rows), np.int64)
    unique[order] = np.cumsum(new) - 1
    return order[new], unique
