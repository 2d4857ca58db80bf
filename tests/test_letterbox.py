"""All five channels are the reference's preprocessing, rewritten with OpenCV, to the bit on a CPU.

DALI's own letterbox, which a GPU uses, differs by one grey level at most. Here its operators run on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.dlpack import from_dlpack

from dali_pipes import Loader, SampleTable, Shard
from dali_pipes.batches.graph import build
from dali_pipes.batches.plan import ValidationPlan
from dali_pipes.batches.source import Source
from dali_pipes.batches.stream import Stream
from dali_pipes.batches.view import WHOLE_TILE, View, ViewKind
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
            expected = reference_input(*oracle[samples.tile[row]], size)
            where = f"{list(SIZES)[row]} at {size}"
            assert np.array_equal(batch.rgb[i], expected[:, :, :3]), where
            assert np.array_equal(batch.polyline[i], expected[:, :, 3:4]), where
            assert np.array_equal(batch.padding[i], expected[:, :, 4:]), where


@pytest.mark.parametrize("kind", ["tile", "crop", "both"])
def test_the_letterbox_of_the_graph_differs_by_one_grey_level_at_most(
    table: tuple[SampleTable, dict[str, tuple[bytes, np.ndarray]]], kind: ViewKind
) -> None:
    samples, view = table[0], View(kind, 50)
    for size in (224, 16):
        source = Source(view.frames(samples, size), ValidationPlan(len(samples), 4))
        graph = build(source, device="cpu", device_id=None, threads=1)
        for batch in Loader(samples, 4, size=size, view=view):
            rgb, polyline, sample = (from_dlpack(output.as_tensor()) for output in graph.run())
            assert torch.equal(sample[:, 0], batch.sample)
            assert torch.equal(polyline, batch.polyline)
            assert (rgb.int() - batch.rgb.int()).abs().max() <= 1
            assert not rgb.unflatten(-1, (-1, 3))[batch.padding.bool()].any()


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


def test_a_stream_continues_after_an_image_that_does_not_decode(write_split: Callable[..., Path]) -> None:
    image = jpeg(64, 64)
    images = [image, image, image.replace(b"\xff\xdb", b"\xff\xfe"), image]
    tiles = {f"a_{i}.jpg": (data, via_label(f"a_{i}.jpg", [[(1, 1), (60, 60)]])) for i, data in enumerate(images)}
    table = SampleTable.from_release(write_split(tiles))
    stream = Stream(WHOLE_TILE.frames(table, 64), ValidationPlan(4, 1), torch.device("cpu"), threads=1)
    good = [stream.batch(step) for step in (0, 1)]
    with pytest.raises(InputError, match=r"a_2\.jpg"):
        stream.batch(2)
    good.append(stream.batch(3))
    stream.close()
    assert [batch.sample.tolist() for batch in good] == [[0], [1], [3]]
    assert all(torch.equal(batch.rgb, good[0].rgb) for batch in good), "the same JPEG"


def test_a_table_smaller_than_a_training_batch_is_refused(release: Path) -> None:
    table = SampleTable.from_release(release)
    with pytest.raises(InputError, match="use a smaller batch size"):
        Loader(table, 10_000, shuffle=True)
