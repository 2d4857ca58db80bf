"""The views of a sample match windows cut by numpy from OpenCV's images; the network averages two views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dali_pipes import Batch, Loader, SampleTable
from dali_pipes.batches.augment import Draws, jitter
from dali_pipes.batches.masks import padding_mask, polyline_mask
from dali_pipes.batches.view import WHOLE_TILE, View, ViewKind, unique_rows
from dali_pipes.errors import InputError
from dali_pipes.geometry import letterbox, window
from dali_pipes.release.paths import ReleasePaths
from model import HeightRegressor
from tests.conftest import jpeg, via_label
from tests.test_promotion import run_folder
from tests.test_training import SMALL, Quiet
from train.__main__ import run
from train.deploy.height_model import load
from train.deploy.verdict import judge_runs
from train.engine.step import Forward
from train.engine.trained import load_trained, predict

CPU = torch.device("cpu")
KINDS: list[ViewKind] = ["tile", "crop", "both"]
sides, places = st.integers(32, 900), st.integers(-300, 1200) | st.floats(-300, 1200)


@given(
    points=st.lists(st.tuples(places, places), min_size=2, max_size=5),
    height=sides,
    width=sides,
    crop=st.integers(32, 512),
)
def test_a_window_lies_in_its_image_and_contains_its_polyline(
    points: list[tuple[float, float]], height: int, width: int, crop: int
) -> None:
    top, left, rows, columns = window(points, height, width, crop).tolist()
    assert 0 <= top <= top + rows <= height
    assert 0 <= left <= left + columns <= width
    xs, ys = ([float(point[i]) for point in points] for i in (0, 1))
    side = max(crop, int(np.ceil(1.25 * max(max(xs) - min(xs), max(ys) - min(ys)))))
    assert (rows, columns) == (min(side, height), min(side, width))
    for values, first, length, all_of_it in ((ys, top, rows, height), (xs, left, columns, width)):
        if min(values) >= 0 and max(values) <= all_of_it:
            assert first <= min(values) <= max(values) <= first + length, "the whole polyline is inside"
        off = first + length / 2 - (min(values) + max(values)) / 2  # distance of the centres
        inside = 0 < first < all_of_it - length
        assert -1 < off <= 1e-9 or not inside, "it is centred unless the image ends there"


def test_windows_of_known_polylines() -> None:
    assert window([(250, 250), (270, 260)], 512, 512, 256).tolist() == [127, 132, 256, 256]
    assert window([(10, 500), (20, 400)], 512, 512, 256).tolist() == [256, 0, 256, 256]
    assert window([(0, 100), (301, 100)], 512, 512, 256).tolist() == [0, 0, 377, 377]  # 376.25
    assert window([(50, 100), (60, 100)], 512, 200, 256).tolist() == [0, 0, 256, 200]
    many = np.array([[(250, 250), (270, 260)], [(10, 500), (20, 400)]])
    assert window(many, [512, 512], [512, 512], 256).tolist() == [[127, 132, 256, 256], [256, 0, 256, 256]]


@given(rows=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=20))
def test_unique_rows_are_those_of_numpy(rows: list[list[int]]) -> None:
    first, inverse = unique_rows(np.array(rows))
    unique, at, expected = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(first, at)
    assert np.array_equal(inverse, expected.reshape(-1))
    assert np.array_equal(np.array(rows)[first], unique)


def subsampled(height: int, width: int, seed: int, factors: int, progressive: bool) -> bytes:
    """A JPEG with subsampled chroma; decoding a window must interpolate it as decoding the whole image does."""
    image = cv2.imdecode(np.frombuffer(jpeg(height, width, seed), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    noisy = np.clip(image + np.random.default_rng(seed).normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", noisy, options)[1].tobytes()


LINES = [[(120, 150), (133, 161)], [(3, 5), (40, 9)], [(200, 30), (199, 140), (120, 210)]]
SIZES = [(512, 512), (300, 220), (222, 301), (257, 243), (400, 223)]  # 4:2:0, 4:2:2 and 4:4:4 in turn
FACTORS = [0x221111, 0x211111, 0x111111]


@pytest.fixture
def written(write_split: Callable[..., Path]) -> tuple[SampleTable, list[bytes]]:
    images = [subsampled(h, w, i, FACTORS[i % 3], i == 3) for i, (h, w) in enumerate(SIZES)]
    names = [f"K3_CHN_20210518050720_{i}.jpg" for i in range(len(SIZES))]
    tiles = {name: (image, via_label(name, LINES)) for name, image in zip(names, images, strict=True)}
    return SampleTable.from_release(write_split(tiles)), images


def oracle(image: bytes, points: np.ndarray, cut: list[int], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGB, polyline and padding of one frame: decode and draw the whole image, cut, letterbox."""
    bgr = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    (h, w), (top, left, rows, columns) = bgr.shape[:2], cut
    part = np.s_[top : top + rows, left : left + columns]
    box = letterbox(rows, columns, size)
    rgb, polyline = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    resized = cv2.resize(np.ascontiguousarray(bgr[part][..., ::-1]), (box.width, box.height))
    rgb[box.top : box.top + box.height, box.left : box.left + box.width] = resized
    mask = cv2.resize(np.ascontiguousarray(polyline_mask(points, h, w)[part]), (box.width, box.height))
    polyline[box.top : box.top + box.height, box.left : box.left + box.width] = mask
    return rgb, polyline, padding_mask(box, size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "crop"), [(64, 250), (128, 97), (224, 224)])
def test_every_view_matches_opencv(
    kind: ViewKind, size: int, crop: int, written: tuple[SampleTable, list[bytes]]
) -> None:
    table, images = written
    batches = list(Loader(table, 8, size=size, view=View(kind, crop)))
    assert sum(map(len, batches)) == len(table) == 15
    for batch in batches:
        for i, row in enumerate(batch.sample.tolist()):
            h, w, points = int(table.height_px[row]), int(table.width[row]), table.polyline[row]
            whole, cut = [0, 0, h, w], window(points, h, w, crop).tolist()
            for view, part in enumerate({"tile": [whole], "crop": [cut], "both": [whole, cut]}[kind]):
                rgb, polyline, padding = oracle(images[table.image[row]], points, part, size)
                found = batch.rgb[i, :, :, 3 * view : 3 * view + 3].numpy()
                assert np.array_equal(found, rgb), (row, view)
                assert np.array_equal(batch.polyline[i, :, :, view], polyline), (row, view)
                assert np.array_equal(batch.padding[i, :, :, view], padding), (row, view)
                assert polyline.any() or size == 64, "the polyline is visible, unless the resize skips its pixels"


def test_a_window_alone_equals_the_second_view_of_both(written: tuple[SampleTable, list[bytes]]) -> None:
    """Although one decodes only the window, and the other the whole image."""
    table, _ = written
    crop, both = (next(iter(Loader(table, 15, size=96, view=View(kind, 151)))) for kind in ("crop", "both"))
    assert torch.equal(crop.rgb, both.rgb[..., 3:])
    assert torch.equal(crop.polyline[..., 0], both.polyline[..., 1])
    tile = next(iter(Loader(table, 15, size=96)))
    assert torch.equal(tile.rgb, both.rgb[..., :3])
    assert torch.equal(tile.length, both.length)
    assert torch.equal(tile.height, both.height)


def test_jitter_keeps_the_padding_of_each_view_black() -> None:
    rgb, padding = torch.full((1, 8, 8, 6), 100, dtype=torch.uint8), torch.zeros((1, 8, 8, 2), dtype=torch.uint8)
    padding[:, :2, :, 0] = 255
    padding[:, :, 6:, 1] = 255
    one, no = np.ones(1, np.float32), np.zeros(1, bool)
    changed = jitter(rgb, padding, Draws(no, no, no, brightness=1.5 * one, contrast=one))
    assert not changed[:, :2, :, :3].any()
    assert not changed[:, :, 6:, 3:].any()
    assert (changed[:, 2:, :, :3] == 150).all()
    assert (changed[:, :, :6, 3:] == 150).all()


def as_views(batches: list[Batch]) -> Batch:
    """One batch whose views are the images of `batches`."""
    parts = {
        name: torch.cat([getattr(batch, name) for batch in batches], -1) for name in ("rgb", "polyline", "padding")
    }
    return replace(batches[0], **parts)


def test_the_features_of_two_views_are_merged_and_a_new_network_averages_them(release: Path) -> None:
    table = SampleTable.from_release(release, "validation")
    one, other = (next(iter(Loader(table, 6, size=64, view=view))) for view in (WHOLE_TILE, View("crop", 128)))
    torch.manual_seed(0)
    network = HeightRegressor("convnext_atto", drop_path=0.0, layer_scale=1.0, views=2).eval()
    single = HeightRegressor("convnext_atto", drop_path=0.0, layer_scale=1.0).eval()
    assert set(network.state_dict()) - set(single.state_dict()) == {"merge.weight", "merge.bias"}
    single.load_state_dict(network.state_dict(), strict=False)
    forward, alone_forward = Forward(network, CPU, 6, "fp32"), Forward(single, CPU, 6, "fp32")
    seen = [network.backbone(forward.image(batch.rgb, batch.polyline, batch.padding)) for batch in (one, other)]
    assert (seen[0] - seen[1]).abs().max() > 0.01
    with torch.no_grad():
        expected = network.fuse((seen[0] + seen[1]) / 2, one.length)
    both = next(iter(Loader(table, 6, size=64, view=View("both", 128))))
    for name, value in vars(as_views([one, other])).items():
        assert torch.equal(getattr(both, name), value), name
    for mine, theirs in zip(forward.predict(both), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    for mine, alone in zip(forward.predict(as_views([one, one])), alone_forward.predict(one), strict=True):
        torch.testing.assert_close(mine, alone, rtol=0, atol=1e-5)
    torch.nn.init.normal_(network.merge.weight)
    merged = torch.cat(seen, dim=1) @ network.merge.weight.T + network.merge.bias
    for mine, theirs in zip(forward.predict(both), network.fuse(merged, one.length), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)


def test_an_unknown_view_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a view of tile, crop, aligned, both, tile\\+aligned, found 'all'"):
        View("all")  # type: ignore[arg-type]


def test_a_checkpoint_keeps_its_view_and_predictions_use_it(release: Path, tmp_path: Path) -> None:
    config = replace(SMALL, epochs=1, data=replace(SMALL.data, view="both", crop=100))
    run(config, release, tmp_path / "run", resume=False, console=Quiet())
    trained = load_trained(tmp_path / "run")
    assert trained.view == View("both", 100)
    table = SampleTable.from_release(release, "validation")
    model = load(tmp_path / "run", device="cpu", batch_size=16)
    drawn = {tile: table.polyline[table.tile == tile] for tile in dict.fromkeys(table.tile.tolist())}
    mine = model.predict(release / "VS_KS.zip", drawn).raw_mu
    for view in (trained.view, View("both", 101)):
        loader = Loader(table, 16, size=32, view=view, statistics=trained.statistics)
        mu, _ = predict(model.forward, loader, trained.target)
        assert np.allclose(sorted(mu), sorted(mine), rtol=1e-6) == (view == trained.view)
    for other in ({"view": "tile"}, {"crop": 101}):
        data: Any = replace(config.data, **other)
        with pytest.raises(InputError, match=f"another configuration .data.{next(iter(other))}"):
            run(replace(config, data=data), release, tmp_path / "run", resume=True, console=Quiet())
    weights = replace(config, init_from=str(tmp_path / "run"), data=replace(config.data, view="crop"))
    with pytest.raises(InputError, match=r"were trained with --data\.view both, but this run has --data\.view crop"):
        run(weights, release, tmp_path / "another", resume=False, console=Quiet())


def test_a_comparison_shows_each_network_its_own_view(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = run_folder(tmp_path / "old", release, 1.0)
    new = run_folder(tmp_path / "new", release, 0.0, view="crop", crop=90)
    shown: list[View] = []

    class Recorded(Loader):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            shown.append(self.view)

    monkeypatch.setattr("train.engine.trained.Loader", Recorded)
    judge_runs(old, new, ReleasePaths(release), device="cpu", console=Console(quiet=True))
    assert shown == [WHOLE_TILE, View("crop", 90)], "a checkpoint without a view was trained on tiles"
