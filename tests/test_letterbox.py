"""All five channels match the reference's preprocessing, rewritten with OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dali_pipes import Loader, SampleTable, Shard
from dali_pipes.errors import InputError
from tests.conftest import jpeg, via_label

SIZES = {  # (height, width), by what they test
    "square": (512, 512),
    "portrait": (300, 200),
    "landscape": (200, 300),
    "odd": (333, 511),
    "half-way": (100, 128),  # 175 × 224, and at 32 px: 25
    "half-way, down to even": (289, 512),  # 126.4375 at 224; at 128 px: 72.25
    "half-way, exactly": (50, 64),  # at 16 px 12.5
    "upscaled": (60, 90),
    "upscaled and odd": (31, 17),
    "thin": (900, 40),
}


def reference_input(image: bytes, points: np.ndarray, size: int) -> np.ndarray:
    """The reference's 5-channel input before normalisation → (size, size, 5) uint8."""
    bgr = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    h, w = rgb.shape[:2]
    mask = np.zeros((h, w), np.uint8)
    cv2.polylines(mask, [points.astype(np.int32)], False, 255, max(1, int(0.004 * min(h, w))))
    scale = min(size / w, size / h)
    nh, nw = int(round(h * scale)), int(round(w * scale))  # noqa: RUF046 - the reference's own words
    resized = cv2.resize(np.dstack([rgb, mask]), (nw, nh), interpolation=cv2.INTER_LINEAR)
    canvas = np.zeros((size, size, 5), np.uint8)
    canvas[:, :, 4] = 255
    top, left = (size - nh) // 2, (size - nw) // 2
    canvas[top : top + nh, left : left + nw, :4] = resized
    canvas[top : top + nh, left : left + nw, 4] = 0
    return canvas


@pytest.fixture
def table(write_split: Callable[..., Path]) -> tuple[SampleTable, dict[str, tuple[bytes, np.ndarray]]]:
    tiles, oracle = {}, {}
    rng = np.random.default_rng(1)
    for i, (height, width) in enumerate(SIZES.values()):
        name = f"K3_CHN_20210518050720_{i}.jpg"
        points = rng.integers(0, (width, height), (2 + i % 2, 2))
        image = jpeg(height, width, seed=i)
        tiles[name] = (image, via_label(name, [points.tolist()]))
        oracle[name] = (image, points)
    return SampleTable.from_release(write_split(tiles)), oracle


@pytest.mark.parametrize("size", [224, 128, 32, 16])
@pytest.mark.parametrize("batch_size", [4, len(SIZES)])
def test_all_five_channels_match_opencv(
    table: tuple[SampleTable, dict[str, tuple[bytes, np.ndarray]]], size: int, batch_size: int
) -> None:
    samples, oracle = table
    batches = list(Loader(samples, batch_size, size=size))  # all kept, to detect a reused buffer
    assert torch.cat([batch.sample for batch in batches]).tolist() == list(range(len(samples)))
    for batch in batches:
        for i, row in enumerate(batch.sample.tolist()):
            expected = reference_input(*oracle[samples.tile[row]], size).astype(int)
            rgb, polyline, padding = (x[i].numpy().astype(int) for x in (batch.rgb, batch.polyline, batch.padding))
            where = f"{list(SIZES)[row]} at {size}"
            assert np.abs(rgb - expected[:, :, :3]).max() <= 1, where
            assert np.abs(polyline - expected[:, :, 3:4]).max() <= 1, where
            assert (padding == expected[:, :, 4:]).all(), where


def test_a_batch_has_uint8_images_and_the_scalars_of_the_table(release: Path) -> None:
    table = SampleTable.from_release(release, split="validation")
    statistics = table.statistics()
    for raw, scaled in zip(Loader(table, 16), Loader(table, 16, statistics=statistics), strict=True):
        assert raw.rgb.dtype == raw.polyline.dtype == raw.padding.dtype == torch.uint8
        assert raw.rgb.shape == (len(raw), 224, 224, 3)
        assert raw.polyline.shape == raw.padding.shape == (len(raw), 224, 224, 1)
        assert (raw.length.shape, raw.length.dtype) == ((len(raw), 1), torch.float32)
        assert (raw.height.shape, raw.sample.dtype) == ((len(raw),), torch.int64)
        np.testing.assert_allclose(raw.height, table.height[raw.sample], rtol=1e-6)
        np.testing.assert_allclose(raw.length[:, 0], table.length[raw.sample], rtol=1e-6)
        expected = (table.height[raw.sample] - statistics.height_mean) / statistics.height_std
        np.testing.assert_allclose(scaled.height, expected, rtol=1e-4, atol=1e-5)


def test_epochs_follow_each_other_and_can_start_at_any_step(release: Path) -> None:
    table = SampleTable.from_release(release)
    loader = Loader(table, 32, shuffle=True, shard=Shard(seed=3), size=32)
    first, second = ([batch.sample.tolist() for batch in loader] for _ in range(2))
    assert len(first) == len(loader) == len(table) // 32
    assert first != second
    flat = [row for rows in first for row in rows]
    assert len(set(flat)) == len(flat)
    entered = Loader(table, 32, shuffle=True, shard=Shard(seed=3), size=32)
    assert [batch.sample.tolist() for batch in entered.epoch(1, first=1)] == second[1:]
    next(iter(entered))  # an epoch that ends early
    assert [batch.sample.tolist() for batch in entered.epoch(0)] == first


def test_two_ranks_together_see_the_batches_of_one(release: Path) -> None:
    table = SampleTable.from_release(release)
    one = [batch.sample.tolist() for batch in Loader(table, 32, shuffle=True, size=32)]
    two = [
        [batch.sample.tolist() for batch in Loader(table, 32, shuffle=True, shard=Shard(rank, 2), size=32)]
        for rank in range(2)
    ]
    assert one == [a + b for a, b in zip(*two, strict=True)]


def test_deflated_and_stored_images_give_the_same_pixels(write_split: Callable[..., Path]) -> None:
    tiles = {f"a_{i}.jpg": (jpeg(64, 64, i), via_label(f"a_{i}.jpg", [[(1, 1), (60, 60)]])) for i in range(3)}
    stored = next(iter(Loader(SampleTable.from_release(write_split(tiles)), 3)))
    deflated = next(iter(Loader(SampleTable.from_release(write_split(tiles, deflate=True)), 3)))
    assert torch.equal(stored.rgb, deflated.rgb)


def test_the_error_names_the_image_that_does_not_decode(write_split: Callable[..., Path]) -> None:
    image = jpeg(64, 64)
    broken = image.replace(b"\xff\xdb", b"\xff\xfe")  # its quantisation tables are comments
    tiles = {
        "a_1.jpg": (image, via_label("a_1.jpg", [[(1, 1), (60, 60)]])),
        "a_2.jpg": (broken, via_label("a_2.jpg", [[(1, 1), (60, 60)]])),
    }
    with pytest.raises(InputError, match=r"found a_2\.jpg \(the JPEG"):
        list(Loader(SampleTable.from_release(write_split(tiles)), 2))


def test_a_table_smaller_than_a_training_batch_is_refused(release: Path) -> None:
    table = SampleTable.from_release(release)
    with pytest.raises(InputError, match="use a smaller batch size"):
        Loader(table, 10_000, shuffle=True)
