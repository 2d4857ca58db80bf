"""Pictures of any format as RGB: the right pixels, or the reason why not. OpenCV and rasterio write the files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from dali_pipes import Loader
from dali_pipes.batches.view import View
from dali_pipes.errors import InputError
from dali_pipes.geometry import letterbox
from dali_pipes.samples import tiff
from dali_pipes.samples.picture import Pictures, open_pictures
from dali_pipes.samples.polylines import Polylines, read_polylines, table_of

NO_RASTERIO = pytest.mark.skipif(not tiff.is_available(), reason="rasterio is not installed: pip install -e .[geo]")
RGB = np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8)
CRS, NORTH_UP = "EPSG:32652", (0.5, 0.0, 500_000.0, 0.0, -0.5, 4_000_000.0)


def saved(path: Path, image: NDArray[Any], *options: int) -> Path:
    """Write an RGB, RGBA or grey `image` with OpenCV, which takes BGR."""
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.shape[2]]
    cv2.imwrite(str(path), image[..., order], options)
    return path


def geotiff(path: Path, image: NDArray[Any], **options: Any) -> Path:
    """Write an `image` (h, w, bands) with rasterio."""
    import rasterio

    height, width, bands = image.shape
    profile = {"crs": CRS, "transform": rasterio.Affine(*NORTH_UP), **options}
    nodata, interpretation, palette = (profile.pop(name, None) for name in ("nodata", "colorinterp", "palette"))
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=image.dtype, nodata=nodata, **profile
    ) as dataset:
        dataset.write(np.moveaxis(image, -1, 0))
        if palette:
            dataset.write_colormap(1, palette)
        if interpretation:
            dataset.colorinterp = [rasterio.enums.ColorInterp[name] for name in interpretation]
    return path


def read(path: Path, value_range: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    pictures = open_pictures([path], value_range)
    ((width, height),) = pictures.sizes([0], windowed=False, console=Console(quiet=True))
    rgb = pictures.rgb(0)
    assert rgb.shape == (height, width, 3)
    np.testing.assert_array_equal(pictures.rgb(0, (5, 7, 20, 30)), rgb[5:25, 7:37])
    return rgb


def test_a_png_or_an_uncompressed_tiff_has_its_own_pixels(tmp_path: Path) -> None:
    uncompressed = (cv2.IMWRITE_TIFF_COMPRESSION, 1)
    for name, options in (("a.png", ()), ("a.tif", uncompressed)):
        np.testing.assert_array_equal(read(saved(tmp_path / name, RGB, *options)), RGB)
        sixteen = saved(tmp_path / f"16{name}", RGB.astype(np.uint16) * 257, *options)
        np.testing.assert_array_equal(read(sixteen), RGB)
        grey = read(saved(tmp_path / f"grey{name}", RGB[..., :1], *options))
        np.testing.assert_array_equal(grey, RGB[..., [0, 0, 0]])


def test_what_is_wholly_transparent_is_black_and_other_alpha_changes_nothing(tmp_path: Path) -> None:
    alpha = np.full((60, 90, 1), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 100
    expected = RGB.copy()
    expected[:10] = 0
    np.testing.assert_array_equal(read(saved(tmp_path / "a.png", np.concatenate([RGB, alpha], axis=2))), expected)


def test_values_of_16_bits_are_scaled_by_one_stated_rule(tmp_path: Path) -> None:
    values = np.linspace(0, 2047, 60 * 90 * 3).reshape(60, 90, 3).astype(np.uint16)
    path = saved(tmp_path / "a.png", values)
    with pytest.raises(InputError, match=r"the highest of its 16-bit values is 2047, .* state with --value-range"):
        read(path)
    expected = np.rint(np.clip((values - 100.0) / 1900.0, 0, 1) * 255)
    np.testing.assert_array_equal(read(path, (100, 2000)), expected)
    with pytest.raises(InputError, match="--value-range takes LOW and HIGH, found 5 and 5"):
        open_pictures([path], (5, 5))


def test_a_damaged_picture_is_named_with_the_reason(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", RGB).read_bytes()
    raw = saved(tmp_path / "whole.tif", RGB, cv2.IMWRITE_TIFF_COMPRESSION, 1).read_bytes()
    control = b"acTL" + bytes([0, 0, 0, 2, 0, 0, 0, 0])
    moving = whole[:33] + b"\0\0\0\x08" + control + zlib.crc32(control).to_bytes(4, "big") + whole[33:]
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    faults = {
        "cut.png": (whole[: len(whole) // 2], "the PNG is cut short"),
        "no_end.png": (whole[:-12], "the PNG is cut short"),
        "changed.png": (bytes(changed), "the PNG's data are corrupt"),
        "moving.png": (moving, "the PNG is an animation"),
        "cut.tif": (raw[: len(raw) // 2], "damaged or cut short|cannot read it|data are corrupt"),
        "head.tif": (raw[:8], "the TIFF is damaged or cut short"),
        "a.jpg": (b"GIF89a" + bytes(20), "the image is a GIF"),
    }
    for name, (data, reason) in faults.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name} cannot be predicted: .*({reason})"):
            read(tmp_path / name)


def test_a_png_that_is_too_large_is_refused_by_its_header(tmp_path: Path) -> None:
    whole = bytearray(saved(tmp_path / "a.png", RGB).read_bytes())
    whole[16:24] = (60_000).to_bytes(4, "big") * 2
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(InputError, match=r"it has 60,000 × 60,000 pixels; cut it into images of at most 67,108,864"):
        read(tmp_path / "a.png")


@NO_RASTERIO
def test_every_packing_of_a_geotiff_has_the_same_pixels(tmp_path: Path) -> None:
    packings: list[dict[str, Any]] = [
        {"compress": "lzw", "tiled": True, "blockxsize": 32, "blockysize": 16},
        {"compress": "deflate", "predictor": 2},
        {"BIGTIFF": "YES"},
        {"interleave": "band"},
    ]
    for i, packing in enumerate(packings):
        np.testing.assert_array_equal(read(geotiff(tmp_path / f"{i}.tif", RGB, **packing)), RGB, str(packing))
    infrared = np.full((60, 90, 1), 9, np.uint8)
    bgrn = np.concatenate([RGB[..., ::-1], infrared], axis=2)
    named = geotiff(tmp_path / "bgrn.tif", bgrn, colorinterp=["blue", "green", "red", "undefined"])
    np.testing.assert_array_equal(read(named), RGB)
    no_data = read(geotiff(tmp_path / "nodata.tif", np.where(RGB[..., :1] > 99, RGB, np.uint8(255)), nodata=255))
    np.testing.assert_array_equal(no_data, np.where(RGB[..., :1] > 99, RGB, 0))
    eleven = read(geotiff(tmp_path / "11.tif", np.rint(RGB * (2047 / 255)).astype(np.uint16), NBITS=11))
    assert np.abs(eleven.astype(int) - RGB).max() <= 1
    two = geotiff(tmp_path / "palette.tif", RGB[..., :1] >> 7, NBITS=1, palette={0: (0, 128, 0), 1: (9, 8, 7)})
    np.testing.assert_array_equal(read(two), np.where(RGB[..., :1] > 127, (9, 8, 7), (0, 128, 0)))
    real = geotiff(tmp_path / "real.tif", RGB.astype(np.float32) / 255)
    np.testing.assert_array_equal(read(real, (0, 1)), RGB)


@NO_RASTERIO
def test_a_geotiff_whose_colours_are_unknown_is_refused(tmp_path: Path) -> None:
    four = np.concatenate([RGB, RGB[..., :1]], axis=2)
    dark = np.where(RGB[..., :1] > 200, 65535, RGB).astype(np.uint16)
    faults: list[tuple[NDArray[Any], dict[str, Any], str]] = [
        (four.astype(np.uint16), {}, r"its 4 bands are gray, undefined.*save it as a TIFF of three bands"),
        (RGB.astype(np.float32), {}, r"its values are float32, without a lowest and a highest one; state them"),
        (RGB.astype(np.uint32), {}, r"its values are uint32, without a lowest and a highest one"),
        (dark, {"nodata": 65535}, r"the highest of its 16-bit values is \d+"),
        (RGB[..., :1], {"photometric": "miniswhite"}, "its value 0 is white"),
    ]
    for image, options, reason in faults:
        with pytest.raises(InputError, match=f"a.tif cannot be predicted: {reason}"):
            read(geotiff(tmp_path / "a.tif", image, **options))
    compressed = bytearray(geotiff(tmp_path / "b.tif", RGB, compress="lzw").read_bytes())
    compressed[len(compressed) // 2 :] = bytes(len(compressed) // 2)
    (tmp_path / "b.tif").write_bytes(compressed)
    with pytest.raises(InputError, match=r"b\.tif cannot be predicted: (rasterio cannot read it|the TIFF is damaged)"):
        read(tmp_path / "b.tif")


@NO_RASTERIO
def test_without_rasterio_a_compressed_tiff_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geotiff(tmp_path / "a.tif", RGB, compress="lzw")
    monkeypatch.setattr(tiff, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"such as a\.tif, needs the extra geo, .* pip install -e \.\[geo\]"):
        read(tmp_path / "a.tif")


def lines(name: str) -> Polylines:
    return read_polylines({name: [[(10.0, 50.0), (40.0, 12.0)], [(60.0, 55.0), (80.0, 30.0)]]})


def frames_of(path: Path, view: View) -> torch.Tensor:
    pictures = open_pictures([path])
    table = table_of(lines(path.name), pictures, windowed=view.windowed)
    return next(iter(Loader(table, 2, size=32, view=view))).rgb


@pytest.mark.parametrize("name", ["a.png", pytest.param("a.tif", marks=NO_RASTERIO)])
def test_frames_are_letterboxed_and_cut_as_opencv_does(name: str, tmp_path: Path) -> None:
    smooth = cv2.resize(RGB[:6, :9], (90, 60), interpolation=cv2.INTER_CUBIC)
    path = saved(tmp_path / name, smooth) if name == "a.png" else geotiff(tmp_path / name, smooth, compress="lzw")
    box = letterbox(60, 90, 32)
    whole = np.zeros((32, 32, 3), np.uint8)
    whole[box.top : box.top + box.height] = cv2.resize(smooth, (box.width, box.height))
    seen = frames_of(path, View("tile"))[0].numpy()
    assert np.abs(seen.astype(int) - whole).max() <= 1
    # The windows are squares of 48 px around (25, 31) and (70, 42.5), shifted into the image of 60 × 90.
    for row, (top, left) in enumerate([(7, 1), (12, 42)]):
        cut = cv2.resize(smooth[top : top + 48, left : left + 48], (32, 32))
        for view in (View("crop", 48), View("both", 48)):
            seen = frames_of(path, view)[row, ..., -3:].numpy()
            assert np.abs(seen.astype(int) - cut).max() <= 1, (row, view)


@NO_RASTERIO
def test_only_windows_of_a_scene_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rasterio

    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "SPARSE_OK": True}
    with rasterio.open(tmp_path / "scene.tif", "w", width=20_000, height=20_000, **profile) as dataset:
        dataset.write(np.moveaxis(RGB, -1, 0), window=rasterio.windows.Window(15_000, 18_000, 90, 60))
    boxes: list[tuple[int, ...]] = []
    original = tiff.read_window

    def watched(dataset: Any, box: tuple[int, int, int, int]) -> Any:
        if dataset.width == 20_000:  # the stream of an earlier test may still read ahead
            boxes.append(box)
        return original(dataset, box)

    monkeypatch.setattr(tiff, "read_window", watched)
    shifted = {"scene.tif": [[(15_010.0, 18_050.0), (15_040.0, 18_012.0)]]}
    table = table_of(read_polylines(shifted), open_pictures([tmp_path]), windowed=True)
    seen = next(iter(Loader(table, 1, size=48, view=View("crop", 48)))).rgb[0].numpy()
    np.testing.assert_array_equal(seen, RGB[7:55, 1:49])
    assert {box[2:] for box in boxes} == {(48, 48)}
    with pytest.raises(InputError, match=r"20,000 × 20,000 pixels; cut it into images of at most 67,108,864"):
        table_of(read_polylines(shifted), open_pictures([tmp_path]))


def test_a_picture_with_another_suffix_is_taken_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "scene.png", RGB)
    table = table_of(lines("scene.tif"), open_pictures([tmp_path]), console=Console())
    assert table.tile.tolist() == ["scene.png", "scene.png"]
    assert "scene.png is taken for scene.tif: it must have the same pixels" in capsys.readouterr().out


def test_a_scene_in_an_archive_may_have_more_than_64_mib(tmp_path: Path) -> None:
    comment, jpeg = b"\xff\xfe\xff\xff" + bytes(65_533), cv2.imencode(".jpg", RGB)[1].tobytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("scene.jpg", jpeg[:2] + 1_025 * comment + jpeg[2:])
    pictures = open_pictures([tmp_path / "a.zip"])
    assert pictures.size(0) > 1 << 26
    assert isinstance(pictures, Pictures)
    assert table_of(lines("scene.jpg"), pictures).width.tolist() == [90, 90]
