"""Scores of uncertainty equal numerical integrals and analytic values, on data from a known Gaussian."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from train.scores.uncertainty import LEVELS, Forecast, UncertaintyScores, coverage_by_scene, crps

Float64 = NDArray[np.float64]
N = 100_000


def samples(n: int = N, seed: int = 0, spread: float = 1.0) -> tuple[Float64, Float64, Float64, NDArray[np.str_]]:
    """Heights drawn from N(mu, (spread·sigma)²): height, mu, sigma, scene (n,)."""
    random = np.random.default_rng(seed)
    mu, sigma = random.uniform(60, 250, n), np.exp(random.normal(2, 0.5, n))
    scene = np.array([f"scene {i % 50}" for i in range(n)])
    return mu + spread * sigma * random.standard_normal(n), mu, sigma, scene


def uncertainty(height: Float64, mu: Float64, sigma: Float64, scene: NDArray[np.str_]) -> UncertaintyScores:
    return UncertaintyScores.of(height, Forecast.gaussian(mu, sigma), scene)


def constant(height: Float64, mu: Float64, scene: NDArray[np.str_]) -> UncertaintyScores:
    return UncertaintyScores.of(height, Forecast.gaussian(mu, mu).constant(height), scene)


@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(0.5, 60))
def test_the_crps_is_the_integral_of_the_squared_difference_of_distributions(
    height: float, mu: float, sigma: float
) -> None:
    def integral(low: float, high: float, step: bool) -> float:
        x = np.linspace(low, high, 20_001)
        normal = NormalDist(mu, sigma)
        squared = np.array([(normal.cdf(at) - step) ** 2 for at in x[::20]])
        return float(np.trapezoid(squared, x[::20]))

    reach = 9 * sigma
    expected = integral(min(mu - reach, height), height, False) + integral(height, max(mu + reach, height), True)
    assert crps(np.array([height]), np.array([mu]), np.array([sigma])).item() == pytest.approx(expected, rel=1e-3)


def test_the_crps_of_a_forecast_without_spread_is_its_absolute_error() -> None:
    np.testing.assert_allclose(crps(np.array([50.0]), np.array([57.0]), np.array([1e-9])), 7.0)


def test_the_true_gaussian_has_its_analytic_scores() -> None:
    height, mu, sigma, scene = samples()
    scores = uncertainty(height, mu, sigma, scene)
    assert scores.nll == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + np.log(sigma).mean(), abs=0.01)
    assert scores.crps == pytest.approx(sigma.mean() / math.sqrt(math.pi), rel=0.01)
    for level in LEVELS:
        assert scores.coverage[level] == pytest.approx(level, abs=0.005)
        assert scores.scene_coverage[level] == pytest.approx(level, abs=0.005)
        assert scores.width[level] == pytest.approx(2 * NormalDist().inv_cdf((1 + level) / 2) * sigma.mean(), rel=1e-9)
    bar = constant(height, mu, scene)
    assert scores.nll < bar.nll
    assert scores.crps < bar.crps


def test_the_constant_forecast_has_the_lowest_nll_of_all_constants() -> None:
    height, mu, _, scene = samples()
    bar, rmse = constant(height, mu, scene), math.sqrt(np.mean((height - mu) ** 2))
    assert bar.nll == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + math.log(rmse), abs=1e-9)
    assert bar.width[0.9] == pytest.approx(2 * 1.6449 * rmse, rel=1e-3)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert uncertainty(height, mu, np.full_like(mu, factor * rmse), scene).nll > bar.nll


def test_the_constant_forecast_reproduces_the_references_published_nll() -> None:
    # RMSE 4.098 m on heights with a standard deviation of 49 m, without ½ln2π: −1.97 or −1.98, depending on rounding
    error = np.array([4.098, -4.098]) / 49
    bar = constant(error, np.zeros(2), np.array(["a", "b"]))
    assert bar.nll - 0.5 * math.log(2 * math.pi) == pytest.approx(-1.97, abs=0.02)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_miscalibrated_forecast_has_worse_scores(spread: float) -> None:
    height, mu, sigma, scene = samples(spread=spread)  # the predicted σ is 1/spread of the true one
    wrong, right = uncertainty(height, mu, sigma, scene), uncertainty(height, mu, spread * sigma, scene)
    for level in LEVELS:
        reached = NormalDist().inv_cdf((1 + level) / 2) / spread
        assert wrong.coverage[level] == pytest.approx(2 * NormalDist().cdf(reached) - 1, abs=0.005)
    expected = 0.5 * spread**2 - 0.5 - math.log(spread)  # the Kullback–Leibler divergence
    assert wrong.nll - right.nll == pytest.approx(expected, rel=0.05)
    assert wrong.crps > right.crps


def test_a_biased_forecast_has_worse_scores() -> None:
    height, mu, sigma, scene = samples()
    biased, right = uncertainty(height, mu + sigma, sigma, scene), uncertainty(height, mu, sigma, scene)
    assert biased.nll - right.nll == pytest.approx(0.5, rel=0.05)
    assert biased.coverage[0.9] < 0.8


def test_coverage_matches_a_case_computed_by_hand() -> None:
    height, low, high = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4), np.array([1.0, 1.5, 3.0, 5.5])
    scene = np.array(["b", "a", "a", "b"])
    scores = UncertaintyScores.of(height, Forecast(height, np.ones(4), {0.9: (low, high)}), scene)
    assert (scores.coverage[0.9], scores.width[0.9]) == (0.75, 2.75)
    assert coverage_by_scene(height, (low, high), scene).tolist() == [0.5, 1.0]


def test_each_scene_has_one_vote() -> None:
    height = np.zeros(10)
    forecast = Forecast(height, np.ones(10), {0.9: (np.where(np.arange(10) < 9, -1.0, 1.0), np.full(10, 2.0))})
    scores = UncertaintyScores.of(height, forecast, np.array(["big"] * 9 + ["small"]))
    assert (scores.coverage[0.9], scores.scene_coverage[0.9]) == (0.9, 0.5)


def test_an_infinite_interval_covers_every_height_and_is_infinitely_wide() -> None:
    height, mu, sigma, scene = samples(100)
    scores = UncertaintyScores.of(height, Forecast(mu, sigma, {0.95: (np.zeros(100), np.full(100, math.inf))}), scene)
    assert (scores.coverage[0.95], scores.width[0.95]) == (1.0, math.inf)


def test_one_sample_has_finite_scores() -> None:
    one = uncertainty(np.array([50.0]), np.array([52.0]), np.array([2.0]), np.array(["a"]))
    assert np.isfinite([one.nll, one.crps]).all()
