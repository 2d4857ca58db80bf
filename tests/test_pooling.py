"""Pooling by scene against the matrix algebra of Gaussians, and against what comes of simulated scenes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from train.pooling import fit_between, pool, to_log_scale

Float64 = NDArray[np.float64]


def covariance(variance: Float64, between: float) -> Float64:
    """Of a scene's errors, as the module's docstring states it, (n, n)."""
    harmonic = len(variance) / np.sum(1 / variance)
    return np.diag((1 - between) * variance) + between * harmonic


def simulate(
    scenes: int, between: float, seed: int, most: int = 12
) -> tuple[Float64, Float64, Float64, NDArray[np.str_]]:
    """Errors of log scales with known variances, drawn by Cholesky: error, variance, length, scene, all (N,)."""
    random = np.random.default_rng(seed)
    errors, variances, names = [], [], []
    for scene in range(scenes):
        variance = random.uniform(0.05, 0.3, random.integers(1, most + 1)) ** 2
        errors.append(np.linalg.cholesky(covariance(variance, between)) @ random.standard_normal(len(variance)))
        variances.append(variance)
        names += len(variance) * [f"scene {scene}"]
    error, variance = np.concatenate(errors), np.concatenate(variances)
    return error, variance, random.uniform(17, 319, len(error)), np.array(names)


def in_metres(length: Float64, log_scale: Float64, variance: Float64) -> tuple[Float64, Float64]:
    """Mean and deviation of a log-normal by its textbook moments."""
    mu = length * np.exp(log_scale + variance / 2)
    return mu, mu * np.sqrt(np.exp(variance) - 1)


@given(st.integers(1, 9), st.floats(0, 0.99), st.integers(0, 99))
def test_a_pooled_scene_is_the_posterior_of_the_full_covariance(n: int, between: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    log_scale, variance = random.normal(0.4, 0.3, n), random.uniform(0.05, 0.5, n) ** 2
    length = random.uniform(17, 319, n)
    precision = np.linalg.inv(covariance(variance, between))
    expected = 1 / precision.sum()
    mean = precision.sum(axis=0) @ log_scale * expected  # generalised least squares of a constant
    mu, sigma = pool(length, *in_metres(length, log_scale, variance), np.full(n, "a"), between)
    np.testing.assert_allclose(np.stack([mu, sigma]), in_metres(length, mean, expected), rtol=1e-9)


@given(st.floats(2, 300), st.floats(0.1, 90), st.floats(0, 1))
def test_a_polyline_that_is_alone_in_its_scene_is_left_as_it_is(mu: float, sigma: float, between: float) -> None:
    pooled = pool([64.0, 30.0], [mu, 80.0], [sigma, 9.0], ["a", "b"], between)
    np.testing.assert_allclose(pooled, [[mu, 80.0], [sigma, 9.0]], rtol=1e-9)


def test_scenes_do_not_touch_each_other_and_their_order_does_not_matter() -> None:
    _, variance, length, scene = simulate(5, 0.3, seed=1)
    mu, sigma = in_metres(length, np.random.default_rng(2).normal(0.4, 0.3, len(length)), variance)
    whole = np.stack(pool(length, mu, sigma, scene, 0.3))
    alone = scene == "scene 3"
    np.testing.assert_allclose(whole[:, alone], pool(length[alone], mu[alone], sigma[alone], scene[alone], 0.3))
    order = np.random.default_rng(3).permutation(len(mu))
    np.testing.assert_allclose(whole[:, order], pool(length[order], mu[order], sigma[order], scene[order], 0.3))


def test_a_common_error_is_never_averaged_away() -> None:
    n, sigma = 10_000, 0.2
    mu, deviation = in_metres(np.ones(n), np.zeros(n), np.full(n, sigma**2))
    for between, expected in ((0.0, sigma / 100), (0.25, sigma / 2), (1.0, sigma)):
        pooled = pool(np.ones(n), 100 * mu, 100 * deviation, np.full(n, "a"), between)
        _, variance = to_log_scale(np.ones(n), *pooled)
        assert np.sqrt(variance[0]) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("between", [0.0, 0.2, 0.7])
def test_the_share_between_scenes_is_found_again(between: float) -> None:
    error, variance, _, scene = simulate(600, between, seed=4)
    assert fit_between(error, 3.0 * variance, scene) == pytest.approx(between, abs=0.04)  # whatever the factor


@pytest.mark.parametrize("between", [0.0, 0.3])
def test_pooled_sigmas_are_honest_where_naive_ones_are_not(between: float) -> None:
    error, variance, length, scene = simulate(2000, between, seed=5)
    mu, sigma = in_metres(length, error, variance)  # the truth is a log scale of 0
    mu, sigma = 40 * mu, 40 * sigma  # away from where heights have no logarithm

    def spread(share: float) -> float:
        log_scale, pooled = to_log_scale(length, *pool(length, mu, sigma, scene, share))
        _, first = np.unique(scene, return_index=True)
        return float(np.mean((log_scale - np.log(40))[first] ** 2 / pooled[first]))

    assert spread(fit_between(error, variance, scene)) == pytest.approx(1, abs=0.12)
    if between:
        assert spread(0.0) > 1.8


def test_scenes_of_one_polyline_say_nothing_of_what_is_common() -> None:
    assert fit_between(np.array([0.1, -0.2]), np.array([0.01, 0.04]), np.array(["a", "b"])) == 1.0


def test_a_height_without_a_logarithm_hardly_counts() -> None:
    mu, sigma = pool([64.0, 64.0], [100.0, -5.0], [10.0, 60.0], ["a", "a"], 0.0)
    assert np.isfinite([mu, sigma]).all()
    assert mu[0] == pytest.approx(100, rel=0.1)
