"""Predicted heights on a map: opened with geopandas, and compared with pyproj's own transformation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.errors import InputError
from dali_pipes.samples import tiff
from dali_pipes.samples.georeference import georeference_of
from dali_pipes.samples.picture import open_pictures
from dali_pipes.samples.polylines import read_polylines, table_of
from tests.test_pictures import CRS, NO_RASTERIO, NORTH_UP, RGB, geotiff, saved
from train.deploy import map_file
from train.deploy.predicted_heights import PredictedHeights

pytestmark = NO_RASTERIO
ROTATED = (0.4, 0.3, 500_000.0, 0.3, -0.4, 4_000_000.0)
LINES = {
    "north.tif": [np.array([(10.0, 50.0), (40.5, 12.25)])],
    "rotated.tif": [np.array([(0.0, 0.0), (30.0, 20.0), (90.0, 60.0)])],
}


@pytest.fixture
def heights(tmp_path: Path) -> PredictedHeights:
    """Two polylines on a GeoTIFF that is north-up and one that is rotated, with invented heights."""
    import rasterio

    geotiff(tmp_path / "north.tif", RGB)
    geotiff(tmp_path / "rotated.tif", RGB, transform=rasterio.Affine(*ROTATED))
    drawn, pictures = read_polylines(LINES), open_pictures([tmp_path])
    columns = [np.array([100.0 + i, 50.0 + i]) for i in range(8)]
    columns[3][1] = math.inf  # an interval without an upper end
    return PredictedHeights(drawn, pictures, table_of(drawn, pictures), *columns)


def expected(crs: str) -> list[Any]:
    """The polylines in `crs`: the affine transforms by hand, then pyproj."""
    pyproj = pytest.importorskip("pyproj", reason="pyproj is not installed: pip install -e .[dev]")
    move = pyproj.Transformer.from_crs(CRS, crs, always_xy=True)
    places = []
    for (a, b, c, d, e, f), (line,) in zip((NORTH_UP, ROTATED), LINES.values(), strict=True):
        x, y = line.T
        places.append(np.stack(move.transform(a * x + b * y + c, d * x + e * y + f), axis=1))
    return places


def test_the_geojson_has_longitude_and_latitude(heights: PredictedHeights, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed: pip install -e .[dev]")
    heights.write(tmp_path / "heights.geojson")
    frame = geopandas.read_file(tmp_path / "heights.geojson")
    assert frame.crs.to_epsg() == 4326
    for row, place in zip(frame.itertuples(), expected("EPSG:4326"), strict=True):
        np.testing.assert_allclose(list(row.geometry.coords), place, rtol=0, atol=1e-8)
        np.testing.assert_allclose([row.base_lon, row.base_lat], place[0], rtol=0, atol=1e-8)
        np.testing.assert_allclose([row.top_lon, row.top_lat], place[-1], rtol=0, atol=1e-8)
    assert frame.height_m.tolist() == [100, 50]
    assert frame.sigma_m.tolist() == [101, 51]
    assert frame.low_m.tolist() == [102, 52]
    assert np.isnan(frame.high_m[1])
    assert "crs" not in json.loads((tmp_path / "heights.geojson").read_text("utf-8"))  # RFC 7946, section 4


def test_the_geopackage_has_lines_bases_and_tops_in_the_system_of_the_images(
    heights: PredictedHeights, tmp_path: Path
) -> None:
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed: pip install -e .[dev]")
    heights.write(tmp_path / "heights.gpkg")
    layers = {
        name: geopandas.read_file(tmp_path / "heights.gpkg", layer=name) for name in ("chimneys", "bases", "tops")
    }
    for i, place in enumerate(expected(CRS)):
        np.testing.assert_allclose(list(layers["chimneys"].geometry[i].coords), place)
        np.testing.assert_allclose(layers["bases"].geometry[i].coords[0], place[0])
        np.testing.assert_allclose(layers["tops"].geometry[i].coords[0], place[-1])
    for frame in layers.values():
        assert frame.crs.to_epsg() == 32652
        assert frame.tile.tolist() == list(LINES)
        assert frame.height_m.tolist() == [100, 50]
        assert np.isnan(frame.high_m[1])


def test_images_of_two_systems_share_wgs_84(tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed: pip install -e .[dev]")
    geotiff(tmp_path / "north.tif", RGB)
    geotiff(tmp_path / "other.tif", RGB, crs="EPSG:5186")
    drawn = read_polylines(dict.fromkeys(("north.tif", "other.tif"), LINES["north.tif"]))
    pictures = open_pictures([tmp_path])
    columns = [np.ones(2)] * 8
    PredictedHeights(drawn, pictures, table_of(drawn, pictures), *columns).write(tmp_path / "heights.gpkg")
    frame = geopandas.read_file(tmp_path / "heights.gpkg", layer="chimneys")
    assert frame.crs.to_epsg() == 4326
    np.testing.assert_allclose(list(frame.geometry[0].coords), expected("EPSG:4326")[0], rtol=0, atol=1e-8)


def test_an_image_without_a_place_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rasterio
    from rasterio.control import GroundControlPoint

    corners = [
        GroundControlPoint(0, 0, 5e5, 4e6),
        GroundControlPoint(60, 0, 5e5, 39e5),
        GroundControlPoint(0, 90, 6e5, 4e6),
    ]
    files: list[tuple[Path, str]] = [
        (saved(tmp_path / "a.png", RGB), "it is no GeoTIFF"),
        (geotiff(tmp_path / "plain.tif", RGB, crs=None, transform=None), "it has no affine transform"),
        (geotiff(tmp_path / "local.tif", RGB, crs=None), "it does not name its coordinate system"),
        (geotiff(tmp_path / "gcps.tif", RGB, transform=None, gcps=corners), "it has ground control points"),
    ]
    for path, reason in files:
        with pytest.raises(InputError, match=f"expected a georeference in {path.name}, but {reason}.*; write .csv or"):
            georeference_of(open_pictures([path]), 0)
    nowhere = rasterio.crs.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    with pytest.raises(InputError, match="does not lead to longitude and latitude"):
        georeference_of(open_pictures([geotiff(tmp_path / "site.tif", RGB, crs=nowhere)]), 0).degrees([(0, 0)])
    placed = geotiff(tmp_path / "placed.tif", RGB)
    monkeypatch.setattr(tiff, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"the georeference of placed\.tif needs the extra geo"):
        georeference_of(open_pictures([placed]), 0)
    monkeypatch.setattr(map_file, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"writing heights\.gpkg needs the extra geo"):
        map_file.check_library(tmp_path / "heights.gpkg")
