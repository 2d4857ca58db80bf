"""Read the labels and images of a split into columns, and list what was skipped, with reasons.

The rows are kept in growing buffers: as Python objects, a million rows would take gigabytes. Then a `Check` checks each
image of a row once: by its headers here, or by decoding it in `index.py`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..release.members import Members
from ..release.names import NumberOf
from . import via
from .jpeg import JpegHeader, usable_header
from .via import Reason

Drawn = Callable[[int], NDArray[np.float64]]
"""Number of an image → the polylines (n, P, 2) px of its labels, whether they can be used or not."""

Check = Callable[[Members, Sequence[int], Drawn], Iterable[JpegHeader | Reason]]
"""(images, numbers, polylines) → for each image in order its header, or the reason why it cannot be used."""


class LeftOut(NamedTuple):
    """A skipped region; `region` is its index in the tile, or -1 for the whole tile."""

    file: str
    region: int
    reason: Reason


class Rows:
    """The rows of a table while labels are read: one growing buffer per column."""

    def __init__(self) -> None:
        self.image, self.region, self.points_of = array("q"), array("q"), array("q")
        self.points, self.numbers, self.stated = array("d"), array("d"), array("d")
        self.doubted: set[int] = set()  # images that two labels name

    def append(self, image: int, tile: via.TileLabel, region: via.Region) -> None:
        """Append one region of `tile`, which is image number `image`."""
        self.image.append(image)
        self.region.append(region.index)
        self.points_of.append(len(region.points))
        self.points.frombytes(region.points.tobytes())
        self.numbers.extend((region.height, tile.gsd, tile.roll, tile.pitch))
        self.stated.extend((tile.width, tile.height))

    def polylines(self) -> NDArray[np.float64]:
        """Return the polylines as (N, P, 2) float64 px; shorter ones repeat their last point."""
        counts = np.frombuffer(self.points_of, np.int64)
        nth = np.minimum(np.arange(counts.max(initial=0)), counts[:, None] - 1)
        return np.frombuffer(self.points).reshape(-1, 2)[(np.cumsum(counts) - counts)[:, None] + nth]


def read_labels(labels: Members, images: Members, left_out: list[LeftOut]) -> Rows:
    """Read all labels, and add to `left_out` what cannot be used, before the images are checked.

    A label is skipped if it names another tile's image although its own exists. An image that two labels name is added
    to `doubted`. Names are compared as `NumberOf` does. If there is only one label file, it may describe all tiles: it
    may have any name, and be as large as the labels of all tiles together.
    """
    number_of = NumberOf(images.names)
    rows, owner = Rows(), dict[int | str, tuple[int, int]]()  # image, or its name if there is none → file and entry
    files = [(i, name) for i, name in enumerate(labels.names) if name.lower().endswith(".json")]
    largest = via.LARGEST_LABEL * max(1, len(images.names) // max(1, len(files)))
    for i, name in files:
        tiles = _tiles(labels, i, largest, left_out)
        own = None if len(files) == 1 < len(tiles) else number_of.of_tile(name)
        if own is not None:
            owner.setdefault(own, (i, 0))
        for entry, tile in enumerate(tiles):
            image = number_of(tile.filename)
            if own not in (None, image):
                left_out.append(LeftOut(name, -1, Reason.MISNAMED))
                continue
            key = tile.filename if image is None else image
            if owner.setdefault(key, (i, entry)) != (i, entry) and image is not None:
                rows.doubted.add(image)
            filename = tile.filename if image is None else images.names[image]
            left_out.extend(LeftOut(filename, *vars(rejected).values()) for rejected in tile.rejected)
            if tile.regions and image is None:
                left_out.append(LeftOut(filename, -1, Reason.NO_IMAGE))
            elif image is not None:
                for region in tile.regions:
                    rows.append(image, tile, region)
    left_out += [LeftOut(name, -1, Reason.NO_LABEL) for i, name in enumerate(images.names) if i not in owner]
    return rows


def _tiles(labels: Members, i: int, largest: int, left_out: list[LeftOut]) -> list[via.TileLabel]:
    try:
        return via.parse(labels.read(i).tobytes(), largest)
    except InputError:
        left_out.append(LeftOut(labels.names[i], -1, Reason.DAMAGED))
    except via.UnusableLabel as error:
        left_out.append(LeftOut(labels.names[i], -1, error.reason))
    except ValueError:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        left_out.append(LeftOut(labels.names[i], -1, Reason.BROKEN_LABEL))
    return []


def check_images(
    images: Members,
    image: NDArray[np.int64],
    polyline: NDArray[np.float64],
    check: Check,
    left_out: list[LeftOut],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Check each image of the rows `image` (N,) once → size (N, 2) int64 px (w, h) and whether it is usable (N,).

    `polyline`: (N, P, 2) px, of the rows.
    """
    wanted, inverse = np.unique(image, return_inverse=True)
    by_image = np.argsort(image, kind="stable")
    ordered = image[by_image]

    def drawn(number: int) -> NDArray[np.float64]:
        return polyline[by_image[slice(*np.searchsorted(ordered, [number, number + 1]))]]

    size, usable = np.zeros((len(wanted), 2), np.int64), np.zeros(len(wanted), bool)
    for i, checked in enumerate(check(images, wanted.tolist(), drawn)):
        if isinstance(checked, Reason):
            left_out.append(LeftOut(images.names[wanted[i]], -1, checked))
        else:
            size[i], usable[i] = (checked.width, checked.height), True
    return size[inverse], usable[inverse]


def check_headers(images: Members, wanted: Sequence[int], _: Drawn) -> Iterable[JpegHeader | Reason]:
    """Check only the headers: fast, but damage after them goes unnoticed. A `Check`."""
    return (_check_header(images, image) for image in wanted)


def _check_header(images: Members, image: int) -> JpegHeader | Reason:
    try:
        return usable_header(images.read(image))
    except InputError:
        return Reason.DAMAGED
