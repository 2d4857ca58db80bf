"""The first directory of a TIFF, and its pixels and place on Earth through rasterio.

Only `tags` works without rasterio, which is the extra `geo`. The directory of EXIF data has the same form. BigTIFF has
wider numbers (TIFF 6.0, section 2; libtiff's BigTIFF design).
"""

from __future__ import annotations

import errno
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..release.byte_range import Segment

WIDTH, HEIGHT, BITS, COMPRESSION, KIND, ORIENTATION, SAMPLES = 256, 257, 258, 259, 262, 274, 277  # numbers of tags
SAMPLE_FORMAT = 339
PLACED = frozenset({33550, 34264})  # tags that place a GeoTIFF: scale, transformation

MOST_TAGS = 4096
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8


def is_available() -> bool:
    """Return whether rasterio is installed."""
    return find_spec("rasterio") is not None


def tags(read: Callable[[int, int], bytes]) -> dict[int, int]:
    """Return the tags of the first directory by number, each with its first value, or 0 if that is no whole number.

    `read(start, stop)` gives these bytes of the file, or fewer at its end. What is damaged is left out, so that the
    result may be empty.
    """

    def number(form: str, start: int) -> int:
        data = read(start, start + struct.calcsize(order + form))
        return int.from_bytes(data, "little" if order == "<" else "big")

    order = {b"II": "<", b"MM": ">"}.get(read(0, 2), "")
    version = number("H", 2) if order else 0
    if version not in (42, 43):
        return {}
    offset, counter, inline = ("Q", "Q", 8) if version == 43 else ("I", "H", 4)
    start = number(offset, inline)
    first, size = start + struct.calcsize(order + counter), 4 + 2 * inline
    found: dict[int, int] = {}
    for entry in range(first, first + size * min(number(counter, start), MOST_TAGS), size):
        # An entry is a tag, the type and the number of its values, and the values or, if they are long, their place.
        kind = _TYPES.get(number("H", entry + 2), "")
        length = struct.calcsize(order + kind) * number(offset, entry + 4)
        value = entry + 4 + inline
        place = value if length <= inline else number(offset, value)
        found[number("H", entry)] = number(kind, place) if kind else 0
    return found


def exif_orientation(directory: bytes) -> int:
    """Return the orientation that EXIF data state (EXIF 2.3, 4.6.4), or 1 for upright if they state none."""
    return tags(lambda start, stop: directory[start:stop]).get(ORIENTATION, 1)


def is_plain(tags: dict[int, int]) -> bool:
    """Return whether OpenCV reads a TIFF with these tags as rasterio does.

    These are 8 or 16 bits of grey or RGB, and palettes, without compression: OpenCV does not report damaged LZW.
    """
    kind, bits = (tags.get(KIND, 0), tags.get(SAMPLES, 1)), tags.get(BITS, 1)
    is_plain = (kind in ((1, 1), (2, 3)) and bits in (8, 16)) or (*kind, bits) == (3, 1, 8)
    return is_plain and tags.get(SAMPLE_FORMAT, 1) == tags.get(COMPRESSION, 1) == 1


@contextmanager
def opened(source: Segment | bytes) -> Iterator[Any]:
    """Open a TIFF as rasterio's dataset, in place if it is on disk. Raises OSError if it is damaged."""
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if isinstance(source, bytes):
                with rasterio.MemoryFile(source) as memory, memory.open(driver="GTiff") as dataset:
                    yield dataset
                return
            path: Any = source.file
            if source.offset or source.length != path.stat().st_size:  # a member of a tar
                path = f"/vsisubfile/{source.offset}_{source.length},{path}"
            with rasterio.open(path, driver="GTiff") as dataset:
                yield dataset
    except (RasterioError, CPLE_BaseError) as error:
        reason = error.__cause__ or error  # rasterio wraps the words of GDAL
        raise OSError(errno.EIO, " ".join(str(reason).split())[:200]) from None


def read_window(dataset: Any, box: tuple[int, int, int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the colours of a part of a dataset (h, w, 3) in its own type, and which pixels have data (h, w).

    `box`: top, left, height and width in pixels. Raises OSError if the part is damaged, and ValueError if the bands
    have no known colours.
    """
    from rasterio.enums import ColorInterp
    from rasterio.windows import Window

    top, left, height, width = box
    window = Window(left, top, width, height)
    bands = colour_bands(dataset)
    valid = dataset.dataset_mask(window=window) > 0
    if dataset.colorinterp[0] is ColorInterp.palette:
        palette = dataset.colormap(1)
        colours = np.zeros((max(palette) + 1, 4), np.uint8)
        colours[list(palette)] = list(palette.values())
        chosen = colours[np.minimum(dataset.read(1, window=window), len(colours) - 1)]
        return chosen[..., :3], valid & (chosen[..., 3] > 0)
    values = dataset.read(list(bands), window=window)
    return np.moveaxis(values, 0, -1), valid


def colour_bands(dataset: Any) -> tuple[int, int, int]:
    """Return the numbers of the red, green and blue band. Raises ValueError if the file does not state them.

    A single band is grey. Three bands without names are red, green and blue in this order.
    """
    from rasterio.enums import ColorInterp

    kinds = list(dataset.colorinterp)
    if dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        raise ValueError("its value 0 is white, not black")
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(kinds.count(colour) == 1 for colour in colours):
        red, green, blue = (kinds.index(colour) + 1 for colour in colours)
        return red, green, blue
    unnamed = (ColorInterp.gray, ColorInterp.undefined)
    others = [kind for kind in kinds if kind is not ColorInterp.alpha]
    if len(others) == 1 and others[0] in (*unnamed, ColorInterp.palette):
        return 1, 1, 1
    if len(others) == 3 and all(kind in unnamed for kind in others):
        return 1, 2, 3
    named = ", ".join(kind.name for kind in kinds)
    raise ValueError(f"its {len(kinds)} bands are {named[:80]}, not grey or red, green and blue")


def value_bits(dataset: Any, band: int) -> int:
    """Return the bits that the values of a band use, 0 if they are not whole numbers from 0 of up to 16 bits.

    The file may state fewer than its type has, such as 11 of 16. The colours of a palette have 8 bits.
    """
    from rasterio.enums import ColorInterp

    if dataset.colorinterp[band - 1] is ColorInterp.palette:
        return 8
    name = dataset.dtypes[band - 1]
    if name not in ("uint8", "uint16"):
        return 0
    stated = dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "")
    return int(stated) if stated.isdigit() else int(name.removeprefix("uint"))


def needs_geo(what: str) -> InputError:
    """Return the error of what needs rasterio or pyogrio."""
    return InputError(f"{what} needs the extra geo, which is not installed; pip install -e .[geo]")
