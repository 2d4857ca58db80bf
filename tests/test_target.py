"""The target is decoded to metres: checked by inversion, by sampling from the predicted Gaussian, and by scaling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes import Loader, SampleTable
from dali_pipes.geometry import length_in_sides, normalised_length
from model import Target
from model.target import TargetKind

KINDS: tuple[TargetKind, ...] = ("height", "log_scale")
TABLE = np.random.default_rng(0).uniform(0.04, 0.5, 200)  # lengths in sides
HEIGHT = TABLE * np.random.default_rng(1).lognormal(6.6, 0.3, 200)  # metres: 735 m a side, σ .3 of the logarithm


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_samples_have_mean_0_and_deviation_1(kind: TargetKind) -> None:
    values = Target.fit(kind, HEIGHT, TABLE).encode(HEIGHT, TABLE)
    assert values.mean() == pytest.approx(0, abs=1e-12)
    assert values.std() == pytest.approx(1, abs=1e-6)


def test_the_height_target_is_the_z_of_the_reference() -> None:
    target = Target.fit("height", HEIGHT, TABLE)
    np.testing.assert_array_equal(target.encode(HEIGHT, TABLE), (HEIGHT - HEIGHT.mean()) / (HEIGHT.std() + 1e-8))
    mu, sigma = target.decode([1.0], [0.0], [0.1])
    assert (mu[0], sigma[0]) == pytest.approx((HEIGHT.mean() + HEIGHT.std(), HEIGHT.std()))


@given(
    kind=st.sampled_from(KINDS),
    height=st.floats(1, 1e3),
    length=st.floats(1e-3, 1.4),
    mean=st.floats(-10, 10),
    std=st.floats(1e-3, 100),
)
def test_decoding_an_encoded_height_without_variance_returns_it(
    kind: TargetKind, height: float, length: float, mean: float, std: float
) -> None:
    target = Target(kind, mean, std)
    mu, sigma = target.decode(target.encode([height], [length]), [-80.0], [length])
    assert mu[0] == pytest.approx(height, rel=1e-9)
    assert 0 < sigma[0] < 1e-6 * max(height, 1e3) * std


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mu", "log_var"), [(0.0, 0.0), (1.3, -2.0), (-2.0, 0.7)])
def test_mean_and_deviation_are_those_of_heights_sampled_from_the_prediction(
    kind: TargetKind, mu: float, log_var: float
) -> None:
    target = Target.fit(kind, HEIGHT, TABLE)
    z = np.random.default_rng(7).normal(mu, np.exp(log_var / 2), 1_000_000)
    mean, std = target.mean, target.std
    drawn = z * std + mean if kind == "height" else 0.2 * np.exp(z * std + mean)
    decoded = target.decode([mu], [log_var], [0.2])
    assert decoded[0][0] == pytest.approx(drawn.mean(), rel=2e-3)
    assert decoded[1][0] == pytest.approx(drawn.std(), rel=5e-3)


def test_a_longer_polyline_scales_mean_and_deviation_equally() -> None:
    target = Target.fit("log_scale", HEIGHT, TABLE)
    mu, sigma = target.decode([0.4, 0.4], [-1.0, -1.0], [0.1, 0.3])
    assert mu[1] / mu[0] == pytest.approx(3)
    assert sigma[1] / sigma[0] == pytest.approx(3)


def test_the_scale_depends_on_neither_tile_size_nor_polyline_direction() -> None:
    across, along = [[0, 0], [60, 0]], [[0, 0], [0, 60]]
    assert length_in_sides([across, along], 300, 600).tolist() == [0.1, 0.1]
    assert length_in_sides(np.multiply(across, 2), 600, 1200) == length_in_sides(across, 300, 600)
    assert normalised_length([across, along], 300, 600).tolist() == [0.1, 0.2], "the reference's does"
    assert length_in_sides(across, 512, 512) == normalised_length(across, 512, 512)


@pytest.mark.parametrize(
    ("kind", "mean", "std"), [("metres", 0, 1), ("height", 0, 0), ("height", np.nan, 1), ("log_scale", 0, np.inf)]
)
def test_an_invalid_target_is_refused(kind: TargetKind, mean: float, std: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Target(kind, mean, std)


def test_the_loader_returns_the_targets_of_its_samples(release: Path) -> None:
    table = SampleTable.from_release(release)
    target = Target.fit("log_scale", table.height, table.length_in_sides)
    values = target.encode(table.height, table.length_in_sides)
    loader = Loader(table, 16, shuffle=True, size=32, statistics=table.statistics(), target=values)
    batch = next(iter(loader))
    np.testing.assert_allclose(batch.height, values[batch.sample], rtol=1e-6)
    metres, _ = target.decode(batch.height, np.full(16, -80.0), table.length_in_sides[batch.sample])
    np.testing.assert_allclose(metres, table.height[batch.sample], rtol=1e-5)
    per_scene = [np.ptp(np.log(table.height / table.length_in_sides)[table.scene == s]) for s in np.unique(table.scene)]
    assert max(per_scene) < 0.01, "constant within a scene, up to the rounding of the labelled height"
