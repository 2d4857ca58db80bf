"""Predicted heights on a map: GeoJSON, and a GeoPackage.

    .geojson   one line for each polyline, from base to top, in WGS 84; the properties have both ends as numbers
    .gpkg      the layers chimneys (lines), bases and tops (points), each with all attributes; in the coordinate system
               of the images if they share one, otherwise in WGS 84

RFC 7946 allows a GeoJSON no other system than WGS 84. The top of a polyline is where the chimney's top appears in the
image. On the ground this is another place than its base, because the satellite looks from the side.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.samples.georeference import WGS84, Georeference, georeference_of
from dali_pipes.samples.picture import Pictures
from dali_pipes.samples.tiff import needs_geo

Records = Sequence[dict[str, Any]]
Lines = Sequence[NDArray[np.float64]]

SUFFIXES = (".geojson", ".gpkg")
DECIMALS = 8  # of a degree: a millimetre

_POINT, _LINE = 1, 2  # OGC 06-103r4, 8.2.8


def check_places(pictures: Pictures, images: NDArray[np.int64]) -> None:
    """Raise InputError if one of the pictures `images` (N,) has no georeference."""
    for image in np.unique(images).tolist():
        georeference_of(pictures, image)


def check_library(path: Path) -> None:
    """Raise InputError if `path` is a GeoPackage and pyogrio, which writes it, is not installed."""
    if path.suffix.lower() == ".gpkg" and find_spec("pyogrio") is None:
        raise needs_geo(f"writing {path.name}")


def geojson(records: Records, lines: Lines, pictures: Pictures, images: NDArray[np.int64]) -> bytes:
    """The text of a FeatureCollection: one LineString for each of the N `records`.

    `lines`: polylines (P, 2) px, base first; `images` (N,): the picture of each. Raises InputError if a picture has no
    georeference.
    """
    places = _places(pictures, images)
    features = []
    for record, line, image in zip(records, lines, images.tolist(), strict=True):
        degrees = places[image].degrees(line).round(DECIMALS).tolist()
        ends = {"base_lon": degrees[0][0], "base_lat": degrees[0][1]}
        ends |= {"top_lon": degrees[-1][0], "top_lat": degrees[-1][1]}
        geometry = {"type": "LineString", "coordinates": degrees}
        features.append({"type": "Feature", "geometry": geometry, "properties": {**record, **ends}})
    document = {"type": "FeatureCollection", "features": features}
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def geopackage(records: Records, lines: Lines, pictures: Pictures, images: NDArray[np.int64]) -> bytes:
    """The bytes of a GeoPackage with three layers; the arguments are those of `geojson`."""
    places = _places(pictures, images)
    systems = {place.crs for place in places.values()}
    crs = systems.pop() if len(systems) == 1 else WGS84
    located = [
        places[image].degrees(line) if crs == WGS84 else places[image].coordinates(line)
        for line, image in zip(lines, images.tolist(), strict=True)
    ]
    layers = {
        "chimneys": ("LineString", [_line(line) for line in located]),
        "bases": ("Point", [_point(line[0]) for line in located]),
        "tops": ("Point", [_point(line[-1]) for line in located]),
    }
    with tempfile.TemporaryDirectory() as folder:  # GDAL writes a database by name
        path = Path(folder) / "heights.gpkg"
        for layer, (kind, geometry) in layers.items():
            _add_layer(path, layer, kind, geometry, records, crs)
        return path.read_bytes()


def _add_layer(path: Path, layer: str, kind: str, geometry: Sequence[bytes], records: Records, crs: str) -> None:
    from pyogrio.raw import write

    names = list(records[0])
    columns = [[record[name] for record in records] for name in names]
    fields = [
        np.array(column, object if isinstance(column[0], str) else np.int64 if name == "region" else np.float64)
        for name, column in zip(names, columns, strict=True)
    ]
    write(
        path,
        np.array([*geometry, None], object)[:-1],  # numpy would make bytes of equal length an array of characters
        fields,
        names,
        layer=layer,
        driver="GPKG",
        geometry_type=kind,
        crs=crs,
        append=False,
    )


def _places(pictures: Pictures, images: NDArray[np.int64]) -> dict[int, Georeference]:
    return {image: georeference_of(pictures, image) for image in np.unique(images).tolist()}


def _point(point: NDArray[np.float64]) -> bytes:
    return struct.pack("<BI2d", 1, _POINT, *point.tolist())


def _line(line: NDArray[np.float64]) -> bytes:
    return struct.pack(f"<BII{line.size}d", 1, _LINE, len(line), *line.ravel().tolist())
