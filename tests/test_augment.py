"""Augmented images match numpy and OpenCV, labels stay valid, and random numbers match published ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes import CacheOptions, Loader, SampleTable, Shard
from dali_pipes.batches.augment import GOLDEN, Augmentation, Draws, jitter, reorient, splitmix64, uniform
from dali_pipes.batches.view import WHOLE_TILE, View
from dali_pipes.geometry import normalised_length

ALL = Augmentation(hflip=0.5, vflip=0.5, rot90=0.5, brightness=0.3, contrast=0.3)
EIGHT = [(bool(i & 4), bool(i & 2), bool(i & 1)) for i in range(8)]


def oriented(orientations: list[tuple[bool, bool, bool]]) -> Draws:
    transpose, hflip, vflip = np.array(orientations).T
    one = np.ones(len(orientations), np.float32)
    return Draws(hflip=hflip, vflip=vflip, transpose=transpose, brightness=one, contrast=one)


def test_splitmix64_gives_the_published_numbers() -> None:
    # The first outputs of the published generator with seed 1234567.
    states = np.uint64(1234567) + GOLDEN * np.arange(3, dtype=np.uint64)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_the_draws_of_a_sample_depend_on_no_other_sample_and_never_change() -> None:
    rows = np.arange(1000)
    all_at_once = uniform(3, 5, rows, 4)
    assert np.array_equal(uniform(3, 5, rows[::-7], 4), all_at_once[::-7])
    assert np.array_equal(uniform(3, 5, rows, 2), all_at_once[:, :2]), "another draw does not change the first ones"
    # A change here breaks every resumed run.
    assert (uniform(7, 3, np.array([11]), 2) * 2**20).astype(int).tolist() == [[291761, 27867]]


def test_draws_are_uniform_and_independent() -> None:
    u = np.concatenate([uniform(seed, epoch, np.arange(2000), 5) for seed in range(5) for epoch in range(5)])
    assert np.abs(np.histogram(u, 20, (0, 1))[0] / u.size - 0.05).max() < 0.002
    assert np.abs(np.corrcoef(u.T) - np.eye(5)).max() < 0.02
    epochs = np.stack([uniform(0, epoch, np.arange(20_000), 1)[:, 0] for epoch in range(4)])
    seeds = np.stack([uniform(seed, 0, np.arange(20_000), 1)[:, 0] for seed in range(4)])
    for columns in (epochs, seeds):
        assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.04
    orientations = 4 * (u[:, 2] < 0.5) + 2 * (u[:, 0] < 0.5) + (u[:, 1] < 0.5)
    assert np.abs(np.bincount(orientations) / len(u) - 1 / 8).max() < 0.01


def test_the_eight_orientations_match_numpy() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3), np.uint8)
    reoriented = reorient([torch.from_numpy(frames)], oriented(EIGHT))[0].numpy()
    for frame, found, (transpose, hflip, vflip) in zip(frames, reoriented, EIGHT, strict=True):
        expected = frame.transpose(1, 0, 2) if transpose else frame
        expected = expected[:, ::-1] if hflip else expected
        assert np.array_equal(found, expected[::-1] if vflip else expected)
    group = [np.rot90(frames[0], k) for k in range(4)] + [np.rot90(frames[0, :, ::-1], k) for k in range(4)]
    of_one = reorient([torch.from_numpy(frames[:1]).expand(8, -1, -1, -1)], oriented(EIGHT))[0].numpy()
    assert {frame.tobytes() for frame in of_one} == {np.ascontiguousarray(frame).tobytes() for frame in group}


@given(
    points=st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=2, max_size=5),
    height=st.integers(300, 900),
    width=st.integers(400, 900),
)
def test_no_orientation_changes_the_normalised_length(
    points: list[tuple[float, float]], height: int, width: int
) -> None:
    length = normalised_length(points, height, width)
    for transpose, hflip, vflip in EIGHT:
        x, y = np.array(points).T
        h, w = (width, height) if transpose else (height, width)
        x, y = (y, x) if transpose else (x, y)
        x, y = (w - x if hflip else x), (h - y if vflip else y)
        assert normalised_length(np.stack([x, y], axis=1), h, w) == pytest.approx(length, rel=1e-9, abs=1e-12)


@given(brightness=st.floats(0.3, 1.7), contrast=st.floats(0.3, 1.7))
@settings(max_examples=30, deadline=None)
def test_jitter_matches_opencv_and_keeps_padding_black(brightness: float, contrast: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    padding = np.zeros((16, 16, 1), np.uint8)
    padding[:3] = 255
    image[:3] = 0
    factors = [np.array([value], np.float32) for value in (brightness, contrast)]
    no = np.zeros(1, bool)
    draws = Draws(hflip=no, vflip=no, transpose=no, brightness=factors[0], contrast=factors[1])
    changed = jitter(torch.from_numpy(image)[None], torch.from_numpy(padding)[None], draws).numpy()[0]
    # At least 0, since convertScaleAbs takes the absolute value.
    level = np.maximum(image * (brightness * contrast) + 128 * brightness * (1 - contrast), 0)
    expected = cv2.convertScaleAbs(level)
    assert np.abs(changed[3:].astype(int) - expected[3:]).max() <= 1
    assert not changed[:3].any()


def test_masks_are_reoriented_with_the_image_and_keep_their_values(release: Path) -> None:
    table = SampleTable.from_release(release)
    plain = next(iter(Loader(table, 32, shuffle=True, shard=Shard(seed=5), size=64)))
    changed = next(iter(Loader(table, 32, shuffle=True, shard=Shard(seed=5), size=64, augmentation=ALL)))
    rows = plain.sample.numpy()
    draws = ALL.draw(5, 0, rows)
    assert torch.equal(changed.sample, plain.sample)
    assert torch.equal(changed.length, plain.length)
    assert torch.equal(changed.height, plain.height)
    rgb, polyline, padding = reorient([plain.rgb, plain.polyline, plain.padding], draws)
    assert torch.equal(changed.polyline, polyline)
    assert torch.equal(changed.padding, padding)
    assert not torch.equal(changed.polyline, plain.polyline)
    assert not torch.equal(changed.rgb, rgb), "brightness and contrast change, too"


@pytest.mark.parametrize("view", [WHOLE_TILE, View("both", 100)])
def test_ranks_caches_and_resuming_do_not_change_the_images(view: View, release: Path, tmp_path: Path) -> None:
    table = SampleTable.from_release(release)

    def images_of(
        batch_size: int, first: int = 0, place: str = "none", rank: int = 0, world_size: int = 1
    ) -> dict[tuple[int, int], bytes]:
        shard, cache = Shard(rank, world_size, seed=6), CacheOptions(place, tmp_path)
        loader = Loader(table, batch_size, shuffle=True, shard=shard, size=32, view=view, cache=cache, augmentation=ALL)
        return {
            (epoch, row): batch.rgb[i].numpy().tobytes() + batch.polyline[i].numpy().tobytes()
            for epoch in range(2)
            for batch in loader.epoch(epoch, first)
            for i, row in enumerate(batch.sample.tolist())
        }

    alone = images_of(32)
    assert images_of(32, place="host") == images_of(32, place="disk") == alone
    ranks = [images_of(32, rank=rank, world_size=2) for rank in range(2)]
    assert ranks[0] | ranks[1] == alone
    resumed = images_of(32, first=1)
    assert resumed.items() < alone.items()
    again = [row for epoch, row in alone if epoch and (0, row) in alone]
    assert any(alone[0, row] != alone[1, row] for row in again), "each epoch shows other images"


def test_the_default_changes_nothing_and_a_bad_value_is_refused() -> None:
    assert not Augmentation()
    with pytest.raises(ValueError, match="expected a contrast between 0 and 1, found 2"):
        Augmentation(contrast=2)
