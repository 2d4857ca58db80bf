"""Parse a VIA label file into polylines, or into the reasons why they cannot be used.

A label file is JSON of the VGG Image Annotator 2: an object of images, each with `regions` and `file_attributes`. It
describes one tile, or all of them. All values are text, except `size` and the coordinates. A region that cannot be used
becomes a `Rejected` with a `Reason`; no exception is raised for it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_LABEL = 1 << 22  # bytes per tile; a label has about 900, and parsed JSON takes up to 40 times its text
LONGEST_FILENAME = 255  # characters; every row of the table is as wide as the longest name
TALLEST = 10_000  # metres; one larger height would dominate every mean
MOST_PIXELS = 1 << 26  # of an image, such as 8192 × 8192; limits the memory that a wrong header can claim
MOST_POINTS = 64  # a chimney has two; every row of the table is as wide as the longest polyline


class Reason(str, Enum):
    """Why a label, a tile or one of its regions is skipped."""

    BROKEN_LABEL = "the label is not VIA JSON"
    LARGE_LABEL = f"the label has more than {LARGEST_LABEL >> 20} MiB per tile"
    VIA_3 = "the label is a project of VIA 3, not of VIA 2"
    COCO = "the label is in COCO's format, not VIA's"
    LABELME = "the label is in labelme's format, not VIA's"
    GEOJSON = "the label is GeoJSON, not VIA's JSON"
    NO_REGIONS = "the tile has no regions"
    NOT_A_POLYLINE = "the region is not a polyline"
    TOO_FEW_POINTS = "the polyline has fewer than two points"
    TOO_MANY_POINTS = f"the polyline has more than {MOST_POINTS} points"
    ZERO_LENGTH = "the polyline has no length"
    BAD_HEIGHT = f"the height is not a positive number below {TALLEST} m"
    DAMAGED = "the archive's member is damaged, encrypted, or packed in a way that is not read here"
    MISNAMED = "the label names another tile's image"
    TWO_LABELS = "two labels name the image"
    NO_LABEL = "the image has no label"
    NO_IMAGE = "the image is missing"
    NOT_A_JPEG = "the image is not a JPEG"
    EMPTY = "the image file is empty"
    PNG = "the image is a PNG, not a JPEG"
    GIF = "the image is a GIF, not a JPEG"
    TIFF = "the image is a TIFF, not a JPEG"
    WEBP = "the image is a WebP, not a JPEG"
    HEIC = "the image is a HEIC or AVIF, not a JPEG"
    JPEG_2000 = "the image is a JPEG 2000, not a JPEG"
    BMP = "the image is a BMP, not a JPEG"
    WEB_PAGE = "the image file holds a web page, not a JPEG"
    TRUNCATED = "the JPEG is cut short"
    PARTIAL = "the progressive JPEG lacks its last scans"
    ROTATED = "the JPEG's EXIF orientation is not upright"
    COLOURS = "the JPEG has neither one nor three components"
    TWELVE_BITS = "the JPEG has 12 bits per sample, not 8"
    ARITHMETIC = "the JPEG uses arithmetic coding"
    RARE_CODING = "the JPEG is lossless or hierarchical"
    TOO_LARGE = f"the JPEG has more than {MOST_PIXELS:,} pixels"
    UNDECODABLE = "the JPEG's data are corrupt"
    OUTSIDE = "the polyline leaves the image"
    SHARED = "the tile is also in validation"
    REPEATED = "the picture is also there under another name"
    OTHER_SIZE = "the image is not of the size that its label states"


@dataclass(frozen=True)
class Region:
    """One polyline: `points` (P, 2) float64 px, base first; `height` in metres or NaN; `index` in the tile's list."""

    index: int
    points: NDArray[np.float64]
    height: float


@dataclass(frozen=True)
class Rejected:
    """A region that cannot be used, or a whole tile if `index` is -1."""

    index: int
    reason: Reason


@dataclass(frozen=True)
class TileLabel:
    """The label of one image; missing numbers are NaN.

    `width` and `height` are in pixels, `gsd` in metres per pixel, `roll` and `pitch` in degrees.
    """

    filename: str
    width: float
    height: float
    gsd: float
    roll: float
    pitch: float
    regions: tuple[Region, ...]
    rejected: tuple[Rejected, ...]


class UnusableLabel(ValueError):
    """A label file that is too large or of another program, as `reason` says."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


_FORMATS = (
    (Reason.VIA_3, {"project", "view", "metadata"}),
    (Reason.COCO, {"images", "annotations"}),
    (Reason.LABELME, {"shapes", "imagePath"}),
    (Reason.GEOJSON, {"type", "features"}),
    (Reason.GEOJSON, {"type", "geometry"}),
)
"""Formats other than VIA 2, and keys that only they have at the top."""


def parse(data: bytes, largest: int = LARGEST_LABEL) -> list[TileLabel]:
    """Parse the UTF-8 bytes of one label file (a BOM is allowed) into its images.

    The file may be an annotation export or a project. If there are several images, those that cannot be read or occur
    twice are rejected as a whole. Raises UnusableLabel if the file has more than `largest` bytes or is of another
    program, and ValueError if it is not a JSON object of VIA images, or if a key occurs twice.
    """
    if len(data) > largest:
        raise UnusableLabel(Reason.LARGE_LABEL)
    try:  # integers as floats: Python may take minutes to parse a very long integer
        document = json.loads(data.decode("utf-8-sig"), parse_int=float, object_pairs_hook=without_repeats)
    except RecursionError:
        raise ValueError("expected some levels of JSON, found them nested without end") from None
    images = images_of(document)
    if len(images) == 1:
        return [read_tile(images[0])]
    tiles: dict[str, TileLabel] = {}
    for i, image in enumerate(images):
        try:
            tile = read_tile(image)
        except ValueError:
            tile = _rejected(f"entry {i} of the label", Reason.BROKEN_LABEL)
        tiles[tile.filename] = _rejected(tile.filename, Reason.TWO_LABELS) if tile.filename in tiles else tile
    return list(tiles.values())


def images_of(document: Any) -> list[Any]:
    """Return VIA's objects of images in a parsed annotation export or project.

    Raises UnusableLabel or ValueError if it is neither.
    """
    if not isinstance(document, dict):
        raise ValueError("expected a JSON object of images")
    for reason, keys in _FORMATS:
        if keys <= document.keys():
            raise UnusableLabel(reason)
    images = document.get("_via_img_metadata", document)
    if not isinstance(images, dict):
        raise ValueError("expected a JSON object of images in _via_img_metadata")
    return list(images.values())


def _rejected(filename: str, reason: Reason) -> TileLabel:
    unknown = math.nan
    return TileLabel(filename, unknown, unknown, unknown, unknown, unknown, (), (Rejected(-1, reason),))


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the keys and values of a JSON object. Raises ValueError if a key occurs twice, which is ambiguous."""
    distinct = dict(pairs)
    if len(distinct) != len(pairs):
        raise ValueError("expected each key and each image once")
    return distinct


def read_tile(image: Any, *, heights: bool = True) -> TileLabel:
    """Parse VIA's object of one image. Without `heights`, a region needs no height, and gets NaN.

    Raises ValueError if it is not one.
    """
    if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
        raise ValueError("expected images with a filename")
    filename = image["filename"].replace("\\", "/").rsplit("/", 1)[-1]
    if len(filename) > LONGEST_FILENAME or not filename.isprintable():  # a lone surrogate cannot be printed
        raise ValueError(f"expected a filename of at most {LONGEST_FILENAME} printable characters")
    attributes = image.get("file_attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    regions = image.get("regions")
    regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 writes an object
    read = [_region(i, region, heights) for i, region in enumerate(regions if isinstance(regions, list) else [])]
    return TileLabel(
        filename=filename,
        width=_number(attributes.get("img_width")),
        height=_number(attributes.get("img_height")),
        gsd=_number(attributes.get("img_resolution")),
        roll=_number(attributes.get("img_roll_tilt")),
        pitch=_number(attributes.get("img_pitch_tilt")),
        regions=tuple(region for region in read if isinstance(region, Region)),
        rejected=tuple(region for region in read if isinstance(region, Rejected))
        or (() if read else (Rejected(-1, Reason.NO_REGIONS),)),
    )


def _region(index: int, region: Any, heights: bool) -> Region | Rejected:
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict) or shape.get("name") != "polyline":
        return Rejected(index, Reason.NOT_A_POLYLINE)
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        return Rejected(index, Reason.NOT_A_POLYLINE)
    if len(xs) < 2:
        return Rejected(index, Reason.TOO_FEW_POINTS)
    if len(xs) > MOST_POINTS:
        return Rejected(index, Reason.TOO_MANY_POINTS)
    points = np.array([[_number(x), _number(y)] for x, y in zip(xs, ys, strict=True)])
    if not np.isfinite(points).all():
        return Rejected(index, Reason.NOT_A_POLYLINE)
    if not np.any(points[1:] != points[:-1]):
        return Rejected(index, Reason.ZERO_LENGTH)
    if not heights:
        return Region(index, points, math.nan)
    attributes = region.get("region_attributes")
    height = _number(attributes.get("chi_height_m") if isinstance(attributes, dict) else None)
    if not 0 < height < TALLEST:
        return Rejected(index, Reason.BAD_HEIGHT)
    return Region(index, points, height)


def _number(value: Any) -> float:
    """Convert a number or its text to float; anything else becomes NaN, so that callers have one case to test."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return math.nan
    if isinstance(value, str) and "_" in value:  # Python reads 1_5 as 15
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
