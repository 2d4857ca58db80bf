"""Polylines without heights, as people draw them: the input of a prediction.

    polylines = read_polylines(Path("VIA.json"))
    table = table_of(polylines, open_images([Path("DIR")]))

All forms are converted to VIA's own objects of images, so that they can be written back without loss:

    VIA JSON    an annotation export, or a project with its `_via_img_metadata`
    VIA CSV     filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
    plain CSV   a header with the columns tile and polyline; a polyline is "x y;x y;…" in pixels, base first
    a mapping   {"tile.jpg": [[(x, y), (x, y)], …]}

Users expect a height for every polyline. So what training would skip is an error here that names tile and region, and
so is what could not be written back as it was read. Regions of other shapes, such as rectangles, are kept as they are
and are not predicted.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console

from ..errors import InputError
from ..release.members import Members
from ..release.names import NumberOf
from .index import check_by_decoding
from .jpeg import JpegHeader
from .table import SampleTable
from .via import Reason, Region, read_tile, without_repeats

VIA_COLUMNS = (
    *("filename", "file_size", "file_attributes", "region_count", "region_id"),
    *("region_shape_attributes", "region_attributes"),
)
PLAIN_COLUMNS = ("tile", "polyline")

csv.field_size_limit(1 << 24)  # the default is 128 KiB, and a polyline in VIA's JSON may be longer


@dataclass(frozen=True)
class Polylines:
    """Polylines by tile.

    `images`: VIA's object of each image (`filename`, `size` in bytes or -1, `regions` as a list, `file_attributes`),
    in file order; `drawn`: all their polylines, each with the number of its image; `where`: their source, as error
    sentences name it.
    """

    images: list[dict[str, Any]]
    drawn: list[tuple[int, Region]]
    where: str

    @classmethod
    def of(cls, images: Sequence[Any], where: str) -> Polylines:
        """Check VIA's objects. Raises InputError if one is invalid, or if a polyline cannot be predicted."""
        kept, drawn = [], []
        for i, image in enumerate(images):
            try:
                tile = read_tile(image, heights=False)
                kept.append({**_normalised(image), "filename": tile.filename})
            except ValueError as error:
                raise InputError(f"{where} is not VIA's: {error}; export the annotations from VIA again") from None
            for rejected in tile.rejected:
                reason = rejected.reason.value
                if rejected.reason is Reason.NO_REGIONS:
                    continue
                if rejected.reason is Reason.NOT_A_POLYLINE:
                    if kept[-1]["regions"][rejected.index]["shape_attributes"].get("name") != "polyline":
                        continue  # such as a rectangle
                    reason = "its points are not pairs of finite numbers"
                raise InputError(
                    f"{where}: region {rejected.index} of {tile.filename} cannot be predicted, because {reason};"
                    " correct or remove it"
                )
            drawn += [(i, region) for region in tile.regions]
        names = [image["filename"] for image in kept]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{where} has the image {twice} twice; merge its regions into one")
        if not drawn:
            raise InputError(f"expected polylines in {where}, found none; draw them from base to top")
        return cls(kept, drawn, where)


def read_polylines(source: Path | Mapping[str, Sequence[ArrayLike]]) -> Polylines:
    """Read any of the forms above; polylines in a mapping are (P, 2) px. Raises InputError if it is none of them."""
    if isinstance(source, Mapping):
        return Polylines.of([_image(tile, lines) for tile, lines in source.items()], "the polylines")
    try:
        text = source.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}; give --polylines a VIA JSON or a CSV") from None
    except UnicodeDecodeError:
        raise InputError(f"expected UTF-8 text in {source}, found other bytes; save it as UTF-8") from None
    if source.suffix.lower() == ".csv":
        return Polylines.of(_from_csv(text, source), str(source))
    try:
        document = _from_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected VIA's JSON in {source}, or a name in .csv: {error}; export it again") from None
    document = document.get("_via_img_metadata", document) if isinstance(document, dict) else None
    if not isinstance(document, dict):
        raise InputError(f"expected VIA's JSON object of images in {source}, found another kind of JSON")
    return Polylines.of(list(document.values()), str(source))


def table_of(polylines: Polylines, images: Members, *, console: Console | None = None) -> SampleTable:
    """Return a table with one row per polyline, in the order of `polylines.drawn`; `height` is NaN.

    Each image is decoded once, so that a damaged one is named. Raises InputError if an image is missing or damaged, or
    if a polyline is not inside its image.
    """
    number_of = NumberOf(images.names)
    names = [polylines.images[i]["filename"] for i, _ in polylines.drawn]
    missing = sorted({name for name in names if number_of(name) is None})
    if missing:
        raise InputError(
            f"{polylines.where} has polylines of {missing[0]}"
            + (f" and {len(missing) - 1} other images" if len(missing) > 1 else "")
            + f", found no such image among {len(images.names)}; name the folder or archive that holds it with --images"
        )
    image = np.array([number_of(name) for name in names], np.int64)
    wanted, inverse = np.unique(image, return_inverse=True)
    quiet = console or Console(quiet=True)
    threads = len(os.sched_getaffinity(0))
    size = np.empty((len(wanted), 2), np.int64)
    checked = check_by_decoding(images, wanted.tolist(), title="checking tiles", console=quiet, threads=threads)
    for i, jpeg in enumerate(checked):
        if not isinstance(jpeg, JpegHeader):
            if jpeg is Reason.DAMAGED:
                images.read(int(wanted[i]))  # raises with a more exact reason, such as two files of one name
            raise InputError(f"{images.names[wanted[i]]} cannot be predicted: {jpeg.value}; replace the file")
        size[i] = jpeg.width, jpeg.height
    points = max(len(region.points) for _, region in polylines.drawn)
    polyline = np.stack(
        [np.pad(region.points, ((0, points - len(region.points)), (0, 0)), "edge") for _, region in polylines.drawn]
    )
    outside = ((polyline < 0) | (polyline > size[inverse][:, None])).any(axis=(1, 2))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        width, height = size[inverse][row].tolist()
        raise InputError(
            f"{polylines.where}: region {polylines.drawn[row][1].index} of {names[row]} leaves its image of"
            f" {width} × {height} px; was it drawn on a picture of another size?"
        )
    return SampleTable.without_heights(image, polyline, size[inverse], images)


def _normalised(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return VIA's object of an image with `regions` as a list of objects, and `size` in bytes, -1 if unknown.

    Raises ValueError if a part has another type, because it could not be written back.
    """
    regions = image.get("regions") or []
    regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 writes an object
    if not isinstance(regions, list):
        raise ValueError(f"expected its regions as a list, found {str(regions)[:80]!r}")
    try:
        size = int(image.get("size") or -1)
    except (TypeError, ValueError):
        size = -1
    regions = [_object(region, "a region", ("shape_attributes", "region_attributes")) for region in regions]
    return {**_object(image, "an image", ("file_attributes",)), "size": size, "regions": regions}


def _object(value: Any, name: str, parts: Sequence[str]) -> dict[str, Any]:
    """Copy a JSON object; its `parts` must be objects too, and become empty ones if they are null or absent."""
    if not isinstance(value, dict):
        raise ValueError(f"expected {name} that is a JSON object, found {str(value)[:80]!r}")
    inner_objects = {part: value.get(part) or {} for part in parts}
    for part, inner in inner_objects.items():
        if not isinstance(inner, dict):
            raise ValueError(f"expected {part} that are a JSON object, found {str(inner)[:80]!r}")
    return {**value, **inner_objects}


def _image(tile: str, lines: Sequence[ArrayLike]) -> dict[str, Any]:
    return {"filename": tile, "size": -1, "regions": [_region(tile, line) for line in lines], "file_attributes": {}}


def _region(tile: str, line: ArrayLike) -> dict[str, Any]:
    try:
        points = np.asarray(line, np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"expected a polyline of (x, y) points for {tile}, found {str(line)[:80]!r}")
    return {
        "shape_attributes": {
            "name": "polyline",
            "all_points_x": points[:, 0].tolist(),
            "all_points_y": points[:, 1].tolist(),
        },
        "region_attributes": {},
    }


def _from_csv(text: str, source: Path) -> list[dict[str, Any]]:
    """Read VIA's objects of images from a CSV, in the order in which it first names them."""
    rows = csv.DictReader(io.StringIO(text), strict=True)
    columns = [name.lstrip("#").strip() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    is_via = set(VIA_COLUMNS) <= set(columns)
    if not is_via and not set(PLAIN_COLUMNS) <= set(columns):
        raise InputError(
            f"expected VIA's CSV or one with the columns tile and polyline in {source}, found the columns"
            f" {', '.join(columns)[:200] or 'none'}"
        )
    images: dict[str, dict[str, Any]] = {}
    try:
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"expected {len(columns)} fields, as the first line names them, found another number")
            tile = row["filename" if is_via else "tile"]
            if not tile:
                raise ValueError("expected the name of an image, found none")
            image = images.setdefault(tile, _image(tile, []))
            if is_via:
                _add_via_row(image, row)
            else:
                image["regions"].append(_region(tile, [point.split() for point in row["polyline"].split(";")]))
    except InputError:
        raise
    except (csv.Error, ValueError, RecursionError) as error:
        raise InputError(f"{source} is damaged at line {rows.line_num}: {error}") from None
    return list(images.values())


def _add_via_row(image: dict[str, Any], row: Mapping[str, str]) -> None:
    image["size"] = int(row["file_size"])
    image["file_attributes"] = _from_json(row["file_attributes"])
    shape = _from_json(row["region_shape_attributes"])
    if shape:  # VIA writes a row without a shape for an image without regions
        attributes = _from_json(row["region_attributes"])
        image["regions"].append({"shape_attributes": shape, "region_attributes": attributes})


def _from_json(text: str) -> Any:
    """Parse standard JSON. Raises ValueError for what Python's parser accepts beyond the standard, or changes.

    These are NaN and Infinity, which other programs cannot read; numbers too large for a float, which become infinite;
    and two values under one key, of which Python drops the first.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=without_repeats)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"expected finite numbers, found {number}")
    return float(number)
