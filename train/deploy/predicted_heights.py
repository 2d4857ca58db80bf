"""Predicted heights, and the files that they can be written to.

    .csv       one row for each polyline; the columns tile and polyline make it valid input for another prediction
    .json      a project of the VGG Image Annotator 2, with the prediction in the attributes of each region
    .geojson   one line on the map for each polyline
    .gpkg      the same as a GeoPackage, and base and top as points

The last two are written by `map_file.py`. They need GeoTIFFs: every GIS would take the pixels of another image for
degrees.

A project that was given is written back with all its settings, attributes and images. A file is written completely or
not at all.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.errors import InputError
from dali_pipes.files import write_text, write_whole
from dali_pipes.notebook import as_html
from dali_pipes.samples.csv_text import escaped
from dali_pipes.samples.picture import Pictures
from dali_pipes.samples.polylines import Polylines
from dali_pipes.samples.table import SampleTable
from dali_pipes.units import count, number

from ..scores.uncertainty import LEVEL
from . import map_file

Float64 = NDArray[np.float64]

COLUMNS = (
    *("height_m", "sigma_m", "low_m", "high_m"),
    *("raw_height_m", "raw_sigma_m", "raw_low_m", "raw_high_m"),
)
PREFIX = "predicted_"  # in VIA's region attributes, which may also contain a true height
LABEL = "predicted_height"  # the attribute that VIA writes next to a polyline, such as "54 ± 7 m"
SETTINGS: dict[str, Any] = {
    "ui": {
        "annotation_editor_height": 25,
        "annotation_editor_fontsize": 0.8,
        "leftsidebar_width": 18,
        "image_grid": {
            "img_height": 80,
            "rshape_fill": "none",
            "rshape_fill_opacity": 0.3,
            "rshape_stroke": "yellow",
            "rshape_stroke_width": 2,
            "show_region_shape": True,
            "show_image_policy": "all",
        },
        "image": {
            "region_label": LABEL,
            "region_color": "__via_default_region_color__",
            "region_label_font": "10px Sans",
            "on_image_annotation_editor_placement": "NEAR_REGION",
        },
    },
    "core": {"buffer_size": 18, "filepath": {}, "default_filepath": ""},
    "project": {"name": "heights"},
}
"""The settings of a new VIA project."""


@dataclass(frozen=True)
class PredictedHeights:
    """N predicted heights in metres, all columns (N,) float64, in the order of the polylines.

    `mu`, `sigma`, `low`, `high`: the calibrated height, its standard deviation and its 90 % interval, pooled by scene
    if requested. `raw_…`: the network's own prediction, with the interval of its Gaussian. `table` has each polyline's
    `tile`, `scene` and `polyline` (pixels).
    """

    polylines: Polylines
    pictures: Pictures
    table: SampleTable
    mu: Float64
    sigma: Float64
    low: Float64
    high: Float64
    raw_mu: Float64
    raw_sigma: Float64
    raw_low: Float64
    raw_high: Float64

    def __len__(self) -> int:
        return len(self.mu)

    def __repr__(self) -> str:
        tiles = count(len(np.unique(self.table.tile)), "tile")
        return f"PredictedHeights({len(self):,} on {tiles}, {number(self.mu.min(), 0)} to {number(self.mu.max(), 0)} m)"

    def _repr_html_(self) -> str:
        interval = f"{LEVEL:.0%} interval (m)"
        rows = (
            {
                "tile": self.polylines.images[image]["filename"],
                "region": region.index,
                "height (m)": number(self.mu[i], 1),
                "σ (m)": number(self.sigma[i], 1),
                interval: f"{number(self.low[i], 1)} to {number(self.high[i], 1)}",
            }
            for i, (image, region) in enumerate(self.polylines.drawn)
        )
        return as_html(repr(self), rows, len(self))

    def records(self) -> list[dict[str, Any]]:
        """One flat dict for each polyline, for `pandas.DataFrame`: tile, scene, region, polyline and `COLUMNS`."""
        return [
            {
                "tile": self.polylines.images[image]["filename"],
                "scene": str(self.table.scene[i]),
                "region": region.index,
                "polyline": ";".join(f"{x:.10g} {y:.10g}" for x, y in region.points),
                **numbers,
            }
            for i, ((image, region), numbers) in enumerate(zip(self.polylines.drawn, self._numbers(), strict=True))
        ]

    def write(self, path: str | Path) -> None:
        """Write `path` in the format of its suffix.

        Raises InputError if the suffix is not one of the four, or if a map file is wanted of images without a
        georeference.
        """
        path = Path(path)
        check_suffix(path)
        if path.suffix.lower() in map_file.SUFFIXES:
            write_whole(path, lambda file: file.write(self.on_a_map(path.suffix.lower())))
        else:
            write_text(path, self._csv() if path.suffix.lower() == ".csv" else self._via())

    def on_a_map(self, suffix: str, rows: Sequence[int] | None = None) -> bytes:
        """The contents of a map file, .geojson or .gpkg, of the polylines `rows`, by default of all.

        Raises InputError if one of their images has no georeference.
        """
        chosen = list(range(len(self)) if rows is None else rows)
        records, drawn = self.records(), self.polylines.drawn
        write = map_file.geojson if suffix == ".geojson" else map_file.geopackage
        lines = [drawn[i][1].points for i in chosen]
        return write([records[i] for i in chosen], lines, self.pictures, self.table.image[chosen])

    def _numbers(self) -> Iterator[dict[str, float | None]]:
        columns = (self.mu, self.sigma, self.low, self.high, self.raw_mu, self.raw_sigma, self.raw_low, self.raw_high)
        for row in np.stack(columns, axis=1).round(4).tolist():
            # With too few calibration scenes an interval has no upper end, and JSON has no infinity.
            yield {name: x if math.isfinite(x) else None for name, x in zip(COLUMNS, row, strict=True)}

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        rows = csv.DictWriter(text, ("tile", "scene", "region", "polyline", *COLUMNS), lineterminator="\n")
        rows.writeheader()
        rows.writerows(
            {**record, "tile": escaped(record["tile"]), "scene": escaped(record["scene"])} for record in self.records()
        )
        return text.getvalue()

    def _via(self) -> str:
        regions = [[region and dict(region) for region in image["regions"]] for image in self.polylines.images]
        for (i, region), numbers in zip(self.polylines.drawn, self._numbers(), strict=True):
            annotated = regions[i][region.index]
            predicted = {PREFIX + name: "" if value is None else f"{value:.2f}" for name, value in numbers.items()}
            label = {LABEL: _label(numbers["height_m"], numbers["sigma_m"])}
            annotated["region_attributes"] = {**annotated["region_attributes"], **label, **predicted}
        size = {i: self.table.images.size(image) for i, image in self._images().items()}
        images = [
            {**image, "size": size.get(i, image["size"]), "regions": [region for region in regions[i] if region]}
            for i, image in enumerate(self.polylines.images)
        ]
        project = _via_project(images, self.polylines.project or {}, self._folder())
        return json.dumps(project, ensure_ascii=False, allow_nan=False)

    def _folder(self) -> str:
        """The absolute folder of all images with a slash at its end, as VIA wants it, or "" if they have none."""
        files = [self.pictures.file(i) for i in set(self.table.image.tolist())]
        folders = {str(file.absolute().parent) for file in files if file}
        return f"{folders.pop()}/" if None not in files and len(folders) == 1 else ""

    def _images(self) -> dict[int, int]:
        """The number of each image with a polyline in `polylines` → its number in `table.images`."""
        return dict(zip([i for i, _ in self.polylines.drawn], self.table.image.tolist(), strict=True))


def _label(height: float | None, sigma: float | None) -> str:
    """The height as it is measured: in whole metres, if σ is one or more."""
    if height is None or sigma is None:
        return ""
    digits = 0 if sigma >= 1 else 1
    return f"{height:.{digits}f} ± {sigma:.{digits}f} m"


def check_suffix(path: Path) -> None:
    """Raise InputError unless `path` has one of the four suffixes, and the library for it is installed."""
    if path.suffix.lower() not in (".csv", ".json", *map_file.SUFFIXES):
        raise InputError(f"--out takes a file that ends in .csv, .json, .geojson or .gpkg, found {path}")
    map_file.check_library(path)


def _via_project(images: list[dict[str, Any]], given: dict[str, Any], folder: str) -> dict[str, Any]:
    """A project file of VIA 2.0.10 with `images` in `folder`; its "Load Project" requires each of these keys.

    Everything in the `given` project is kept, in its order. VIA identifies an image by its name and its size in bytes.
    """
    keys = [f"{image['filename']}{image['size']}" for image in images]
    metadata = dict(zip(keys, images, strict=True))
    renamed = dict(zip(given.get("_via_img_metadata", {}), keys, strict=False))
    order = given.get("_via_image_id_list")
    listed = [renamed[key] for key in order if key in renamed] if isinstance(order, list) else []
    regions = {name for image in images for region in image["regions"] for name in region["region_attributes"]}
    files = {name for image in images for name in image["file_attributes"]}
    project = {
        "_via_settings": {**SETTINGS, "core": {**SETTINGS["core"], "default_filepath": folder}},
        "_via_attributes": {"region": _as_text(regions), "file": _as_text(files)},
        "_via_data_format_version": "2.0.10",
    }
    completed = _completed(given, project)
    core = completed["_via_settings"].get("core") if isinstance(completed["_via_settings"], dict) else None
    if isinstance(core, dict):
        core["default_filepath"] = core["default_filepath"] or folder  # VIA saves "" if the user chose none
    return {
        **completed,
        "_via_img_metadata": metadata,
        "_via_image_id_list": list(dict.fromkeys([*listed, *keys])),
    }


def _completed(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return `given`, completed from `defaults` at any depth of objects."""
    completed = {**given, **{key: value for key, value in defaults.items() if key not in given}}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(given.get(key), dict):
            completed[key] = _completed(given[key], value)
    return completed


def _as_text(names: set[str]) -> dict[str, Any]:
    return {name: {"type": "text", "description": "", "default_value": ""} for name in sorted(names)}
