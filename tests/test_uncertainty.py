"""Scores of an uncertainty on data drawn from a known Gaussian, against numerical integrals and analytic values."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from train.scores.uncertainty import (
    LEVELS,
    REMOVED,
    Forecast,
    Uncertainty,
    area_between,
    bins,
    calibration_error,
    coverage_and_width,
    coverage_by_scene,
    crps,
    sparsification,
)

Float64 = NDArray[np.float64]
N = 100_000


def drawn(n: int = N, seed: int = 0, spread: float = 1.0) -> tuple[Float64, Float64, Float64, NDArray[np.str_]]:
    """Heights drawn from N(mu, (spread·sigma)²): height, mu, sigma, scene (n,)."""
    random = np.random.default_rng(seed)
    mu, sigma = random.uniform(60, 250, n), np.exp(random.normal(2, 0.5, n))
    scene = np.array([f"scene {i % 50}" for i in range(n)])
    return mu + spread * sigma * random.standard_normal(n), mu, sigma, scene


def uncertainty(height: Float64, mu: Float64, sigma: Float64, scene: NDArray[np.str_]) -> Uncertainty:
    return Uncertainty.of(height, Forecast.gaussian(mu, sigma), scene)


def constant(height: Float64, mu: Float64, scene: NDArray[np.str_]) -> Uncertainty:
    return Uncertainty.of(height, Forecast.gaussian(mu, mu).constant(height), scene)


@given(st.floats(-200, 200), st.floats(-200, 200), st.floats(0.5, 60))
def test_crps_is_the_integral_of_the_squared_distance_of_distributions(height: float, mu: float, sigma: float) -> None:
    def integral(low: float, high: float, step: bool) -> float:
        x = np.linspace(low, high, 20_001)
        normal = NormalDist(mu, sigma)
        squared = np.array([(normal.cdf(at) - step) ** 2 for at in x[::20]])
        return float(np.trapezoid(squared, x[::20]))

    reach = 9 * sigma
    expected = integral(min(mu - reach, height), height, False) + integral(height, max(mu + reach, height), True)
    assert crps(np.array([height]), np.array([mu]), np.array([sigma])).item() == pytest.approx(expected, rel=1e-3)


def test_crps_of_a_forecast_without_spread_is_its_absolute_error() -> None:
    np.testing.assert_allclose(crps(np.array([50.0]), np.array([57.0]), np.array([1e-9])), 7.0)


def test_a_true_gaussian_meets_its_analytic_scores() -> None:
    height, mu, sigma, scene = drawn()
    told = uncertainty(height, mu, sigma, scene)
    assert told.nll == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + np.log(sigma).mean(), abs=0.01)
    assert told.crps == pytest.approx(sigma.mean() / math.sqrt(math.pi), rel=0.01)
    for level in LEVELS:
        assert told.coverage[level] == pytest.approx(level, abs=0.005)
        assert told.scene_coverage[level] == pytest.approx(level, abs=0.005)
        assert told.width[level] == pytest.approx(2 * NormalDist().inv_cdf((1 + level) / 2) * sigma.mean(), rel=1e-9)
    assert told.calibration_error < 0.02
    assert told.beats(constant(height, mu, scene))


def test_the_bar_is_the_best_constant_and_its_sigma_knows_no_errors() -> None:
    height, mu, sigma, scene = drawn()
    bar, rmse = constant(height, mu, scene), math.sqrt(np.mean((height - mu) ** 2))
    assert bar.nll == pytest.approx(0.5 * math.log(2 * math.pi * math.e) + math.log(rmse), abs=1e-9)
    assert bar.width[0.9] == pytest.approx(2 * 1.6449 * rmse, rel=1e-3)
    assert bar.calibration_error == pytest.approx(0, abs=1e-9)  # it is right on average, and that is all
    assert bar.ause > 2 * uncertainty(height, mu, sigma, scene).ause
    assert not bar.beats(bar)


@pytest.mark.parametrize("n", [150, 1000])
def test_what_chance_makes_of_an_honest_sigmas_calibration_error(n: int) -> None:
    found = [uncertainty(*drawn(n, seed)).calibration_error for seed in range(100)]
    assert np.mean(found) == pytest.approx(1.8 / math.sqrt(n), rel=0.06)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_miscalibrated_forecast_is_caught(spread: float) -> None:
    height, mu, sigma, scene = drawn(spread=spread)  # σ is stated as 1/spread of what it is
    told, honest = uncertainty(height, mu, sigma, scene), uncertainty(height, mu, spread * sigma, scene)
    assert told.calibration_error == pytest.approx(abs(1 - spread), rel=0.05)
    for level in LEVELS:
        reached = NormalDist().inv_cdf((1 + level) / 2) / spread
        assert told.coverage[level] == pytest.approx(2 * NormalDist().cdf(reached) - 1, abs=0.005)
    expected = 0.5 * spread**2 - 0.5 - math.log(spread)  # Kullback and Leibler's divergence
    assert told.nll - honest.nll == pytest.approx(expected, rel=0.05)
    assert told.crps > honest.crps
    assert told.ause == pytest.approx(honest.ause)  # the order of σ is right all the same


def test_a_biased_forecast_is_caught() -> None:
    height, mu, sigma, scene = drawn()
    biased, honest = uncertainty(height, mu + sigma, sigma, scene), uncertainty(height, mu, sigma, scene)
    assert biased.nll - honest.nll == pytest.approx(0.5, rel=0.05)
    assert biased.coverage[0.9] < 0.8
    assert biased.calibration_error == pytest.approx(math.sqrt(2) - 1, rel=0.05)


def test_sparsification_of_equal_sigmas_has_the_oracle_of_a_truncated_normal() -> None:
    error = np.random.default_rng(1).standard_normal(N)
    curve, oracle = sparsification(error, np.zeros(N), np.ones(N))
    np.testing.assert_allclose(curve, math.sqrt(np.mean(error**2)))  # flat: equals may go in any order
    for removed, rmse in zip(REMOVED, oracle, strict=True):
        z = NormalDist().inv_cdf(1 - removed / 2) if removed else math.inf
        variance = 1 - 2 * z * NormalDist().pdf(z) / (1 - removed) if removed else 1.0
        assert rmse == pytest.approx(math.sqrt(variance), rel=0.02)


def test_a_sigma_that_knows_the_errors_is_the_oracle_and_one_that_knows_them_backwards_is_worse_than_none() -> None:
    height, mu, _, scene = drawn(2000)
    error = np.abs(height - mu)
    wise, foolish = uncertainty(height, mu, error, scene), uncertainty(height, mu, 1 / error, scene)
    assert wise.ause == pytest.approx(0, abs=1e-9)
    assert foolish.ause > constant(height, mu, scene).ause > 0.2


def test_the_area_between_two_sigmas_is_done_by_hand() -> None:
    # half of the errors are 3, half are 1: the RMSE falls until the threes are gone
    height = np.where(np.arange(4000) < 2000, 3.0, 1.0)
    curve, oracle = sparsification(height, np.zeros(4000), height)
    np.testing.assert_allclose(curve, oracle)
    n = 4000 - 200 * np.arange(20)
    np.testing.assert_allclose(curve, np.sqrt((2000 * 1 + np.maximum(n - 2000, 0) * 9) / np.maximum(n, 2000)).clip(1))
    flat = np.full(20, curve[0])
    assert area_between(flat, oracle) == pytest.approx(float(np.mean(1 - oracle / math.sqrt(5))))


def test_coverage_of_a_case_done_by_hand() -> None:
    height, low, high = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4), np.array([1.0, 1.5, 3.0, 5.5])
    assert coverage_and_width(height, (low, high)) == (0.75, 2.75)
    scene = np.array(["b", "a", "a", "b"])
    assert coverage_by_scene(height, (low, high), scene).tolist() == [0.5, 1.0]


def test_scenes_have_one_vote_each() -> None:
    height = np.zeros(10)
    forecast = Forecast(height, np.ones(10), {0.9: (np.where(np.arange(10) < 9, -1.0, 1.0), np.full(10, 2.0))})
    told = Uncertainty.of(height, forecast, np.array(["big"] * 9 + ["small"]))
    assert (told.coverage[0.9], told.scene_coverage[0.9]) == (0.9, 0.5)


def test_an_interval_that_could_not_be_promised_covers_all_and_is_infinitely_wide() -> None:
    height, mu, sigma, scene = drawn(100)
    told = Uncertainty.of(height, Forecast(mu, sigma, {0.95: (np.zeros(100), np.full(100, math.inf))}), scene)
    assert (told.coverage[0.95], told.width[0.95]) == (1.0, math.inf)


def test_one_sample_and_equal_sigmas_have_finite_scores() -> None:
    one = uncertainty(np.array([50.0]), np.array([52.0]), np.array([2.0]), np.array(["a"]))
    assert np.isfinite([one.nll, one.crps, one.calibration_error, one.ause]).all()
    assert calibration_error(np.array([1.0, -1.0, 1.0]), np.zeros(3), np.full(3, 2.0)) == 0.5


@given(st.lists(st.floats(1, 400), min_size=1, max_size=50))
def test_each_height_is_in_one_bin(heights: list[float]) -> None:
    parts = bins(np.array(heights), (60.0, 80.0, 130.0), "m")
    assert (np.sum([mask for _, mask in parts], axis=0) == 1).all()
    assert {name for name, _ in parts} <= {"under 60 m", "60–80 m", "80–130 m", "from 130 m"}
