"""Predicted heights, and the files that they can be written to.

    .csv       one row for each polyline; the columns tile and polyline make it valid input for another prediction
    .json      a project of the VGG Image Annotator 2, with the prediction in the attributes of each region
    .geojson   one LineString for each polyline, in PIXELS of the tile, y downwards: tiles have no georeference

A file is written whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipes.errors import InputError
from dali_pipes.files import write_text
from dali_pipes.samples.polylines import Polylines
from dali_pipes.samples.table import SampleTable

Float64 = NDArray[np.float64]

COLUMNS = (
    *("height_m", "sigma_m", "low_m", "high_m"),
    *("raw_height_m", "raw_sigma_m", "raw_low_m", "raw_high_m"),
)
PREFIX = "predicted_"  # in VIA's region attributes, which may also hold a true height
PIXELS = "pixels of the tile, x to the right, y downwards; the tiles have no georeference"


@dataclass(frozen=True)
class PredictedHeights:
    """N predicted heights in metres, all columns (N,) float64, in the order of the polylines.

    `mu`, `sigma`, `low`, `high`: the calibrated height, its standard deviation and its 90 % interval, pooled by scene
    if requested. `raw_…`: the network's own prediction, with the interval of its Gaussian. `table` has each polyline's
    `tile`, `scene` and `polyline` (pixels).
    """

    polylines: Polylines
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
        """Write `path` in the format of its suffix. Raises InputError if the suffix is not one of the three."""
        path = Path(path)
        writers = {".csv": self._csv, ".json": self._via, ".geojson": self._geojson}
        check_suffix(path)
        write_text(path, writers[path.suffix.lower()]())

    def _numbers(self) -> Iterator[dict[str, float | None]]:
        columns = (self.mu, self.sigma, self.low, self.high, self.raw_mu, self.raw_sigma, self.raw_low, self.raw_high)
        for row in np.stack(columns, axis=1).round(4).tolist():
            # With too few calibration scenes an interval has no upper end, and JSON has no infinity.
            yield {name: x if math.isfinite(x) else None for name, x in zip(COLUMNS, row, strict=True)}

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        rows = csv.DictWriter(text, ("tile", "scene", "region", "polyline", *COLUMNS), lineterminator="\n")
        rows.writeheader()
        rows.writerows(self.records())
        return text.getvalue()

    def _via(self) -> str:
        images = [
            {**image, "regions": [dict(region) for region in image["regions"]]} for image in self.polylines.images
        ]
        for (i, region), numbers in zip(self.polylines.drawn, self._numbers(), strict=True):
            annotated = images[i]["regions"][region.index]
            predicted = {PREFIX + name: "" if value is None else f"{value:.2f}" for name, value in numbers.items()}
            annotated["region_attributes"] = {**annotated["region_attributes"], **predicted}
        for (i, _), image in zip(self.polylines.drawn, self.table.image.tolist(), strict=True):
            # VIA identifies an image by its name and its size in bytes.
            images[i]["size"] = len(self.table.images.read(image))
        return json.dumps(_via_project(images), ensure_ascii=False, allow_nan=False)

    def _geojson(self) -> str:
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "LineString", "coordinates": region.points.tolist()},
                "properties": {key: value for key, value in record.items() if key != "polyline"},
            }
            for record, (_, region) in zip(self.records(), self.polylines.drawn, strict=True)
        ]
        document = {"type": "FeatureCollection", "coordinate_system": PIXELS, "features": features}
        return json.dumps(document, ensure_ascii=False, allow_nan=False)


def check_suffix(path: Path) -> None:
    """Raise InputError unless `path` has one of the three suffixes."""
    if path.suffix.lower() not in (".csv", ".json", ".geojson"):
        raise InputError(f"--out takes a file that ends in .csv, .json or .geojson, found {path}")


def _via_project(images: list[dict[str, Any]]) -> dict[str, Any]:
    """A project file of VIA 2.0.10; its "Load Project" requires each of these keys."""
    metadata = {
        f"{image['filename']}{image['size']}": {
            "filename": image["filename"],
            "size": image["size"],
            "regions": [
                {name: region[name] for name in ("shape_attributes", "region_attributes")}
                for region in image["regions"]
            ],
            "file_attributes": image["file_attributes"],
        }
        for image in images
    }
    regions = {
        name for image in metadata.values() for region in image["regions"] for name in region["region_attributes"]
    }
    files = {name for image in metadata.values() for name in image["file_attributes"]}
    return {
        "_via_settings": {
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
                    "region_label": PREFIX + COLUMNS[0],
                    "region_color": "__via_default_region_color__",
                    "region_label_font": "10px Sans",
                    "on_image_annotation_editor_placement": "NEAR_REGION",
                },
            },
            "core": {"buffer_size": 18, "filepath": {}, "default_filepath": ""},
            "project": {"name": "heights"},
        },
        "_via_img_metadata": metadata,
        "_via_attributes": {"region": _as_text(regions), "file": _as_text(files)},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(metadata),
    }


def _as_text(names: set[str]) -> dict[str, Any]:
    return {name: {"type": "text", "description": "", "default_value": ""} for name in sorted(names)}
