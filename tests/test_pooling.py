"""Pooling by tile and scene agrees with the matrix algebra of Gaussians and with simulated scenes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from train.scores.pooling import fit_shares, fit_weighting, levelled, pool_by_scene, pool_log_scale, to_log_scale

Float64 = NDArray[np.float64]
Names = NDArray[np.str_]
Shares = tuple[float, float]


def harmonic(variance: Float64) -> float:
    return len(variance) / float(np.sum(1 / variance))


def covariance(variance: Float64, tile: Names, shares: Shares) -> Float64:
    """Covariance of the errors of one scene's polylines, as defined in the docstring of pooling.py, (n, n)."""
    within_tile, between = shares
    tiles, of = np.unique(tile, return_inverse=True)
    inverse = [float(np.sum(1 / variance[of == t])) for t in range(len(tiles))]
    of_tile = np.array(
        [within_tile * harmonic(variance[of == t]) + (1 - within_tile) / inverse[t] for t in range(len(tiles))]
    )
    estimates = between * harmonic(of_tile) + (1 - between) * np.diag(of_tile)
    rest = np.diag(variance) - (of[:, None] == of) / np.array(inverse)[of]
    return estimates[np.ix_(of, of)] + (1 - within_tile) * rest


class Simulated(NamedTuple):
    """Errors of log scales, with variances known up to a factor; all (N,)."""

    error: Float64
    variance: Float64
    length: Float64
    tile: Names
    scene: Names


def simulate(
    scenes: int, of_scene: float, of_tile: float, *, most: int = 6, polylines: tuple[int, ...] = (1, 2, 3), seed: int
) -> Simulated:
    """The sum of three independent errors: of the scene, of the tile and of the polyline.

    `of_scene`, `of_tile`: the shares of the first two in the variance.  Scenes have 1 to `most` tiles, and each tile
    has one of `polylines`.  Variances differ between scenes and within them.
    """
    random = np.random.default_rng(seed)
    parts = []
    for scene in range(scenes):
        counts = random.choice(polylines, random.integers(1, most + 1))
        which, n = np.repeat(np.arange(len(counts)), counts), counts.sum()
        variance = random.uniform(0.05, 0.2) ** 2 * random.uniform(0.7, 1.4, n)
        common = np.sqrt(of_scene) * random.standard_normal() + np.sqrt(of_tile) * random.standard_normal(len(counts))
        own = np.sqrt((1 - of_scene - of_tile) * variance) * random.standard_normal(n)
        error = np.sqrt(harmonic(variance)) * common[which] + own
        tile = np.array([f"{scene:04}_{tile}" for tile in which])
        parts.append((error, variance, random.uniform(17, 319, n), tile, np.full(n, f"{scene:04}")))
    return Simulated(*map(np.concatenate, zip(*parts, strict=True)))


def in_metres(length: Float64, log_scale: Float64, variance: Float64) -> tuple[Float64, Float64]:
    """Mean and deviation of a log-normal, by the textbook formulas."""
    mu = length * np.exp(log_scale + variance / 2)
    return mu, mu * np.sqrt(np.exp(variance) - 1)


@given(st.integers(1, 9), st.integers(1, 4), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 99))
def test_a_pooled_scene_equals_the_posterior_of_the_full_covariance(
    n: int, tiles: int, within_tile: float, between: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    log_scale, variance = random.normal(0.4, 0.3, n), random.uniform(0.05, 0.5, n) ** 2
    length, tile = random.uniform(17, 319, n), random.integers(0, tiles, n).astype(str)
    precision = np.linalg.inv(covariance(variance, tile, (within_tile, between)))
    expected = 1 / precision.sum()
    mean = precision.sum(axis=0) @ log_scale * expected  # generalised least squares of a constant
    metres = in_metres(length, log_scale, variance)
    mu, sigma = pool_by_scene(length, *metres, tile, np.full(n, "a"), (within_tile, between))
    np.testing.assert_allclose(np.stack([mu, sigma]), in_metres(length, mean, expected), rtol=1e-8)


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.floats(0.3, 0.99),
    st.integers(0, 99),
)
def test_pooled_posterior_means_equal_the_posterior_given_all_polylines(
    n: int, tiles: int, within_tile: float, between: float, reliability: float, seed: int
) -> None:
    """The prior of S is N(m, τ²); each x_i is S plus an error, and s_i its posterior mean if it were alone."""
    random = np.random.default_rng(seed)
    m, shares, tile = 0.4, (within_tile, between), random.integers(0, tiles, n).astype(str)
    prior = 0.09
    noise = covariance(np.full(n, prior * (1 - reliability) / reliability), tile, shares)
    x = random.normal(m, 0.4, n)
    gain = prior * np.linalg.inv(prior + noise).sum(axis=0)  # conditioning a Gaussian on x
    mean, variance = m + gain @ (x - m), prior * (1 - gain.sum())
    estimates, variances = m + reliability * (x - m), np.full(n, prior * (1 - reliability))
    pooled = pool_log_scale(estimates, variances, tile, np.full(n, "a"), shares, 1.0, (m, reliability))
    np.testing.assert_allclose(pooled, [np.full(n, mean), np.full(n, variance)], rtol=1e-8)


@given(st.floats(2, 300), st.floats(0.1, 90), st.floats(0, 1), st.floats(0, 1), st.floats(0.3, 1))
def test_a_polyline_that_is_alone_in_its_scene_does_not_change(
    mu: float, sigma: float, within_tile: float, between: float, reliability: float
) -> None:
    names, shares = (["a_1", "b_1"], ["a", "b"]), (within_tile, between)
    pooled = pool_by_scene([64.0, 30.0], [mu, 80.0], [sigma, 9.0], *names, shares, 1.0, (0.4, reliability))
    np.testing.assert_allclose(pooled, [[mu, 80.0], [sigma, 9.0]], rtol=1e-9)


def test_scenes_do_not_affect_each_other_and_order_does_not_matter() -> None:
    _, variance, length, tile, scene = simulate(5, 0.3, 0.3, seed=1)
    mu, sigma = in_metres(length, np.random.default_rng(2).normal(0.4, 0.3, len(length)), variance)
    whole = np.stack(pool_by_scene(length, mu, sigma, tile, scene, (0.6, 0.3)))
    for some in (scene == "0003", np.random.default_rng(3).permutation(len(mu))):
        part = pool_by_scene(length[some], mu[some], sigma[some], tile[some], scene[some], (0.6, 0.3))
        np.testing.assert_allclose(whole[:, some], part)


@pytest.mark.parametrize(
    ("shares", "tiles", "expected"),
    [
        ((0.0, 0.0), 100, 0.01),  # everything averages out: 1/√10,000
        ((0.0, 0.25), 10_000, 0.5),
        ((1.0, 0.0), 100, 0.1),  # a hundred tiles, each as precise as one polyline
        ((0.25, 0.0), 1, 0.5),
        ((0.25, 1.0), 100, 0.5),  # the polylines' own part averages out in each tile, and tiles share the rest
        ((1.0, 1.0), 100, 1.0),
    ],
)
def test_a_common_error_never_averages_out(shares: Shares, tiles: int, expected: float) -> None:
    n, sigma = 10_000, 0.2
    tile = (np.arange(n) % tiles).astype(str)
    mu, deviation = in_metres(np.ones(n), np.zeros(n), np.full(n, sigma**2))
    _, variance = to_log_scale(
        np.ones(n), *pool_by_scene(np.ones(n), 100 * mu, 100 * deviation, tile, np.full(n, "a"), shares)
    )
    assert np.sqrt(variance[0]) == pytest.approx(expected * sigma, rel=0.02)


PARTS = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.85), (0.5, 0.35), (0.2, 0.5)]


@pytest.mark.parametrize(("of_scene", "of_tile"), PARTS)
def test_the_fit_recovers_both_shares(of_scene: float, of_tile: float) -> None:
    error, variance, _, tile, scene = simulate(1500, of_scene, of_tile, polylines=(3,), seed=4)
    within_tile = of_scene + of_tile
    between = of_scene / (within_tile + (1 - within_tile) / 3)  # the own error of a tile of three is a third
    fitted = fit_shares(error, 3.0 * variance, tile, scene)  # whatever the factor
    assert fitted == pytest.approx((within_tile, between), abs=0.04)


@pytest.mark.parametrize(("of_scene", "of_tile"), PARTS)
def test_pooled_sigmas_match_the_errors_and_naive_ones_do_not(of_scene: float, of_tile: float) -> None:
    error, variance, length, tile, scene = simulate(2000, of_scene, of_tile, seed=5)
    mu, sigma = in_metres(length, error, variance)  # the truth is a log scale of 0
    mu, sigma = 40 * mu, 40 * sigma  # far above the lowest height
    _, first, counts = np.unique(scene, return_index=True, return_counts=True)

    def spread(shares: Shares, scenes: NDArray[np.bool_]) -> float:
        log_scale, pooled = to_log_scale(length, *pool_by_scene(length, mu, sigma, tile, scene, shares))
        return float(np.mean((log_scale - np.log(40))[first[scenes]] ** 2 / pooled[first[scenes]]))

    large = counts > 6
    fitted = fit_shares(error, variance, tile, scene)
    for scenes in (large, ~large):
        assert spread(fitted, scenes) == pytest.approx(1, abs=0.12)
    if of_scene or of_tile:
        assert spread((0.0, 0.0), large) > 1.4


@pytest.mark.parametrize("informative", [0.0, 0.5, 1.0])
def test_fitted_weights_come_near_the_best_and_state_their_error(informative: float) -> None:
    """The true variances are h·(v/h)^informative: the network's differ within a scene by more than the errors do."""
    random = np.random.default_rng(7)

    def draw(scenes: int) -> tuple[Float64, Float64, Float64, Names]:
        group = np.repeat(np.arange(scenes), 6)
        variance = 0.02 * np.exp(random.normal(0, 1, len(group)))
        true = 0.02 * (variance / 0.02) ** informative
        return random.normal(0, np.sqrt(true)), variance, true, group.astype(str)

    error, variance, _, scene = draw(300)
    gamma = fit_weighting(error, variance, scene)
    assert gamma == pytest.approx(informative, abs=0.15)
    error, variance, true, scene = draw(2000)
    alone = np.arange(len(error))
    square = {}
    for name, weighting in (("fitted", gamma), ("precision", 1.0), ("plain", 0.0)):
        pooled, _ = pool_log_scale(error, variance, alone, scene, (1.0, 0.0), weighting)
        square[name] = float(np.mean(pooled**2))
    best, _ = pool_log_scale(error, true, alone, scene, (1.0, 0.0))  # generalised least squares
    assert square["fitted"] < 1.03 * np.mean(best**2)
    assert square["fitted"] < 1.01 * min(square["precision"], square["plain"])
    if informative < 1:
        assert square["fitted"] < 0.95 * square["precision"]


def test_levelled_variances_keep_their_mean_in_a_scene_and_a_polyline_that_is_alone() -> None:
    variance, scene = np.array([0.01, 0.04, 0.09]), np.array(["a", "a", "b"])
    assert levelled(variance, scene, 1.0) is variance
    np.testing.assert_allclose(levelled(variance, scene, 0.0), [0.02, 0.02, 0.09])
    np.testing.assert_allclose(levelled(variance, scene, 0.5), [0.02 / 2**0.5, 0.02 * 2**0.5, 0.09])
    assert fit_weighting(variance, variance, np.array(["a", "b", "c"])) == 1.0


def test_tiles_of_many_polylines_outvote_others_if_tiles_are_ignored() -> None:
    error, variance, _, tile, scene = simulate(1000, 0.1, 0.8, polylines=(1, 8), seed=6)
    alone = np.arange(len(error))
    nested, _ = pool_log_scale(error, variance, tile, scene, fit_shares(error, variance, tile, scene))
    one_level, stated = pool_log_scale(error, variance, alone, scene, fit_shares(error, variance, alone, scene))
    assert np.mean(nested**2) < 0.9 * np.mean(one_level**2)
    single = np.array([len(np.unique(tile[scene == name])) == 1 and np.sum(scene == name) > 1 for name in scene])
    assert (
        np.mean(one_level[single] ** 2 / stated[single]) > 1.3
    )  # eight polylines of one tile are worth little more than one


def test_shares_are_one_if_no_group_has_two_members() -> None:
    error, variance, names = np.array([0.1, -0.2]), np.array([0.01, 0.04]), np.array(["a", "b"])
    assert fit_shares(error, variance, names, names) == (1.0, 1.0)
    assert fit_shares(error, variance, names, np.array(["c", "c"]))[0] == 1.0


def test_a_height_without_a_logarithm_hardly_changes_the_others() -> None:
    mu, sigma = pool_by_scene([64.0, 64.0], [100.0, -5.0], [10.0, 60.0], ["a_1", "a_2"], ["a", "a"], (1.0, 0.0))
    assert np.isfinite([mu, sigma]).all()
    assert mu[0] == pytest.approx(100, rel=0.1)
