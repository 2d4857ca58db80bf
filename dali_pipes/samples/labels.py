"""What a split's labels and images say, read into columns; what cannot be used is listed with its reason.

Labels become rows in buffers that grow, a few words a row and no objects: a million rows of objects would take
gigabytes.  The images that the rows name are then checked, each once, by a `Check`: by its headers alone, here, or
by decoding it, in `index.py`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..release.members import Members
from . import via
from .jpeg import JpegHeader, read_header
from .via import Reason

MOST_PIXELS = 1 << 24  # of an image; a tile has 2¹⁸, and a lying header shall not claim the memory


Check = Callable[[Members, Sequence[int]], Iterable[JpegHeader | Reason]]
"""What is found at each of some images, in their order: what its headers say, or why it cannot be used."""


class LeftOut(NamedTuple):
    """A region that is not in the table; `region` is its index in the tile, -1 for the tile as a whole."""

    file: str
    region: int
    reason: Reason


class Rows:
    """Rows as they are read: buffers that grow, since a million rows of objects would take gigabytes."""

    def __init__(self) -> None:
        self.image, self.region, self.points_of = array("q"), array("q"), array("q")
        self.points, self.numbers, self.stated = array("d"), array("d"), array("d")
        self.doubted: set[int] = set()  # images that two labels name

    def append(self, image: int, tile: via.TileLabel, region: via.Region) -> None:
        """One region of `tile`, which is image number `image`."""
        self.image.append(image)
        self.region.append(region.index)
        self.points_of.append(len(region.points))
        self.points.frombytes(region.points.tobytes())
        self.numbers.extend((region.height, tile.gsd, tile.roll, tile.pitch))
        self.stated.extend((tile.width, tile.height))

    def polylines(self) -> NDArray[np.float64]:
        """(N, P, 2) px; short ones repeat their last point."""
        counts = np.frombuffer(self.points_of, np.int64)
        nth = np.minimum(np.arange(counts.max(initial=0)), counts[:, None] - 1)
        return np.frombuffer(self.points).reshape(-1, 2)[(np.cumsum(counts) - counts)[:, None] + nth]


def read_labels(labels: Members, images: Members, left_out: list[LeftOut]) -> Rows:
    """Read all labels, and add to `left_out` what cannot be used whatever the images are like.

    Which tile a label is of must be beyond doubt: one that names another tile's image although its own is there is left
    out, and an image that two labels name is `doubted`.
    """
    index = {name: i for i, name in enumerate(images.names)}
    own = {stem_of(name): name for name in images.names}
    rows, owner = Rows(), dict[str, int]()  # image name → the label file that names it
    for i, name in enumerate(labels.names):
        if not name.lower().endswith(".json"):
            continue
        owner.setdefault(own.get(stem_of(name), ""), i)
        for tile in _tiles(labels, i, left_out):
            image = index.get(tile.filename)
            if own.get(stem_of(name), tile.filename) != tile.filename:
                left_out.append(LeftOut(name, -1, Reason.MISNAMED))
                continue
            if owner.setdefault(tile.filename, i) != i and image is not None:
                rows.doubted.add(image)
            left_out.extend(LeftOut(tile.filename, *vars(rejected).values()) for rejected in tile.rejected)
            if tile.regions and image is None:
                left_out.append(LeftOut(tile.filename, -1, Reason.NO_IMAGE))
            elif image is not None:
                for region in tile.regions:
                    rows.append(image, tile, region)
    left_out += [LeftOut(name, -1, Reason.NO_LABEL) for name in images.names if name not in owner]
    return rows


def _tiles(labels: Members, i: int, left_out: list[LeftOut]) -> list[via.TileLabel]:
    try:
        return via.parse(labels.read(i).tobytes())
    except InputError:
        left_out.append(LeftOut(labels.names[i], -1, Reason.DAMAGED))
    except ValueError:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        left_out.append(LeftOut(labels.names[i], -1, Reason.BROKEN_LABEL))
    return []


def stem_of(file: str) -> str:
    """A tile's name, of its image as of its label."""
    return file.rpartition(".")[0] or file


def check_images(
    images: Members, image: NDArray[np.int64], check: Check, left_out: list[LeftOut]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Check each image of the rows `image` (N,) once → its size (N, 2) int64 px (w, h), whether it can be used (N,)."""
    wanted, inverse = np.unique(image, return_inverse=True)
    size, usable = np.zeros((len(wanted), 2), np.int64), np.zeros(len(wanted), bool)
    for i, found in enumerate(check(images, wanted.tolist())):
        if isinstance(found, Reason):
            left_out.append(LeftOut(images.names[wanted[i]], -1, found))
        else:
            size[i], usable[i] = (found.width, found.height), True
    return size[inverse], usable[inverse]


def usable_header(data: NDArray[np.uint8]) -> JpegHeader | Reason:
    """What the headers of the JPEG `data` (n,) uint8 say, or why such an image cannot be used."""
    jpeg = read_header(data.data)
    if jpeg is None:
        return Reason.NOT_A_JPEG
    if not jpeg.complete:
        return Reason.TRUNCATED
    if jpeg.orientation != 1:
        return Reason.ROTATED
    if jpeg.components not in (1, 3):
        return Reason.COLOURS
    if jpeg.height * jpeg.width > MOST_PIXELS:
        return Reason.TOO_LARGE
    return jpeg


def check_headers(images: Members, wanted: Sequence[int]) -> Iterable[JpegHeader | Reason]:
    """The `Check` that reads headers alone: quick, and blind to damage behind them."""
    return (_check_header(images, image) for image in wanted)


def _check_header(images: Members, image: int) -> JpegHeader | Reason:
    try:
        return usable_header(images.read(image))
    except InputError:
        return Reason.DAMAGED
