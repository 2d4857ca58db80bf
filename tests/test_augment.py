"""Augmented pictures against numpy and OpenCV, their labels against geometry, their draws against published words."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes import CacheOptions, Loader, SampleTable, Shard
from dali_pipes.batches.augment import GOLDEN, Augmentation, Draws, shade, splitmix64, turn, uniform
from dali_pipes.batches.view import WHOLE_TILE, View
from dali_pipes.geometry import normalised_length

ALL = Augmentation(hflip=0.5, vflip=0.5, rot90=0.5, brightness=0.3, contrast=0.3)
EIGHT = [(bool(i & 4), bool(i & 2), bool(i & 1)) for i in range(8)]


def draws_of(positions: list[tuple[bool, bool, bool]]) -> Draws:
    transpose, hflip, vflip = np.array(positions).T
    one = np.ones(len(positions), np.float32)
    return Draws(hflip=hflip, vflip=vflip, transpose=transpose, brightness=one, contrast=one)


def test_the_words_are_those_of_splitmix64() -> None:
    # The first outputs of the published generator from seed 1234567.
    states = np.uint64(1234567) + GOLDEN * np.arange(3, dtype=np.uint64)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_sample_draws_the_same_in_any_batch_and_is_frozen() -> None:
    rows = np.arange(1000)
    all_at_once = uniform(3, 5, rows, 4)
    assert np.array_equal(uniform(3, 5, rows[::-7], 4), all_at_once[::-7])
    assert np.array_equal(uniform(3, 5, rows, 2), all_at_once[:, :2]), "a further draw changes no other"
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
    positions = 4 * (u[:, 2] < 0.5) + 2 * (u[:, 0] < 0.5) + (u[:, 1] < 0.5)
    assert np.abs(np.bincount(positions) / len(u) - 1 / 8).max() < 0.01


def test_the_eight_positions_are_numpys() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3), np.uint8)
    turned = turn([torch.from_numpy(frames)], draws_of(EIGHT))[0].numpy()
    for frame, found, (transpose, hflip, vflip) in zip(frames, turned, EIGHT, strict=True):
        expected = frame.transpose(1, 0, 2) if transpose else frame
        expected = expected[:, ::-1] if hflip else expected
        assert np.array_equal(found, expected[::-1] if vflip else expected)
    group = [np.rot90(frames[0], k) for k in range(4)] + [np.rot90(frames[0, :, ::-1], k) for k in range(4)]
    of_one = turn([torch.from_numpy(frames[:1]).expand(8, -1, -1, -1)], draws_of(EIGHT))[0].numpy()
    assert {frame.tobytes() for frame in of_one} == {np.ascontiguousarray(frame).tobytes() for frame in group}


@given(
    points=st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=2, max_size=5),
    height=st.integers(300, 900),
    width=st.integers(400, 900),
)
def test_no_position_changes_the_normalised_length(points: list[tuple[float, float]], height: int, width: int) -> None:
    length = normalised_length(points, height, width)
    for transpose, hflip, vflip in EIGHT:
        x, y = np.array(points).T
        h, w = (width, height) if transpose else (height, width)
        x, y = (y, x) if transpose else (x, y)
        x, y = (w - x if hflip else x), (h - y if vflip else y)
        assert normalised_length(np.stack([x, y], axis=1), h, w) == pytest.approx(length, rel=1e-9, abs=1e-12)


@given(brightness=st.floats(0.3, 1.7), contrast=st.floats(0.3, 1.7))
@settings(max_examples=30, deadline=None)
def test_shades_are_opencvs_and_padding_stays_black(brightness: float, contrast: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    padding = np.zeros((16, 16, 1), np.uint8)
    padding[:3] = 255
    image[:3] = 0
    factors = [np.array([value], np.float32) for value in (brightness, contrast)]
    no = np.zeros(1, bool)
    draws = Draws(hflip=no, vflip=no, transpose=no, brightness=factors[0], contrast=factors[1])
    shaded = shade(torch.from_numpy(image)[None], torch.from_numpy(padding)[None], draws).numpy()[0]
    level = np.maximum(image * (brightness * contrast) + 128 * brightness * (1 - contrast), 0)  # takes no absolute
    expected = cv2.convertScaleAbs(level)
    assert np.abs(shaded[3:].astype(int) - expected[3:]).max() <= 1
    assert not shaded[:3].any()


def test_masks_turn_with_the_image_and_keep_their_values(release: Path) -> None:
    table = SampleTable.from_release(release)
    plain = next(iter(Loader(table, 32, shuffle=True, shard=Shard(seed=5), size=64)))
    changed = next(iter(Loader(table, 32, shuffle=True, shard=Shard(seed=5), size=64, augmentation=ALL)))
    rows = plain.sample.numpy()
    draws = ALL.draw(5, 0, rows)
    assert torch.equal(changed.sample, plain.sample)
    assert torch.equal(changed.length, plain.length)
    assert torch.equal(changed.height, plain.height)
    rgb, polyline, padding = turn([plain.rgb, plain.polyline, plain.padding], draws)
    assert torch.equal(changed.polyline, polyline)
    assert torch.equal(changed.padding, padding)
    assert not torch.equal(changed.polyline, plain.polyline)
    assert not torch.equal(changed.rgb, rgb), "the picture is shaded, too"


@pytest.mark.parametrize("view", [WHOLE_TILE, View("both", 100)])
def test_any_ranks_any_cache_and_any_entry_show_the_same_pictures(view: View, release: Path, tmp_path: Path) -> None:
    table = SampleTable.from_release(release)

    def pictures(
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

    alone = pictures(32)
    assert pictures(32, place="host") == pictures(32, place="disk") == alone
    ranks = [pictures(32, rank=rank, world_size=2) for rank in range(2)]
    assert ranks[0] | ranks[1] == alone
    resumed = pictures(32, first=1)
    assert resumed.items() < alone.items()
    again = [row for epoch, row in alone if epoch and (0, row) in alone]
    assert any(alone[0, row] != alone[1, row] for row in again), "each epoch shows other pictures"


def test_nothing_is_changed_unless_asked_for_and_nonsense_is_refused() -> None:
    assert not Augmentation()
    with pytest.raises(ValueError, match="expected a contrast between 0 and 1, found 2"):
        Augmentation(contrast=2)
