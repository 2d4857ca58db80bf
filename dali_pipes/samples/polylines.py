"""Polylines without heights, as people draw them: the input of a prediction.

    polylines = read_polylines(Path("VIA.json"))
    table = table_of(polylines, open_pictures([Path("DIR")]))

All forms are converted to VIA's own objects of images, so that they can be written back without loss:

    VIA JSON    an annotation export, or a project with its `_via_img_metadata`; of one tile or of all
    archives    VIA JSON in a ZIP, parts of a ZIP, a tar or a folder, such as the labels of a release
    VIA CSV     filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
    plain CSV   a header with the columns tile and polyline; a polyline is "x y;x y;…" in pixels, base first
    a mapping   {"tile.jpg": [[(x, y), (x, y)], …]}

A CSV may be as a spreadsheet saves it: with a BOM, in UTF-16, with CRLF, semicolons or tabs, empty rows, and other file
sizes.

Users expect a height for every polyline. What training would skip is therefore an error here that names tile and
region, and so is input that cannot be written back unchanged. Regions of other shapes, such as rectangles, are kept as
they are and are not predicted.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console

from ..console import say
from ..errors import InputError
from ..files import read_bounded
from ..release.find import open_files
from ..release.names import SUFFIXES, NumberOf
from ..release.parts import PART
from ..units import count
from .csv_text import unescaped
from .picture import Pictures
from .table import SampleTable
from .via import Reason, Region, Rejected, UnusableLabel, images_of, read_tile, without_repeats

VIA_COLUMNS = (
    *("filename", "file_size", "file_attributes", "region_count", "region_id"),
    *("region_shape_attributes", "region_attributes"),
)
PLAIN_COLUMNS = ("tile", "polyline")
LARGEST = 64 << 20  # bytes of a file, or of all labels of an archive

csv.field_size_limit(1 << 24)  # the default is 128 KiB, and a polyline in VIA's JSON may be longer


@dataclass(frozen=True)
class Polylines:
    """Polylines by tile.

    `images`: VIA's object of each image (`filename`, `size` in bytes or -1, `regions` as a list that may contain null,
    `file_attributes`), in file order; `drawn`: all their polylines, each with the number of its image; `where`: their
    source, for error messages; `project`: the VIA project that they come from, if they come from one alone.
    """

    images: list[dict[str, Any]]
    drawn: list[tuple[int, Region]]
    where: str
    project: dict[str, Any] | None = None

    @classmethod
    def of(cls, images: Iterable[Any], where: str, project: dict[str, Any] | None = None) -> Polylines:
        """Check VIA's objects. Raises InputError if one is invalid, or if a polyline cannot be predicted."""
        kept: list[dict[str, Any]] = []
        drawn: list[tuple[int, Region]] = []
        for i, image in enumerate(images):
            try:
                tile = read_tile(image, heights=False)
                kept.append({**_normalised(image), "filename": tile.filename})
            except ValueError as error:
                raise InputError(f"{where} is not VIA's: {error}; export the annotations from VIA again") from None
            for rejected in tile.rejected:
                if reason := _obstacle(rejected, kept[-1]["regions"]):
                    raise InputError(
                        f"{where}: region {rejected.index} of {tile.filename} cannot be predicted, because {reason};"
                        " correct or remove it"
                    )
            drawn += [(i, region) for region in tile.regions]
        names = Counter(image["filename"] for image in kept)
        if twice := [name for name, count in names.items() if count > 1]:
            raise InputError(f"{where} has the image {twice[0]} twice; merge its regions into one")
        if not drawn:
            raise InputError(f"expected polylines in {where}, found none; draw them from base to top")
        return cls(kept, drawn, where, project)


def _obstacle(rejected: Rejected, regions: Sequence[Any]) -> str:
    """Return why a region that was rejected is an error, or "" if nobody expects a height for it."""
    if rejected.reason is Reason.NO_REGIONS:
        return ""
    if rejected.reason is Reason.NOT_A_POLYLINE:
        region = regions[rejected.index]
        is_polyline = region is not None and region["shape_attributes"].get("name") == "polyline"
        return "its points are not pairs of finite numbers" if is_polyline else ""  # such as null or a rectangle
    return rejected.reason.value


def read_polylines(source: Path | Sequence[Path] | Mapping[str, Sequence[ArrayLike]]) -> Polylines:
    """Read any of the forms above, or several files of them; polylines in a mapping are (P, 2) px.

    Raises InputError if it is none of them.
    """
    if isinstance(source, Mapping):
        return Polylines.of([_image(tile, lines) for tile, lines in source.items()], "the polylines")
    paths = [source] if isinstance(source, Path) else list(source)
    where = ", ".join(str(path) for path in paths[:3]) + (", …" if len(paths) > 3 else "")
    images, project = [], None
    archives: list[Path] = []
    for path in paths:
        if path.is_dir() or path.suffix.lower() in (".zip", ".tar") or PART.fullmatch(path.name):
            archives.append(path)
        elif path.suffix.lower() == ".csv":
            images += _from_csv(_text(_bytes(path), str(path)), path)
        else:
            document = _document(_bytes(path), str(path))
            images += images_of(document)
            project = document if len(paths) == 1 and "_via_img_metadata" in document else None
    if archives:
        labels = open_files(archives, "labels", "--polylines")
        numbers = {name: i for i, name in enumerate(labels.names) if name.lower().endswith(SUFFIXES["labels"])}
        if sum(labels.size(i) for i in numbers.values()) > LARGEST:
            raise InputError(
                f"{labels.where} has labels of more than {LARGEST >> 20} MiB; give --polylines a part of them at a time"
            )
        for name, i in numbers.items():
            images += images_of(_document(labels.read(i).tobytes(), f"{labels.where}: {name}"))
    return Polylines.of(images, where, project)


def _bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, LARGEST)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give --polylines a VIA JSON or a CSV") from None


def _text(data: bytes, where: str) -> str:
    """Decode UTF-8, or UTF-16 with a BOM, as Excel saves "Unicode Text". Raises InputError for other bytes."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with suppress(UnicodeDecodeError):
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
        if "\0" not in text:  # UTF-16 without a BOM, or no text
            return text
    found = "a ZIP or a workbook such as .xlsx" if data.startswith(b"PK\3\4") else "other bytes"
    raise InputError(f"expected UTF-8 text in {where}, found {found}; save it as UTF-8")


def _document(data: bytes, where: str) -> Any:
    """Parse VIA's JSON. Raises InputError if it is another kind of file."""
    text = _text(data, where)
    try:
        document = _from_json(text)
        images_of(document)
    except UnusableLabel as error:
        raise InputError(
            f"expected labels of VIA 2 in {where}, but {error}; write its polylines to a CSV with the columns tile and"
            " polyline, or draw them in VIA 2"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected VIA's JSON in {where}, or a name in .csv: {error}; export it again") from None
    return document


def table_of(
    polylines: Polylines, images: Pictures, *, console: Console | None = None, windowed: bool = False
) -> SampleTable:
    """Return a table with one row per polyline, in the order of `polylines.drawn`; `height` is NaN.

    `windowed`: only windows of an image will be shown, so that it may be larger. Raises InputError if an image is
    missing, damaged or too large, or if a polyline is not inside its image.
    """
    console = console or Console(quiet=True)
    names = [polylines.images[i]["filename"] for i, _ in polylines.drawn]
    numbers = _numbers_of(names, images, console)
    missing = sorted(name for name, number in numbers.items() if number is None)
    if missing:
        raise InputError(
            f"{polylines.where} has polylines of {missing[0]}"
            + (f" and {len(missing) - 1} other images" if len(missing) > 1 else "")
            + f", found no such image among {len(images.names)}; name the folder or archive that holds it with --images"
        )
    image = np.array([numbers[name] for name in names], np.int64)
    wanted, inverse = np.unique(image, return_inverse=True)
    size = np.array(images.sizes(wanted.tolist(), windowed=windowed, console=console), np.int64)
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


def _numbers_of(names: Iterable[str], images: Pictures, console: Console) -> dict[str, int | None]:
    """Return name → number of the image. A PNG that stands for a TIFF of the same name, say, is bridged and shown."""
    number_of = NumberOf(images.names)
    numbers = {name: number_of(name) for name in names}
    alike = {name: number_of.of_tile(name) for name, number in numbers.items() if number is None}
    bridged = {name: number for name, number in alike.items() if number is not None}
    for name, number in list(bridged.items())[:1]:
        more = f", and {count(len(bridged) - 1, 'other image')} likewise" if len(bridged) > 1 else ""
        say(console, f"{images.names[number]} is taken for {name}{more}: it must have the same pixels")
    return numbers | bridged


def _normalised(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return VIA's object of an image with `regions` as a list of objects or null, and `size` in bytes, -1 if unknown.

    Raises ValueError if a part has another type, because it could not be written back.
    """
    regions = image.get("regions") or []
    regions = list(regions.values()) if isinstance(regions, dict) else regions  # VIA 1 writes an object
    if not isinstance(regions, list):
        raise ValueError(f"expected its regions as a list, found {str(regions)[:80]!r}")
    size = _size(image.get("size"))
    parts = ("shape_attributes", "region_attributes")
    regions = [
        None if region is None else _object(region, f"region {i} of {image['filename']}", parts)
        for i, region in enumerate(regions)
    ]
    return {**_object(image, str(image["filename"]), ("file_attributes",)), "size": size, "regions": regions}


def _object(value: Any, name: str, parts: Sequence[str]) -> dict[str, Any]:
    """Copy a JSON object; its `parts` must be objects too, and become empty ones if they are null or absent."""
    if not isinstance(value, dict):
        raise ValueError(f"expected {name} as a JSON object, found {str(value)[:80]!r}")
    inner_objects = {part: value.get(part) or {} for part in parts}
    for part, inner in inner_objects.items():
        if not isinstance(inner, dict):
            raise ValueError(f"expected {part} of {name} as a JSON object, found {str(inner)[:80]!r}")
    return {**value, **inner_objects}


def _image(tile: str, lines: Sequence[ArrayLike]) -> dict[str, Any]:
    return {"filename": tile, "size": -1, "regions": [_region(tile, line) for line in lines], "file_attributes": {}}


def _region(tile: str, line: ArrayLike) -> dict[str, Any]:
    try:
        points = np.empty(0) if "_" in str(line) else np.asarray(line, np.float64)  # numpy reads "1_0" as 10
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


def _size(value: Any) -> int:
    """Return a file's size in bytes, or -1 if it is unknown: nothing depends on it, and spreadsheets change it."""
    try:
        return int(float(value)) or -1
    except (TypeError, ValueError, OverflowError):
        return -1


def _from_csv(text: str, source: Path) -> list[dict[str, Any]]:
    """Read VIA's objects of images from a CSV, in the order in which it first names them."""
    rows, columns = _csv_rows(text, source)
    is_via = set(VIA_COLUMNS) <= set(columns)
    images: dict[str, dict[str, Any]] = {}
    try:
        for row in rows:
            cells = dict(zip(columns, row, strict=False))
            if not any(cell.strip() for cell in row):  # a row of commas
                continue
            if len(row) < len(columns) or any(row[len(columns) :]):
                raise ValueError(f"expected {len(columns)} fields, as the first line names them, found {len(row)}")
            tile = unescaped(cells["filename" if is_via else "tile"].strip())
            if not tile:
                raise ValueError("expected the name of an image, found none")
            image = images.setdefault(tile, _image(tile, []))
            if is_via:
                _add_via_row(image, cells)
            else:
                image["regions"].append(_region(tile, [point.split() for point in cells["polyline"].split(";")]))
    except (csv.Error, ValueError, RecursionError) as error:
        raise InputError(f"{source} is damaged at line {rows.line_num}: {error}; correct that line") from None
    return list(images.values())


def _csv_rows(text: str, source: Path) -> tuple[Any, list[str]]:
    """Return a reader of the rows below the names of the columns, and these names.

    Fields are separated by commas, or by semicolons or tabs, as spreadsheets in other languages write them. Raises
    InputError if no separator gives the columns of a form, or if one of them is there twice.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text[:4].lower() == "sep=":  # Excel's own first line
        text = text.partition("\n")[2]
    readers = [csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) for delimiter in ",;\t"]
    names: list[list[str]] = []
    for rows in readers:
        try:
            columns = [name.lstrip("#").strip() for name in next(rows, [])]
        except csv.Error as error:
            raise InputError(f"{source} is damaged in its first line: {error}; close its quotes") from None
        for form in (VIA_COLUMNS, PLAIN_COLUMNS):
            if twice := [name for name in form if columns.count(name) > 1]:
                raise InputError(f"expected one column {twice[0]} in {source}, found {columns.count(twice[0])}")
            if set(form) <= set(columns):
                return rows, columns
        names.append(columns)
    most = max(names, key=len)
    raise InputError(
        f"expected VIA's CSV or one with the columns tile and polyline in {source}, found the columns"
        f" {', '.join(most)[:200] or 'none'}"
    )


def _add_via_row(image: dict[str, Any], row: Mapping[str, str]) -> None:
    image["size"] = _size(row["file_size"])
    image["file_attributes"] = _from_json(row["file_attributes"] or "{}")
    shape = _from_json(row["region_shape_attributes"] or "{}")
    if shape:  # VIA writes a row without a shape for an image without regions
        attributes = _from_json(row["region_attributes"] or "{}")
        image["regions"].append({"shape_attributes": shape, "region_attributes": attributes})


def _from_json(text: str) -> Any:
    """Parse standard JSON. Raises ValueError for values that Python would accept against the standard, or change.

    These are NaN and Infinity, which other programs cannot read; numbers too large for a float, which become infinite;
    and two values under one key, of which Python drops the first.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=without_repeats)


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"expected finite numbers, found {number}")
    return float(number)
