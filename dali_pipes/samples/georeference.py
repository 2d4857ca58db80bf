"""Where the pixels of a GeoTIFF are on Earth.

    place = georeference_of(pictures, index)
    place.degrees(points)        # (N, 2) longitude and latitude in WGS 84
    place.crs                    # the coordinate system of the file, as WKT
    place.coordinates(points)    # (N, 2) in that system

Pixels are (x, y) from the top left corner of the image. The affine transform of the file takes them to its coordinate
system, whether it is rotated or not. Ground control points and RPCs are no such transform: they depend on the height of
the ground. Needs rasterio, the extra `geo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from . import tiff
from .picture import Pictures
from .via import Reason

Float64 = NDArray[np.float64]

WGS84 = "EPSG:4326"


@dataclass(frozen=True)
class Georeference:
    """The affine transform (2, 3) of an image from pixels (x, y, 1) to the coordinate system `crs`, which is WKT."""

    transform: Float64
    crs: str
    name: str

    def coordinates(self, points: ArrayLike) -> Float64:
        """Points (N, 2) px → (N, 2) easting and northing, or longitude and latitude, in `crs`."""
        pixels = np.asarray(points, np.float64)
        return pixels @ self.transform[:, :2].T + self.transform[:, 2]

    def degrees(self, points: ArrayLike) -> Float64:
        """Points (N, 2) px → (N, 2) degrees of longitude and latitude in WGS 84.

        Raises InputError if `crs` has no way to WGS 84, as a local system.
        """
        from rasterio._err import CPLE_BaseError
        from rasterio.errors import RasterioError
        from rasterio.warp import transform

        try:
            x, y = self.coordinates(points).T
            degrees = np.stack(transform(self.crs, WGS84, x.tolist(), y.tolist()), axis=1)
            if np.isfinite(degrees).all():
                return degrees
        except (RasterioError, CPLE_BaseError):
            pass
        raise InputError(
            f"expected a coordinate system on Earth in {self.name}, found {self.crs[:60]}…, which does not lead to"
            " longitude and latitude; write .csv or .json, which need no place"
        )


def georeference_of(pictures: Pictures, index: int) -> Georeference:
    """Return where picture `index` is. Raises InputError if it does not say so, or if rasterio is not installed."""
    name = pictures.names[index]
    if pictures.format_of(index) is not Reason.TIFF:
        raise _without(name, "it is no GeoTIFF")
    if not tiff.is_available():
        raise tiff.needs_geo(f"the georeference of {name}")
    with pictures.dataset(index) as dataset:
        transform, crs = dataset.transform, dataset.crs
        fault = _fault(dataset)
    if fault:
        raise _without(name, fault)
    return Georeference(np.array(transform[:6]).reshape(2, 3), crs.to_wkt(), name)


def _fault(dataset: Any) -> str:
    if dataset.transform.is_identity and dataset.gcps[0]:
        return "it has ground control points instead of an affine transform"
    if dataset.transform.is_identity and dataset.rpcs is not None:
        return "it has RPCs instead of an affine transform"
    if dataset.transform.is_identity or dataset.transform.is_degenerate:
        return "it has no affine transform"
    return "" if dataset.crs else "it does not name its coordinate system"


def _without(name: str, why: str) -> InputError:
    return InputError(f"expected a georeference in {name}, but {why}; write .csv or .json, which need none")
