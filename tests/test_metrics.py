"""Scores and baselines agree with torch, the standard library, numpy's fits and the algebra of means."""

from __future__ import annotations

import json
import math
from random import Random
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from train.scores.metrics import (
    Baselines,
    Line,
    bootstrap_rmse,
    score,
)

Float64 = NDArray[np.float64]

metres = st.floats(-500, 500, width=32)
pairs = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=metres)


def samples(n: int = 200, seed: int = 0) -> tuple[Float64, Float64, Float64]:
    """Heights, predictions and sigmas like those of a trained model, (n,) metres."""
    random = np.random.default_rng(seed)
    height, sigma = random.uniform(40, 298, n), random.uniform(1, 9, n)
    return height, height + sigma * random.standard_normal(n), sigma


def test_the_nll_equals_that_of_torchs_normal_distribution() -> None:
    height, mu, sigma = samples()
    normal = torch.distributions.Normal(torch.from_numpy(mu), torch.from_numpy(sigma))
    expected = -normal.log_prob(torch.from_numpy(height)).mean().item()
    assert score(height, mu, sigma).nll == pytest.approx(expected, rel=1e-12)


def test_the_nll_of_one_sample_equals_that_of_the_standard_library() -> None:
    assert score([62.41], [60.0], [3.5]).nll == pytest.approx(-math.log(NormalDist(60.0, 3.5).pdf(62.41)))


def test_scores_match_a_case_computed_by_hand() -> None:
    scores = score([100.0, 50.0], [103.0, 49.0])
    assert (scores.n, scores.rmse, scores.mae, scores.bias) == (2, math.sqrt(5), 2.0, 1.0)
    assert math.isnan(scores.nll)


def test_no_samples_have_no_scores() -> None:
    scores = score([], [], [])
    assert scores.n == 0
    assert all(math.isnan(value) for value in (scores.rmse, scores.mae, scores.bias, scores.nll))


@given(pairs, metres)
def test_shifting_all_predictions_shifts_the_bias_equally(pair: Float64, shift: float) -> None:
    height, mu = pair.T
    assert score(height, mu + shift).bias == pytest.approx(score(height, mu).bias + shift, abs=1e-9)


@given(pairs)
def test_the_mean_squared_error_is_bias_squared_plus_variance(pair: Float64) -> None:
    height, mu = pair.T
    scores = score(height, mu)
    assert scores.rmse**2 == pytest.approx(scores.bias**2 + np.var(mu - height), abs=1e-6)
    assert abs(scores.bias) <= scores.mae + 1e-9 <= scores.rmse + 2e-9


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(pair: Float64, random: Random) -> None:
    order = list(range(len(pair)))
    random.shuffle(order)
    (height, mu), sigma = pair.T, 1 + np.arange(len(pair))
    one, other = score(height, mu, sigma), score(height[order], mu[order], sigma[order])
    assert one.n == other.n
    np.testing.assert_allclose(
        (one.rmse, one.mae, one.bias, one.nll), (other.rmse, other.mae, other.bias, other.nll), atol=1e-9
    )


def test_the_linear_baseline_equals_numpys_least_squares() -> None:
    height, length, _ = samples()
    baselines = Baselines.fit(length, height)
    (slope, intercept), residual, *_ = np.polyfit(length, height, 1, full=True)
    assert (baselines.linear.slope, baselines.linear.intercept) == pytest.approx((slope, intercept))
    assert baselines.linear.sigma == pytest.approx(math.sqrt(residual[0] / len(height)))
    mu, sigma = baselines.linear([0.5, 2.0])
    np.testing.assert_allclose(mu, np.polyval((slope, intercept), (0.5, 2.0)))
    np.testing.assert_array_equal(sigma, 2 * [baselines.linear.sigma])


def test_the_mean_baseline_ignores_the_length() -> None:
    mu, sigma = Baselines.fit([0.1, 0.2, 0.6], [40.0, 70.0, 100.0]).mean([0.0, 9.0])
    assert mu.tolist() == [70.0, 70.0]
    np.testing.assert_allclose(sigma, math.sqrt(600))


def test_baselines_are_flat_if_all_training_lengths_are_equal() -> None:
    baselines = Baselines.fit([0.3, 0.3], [50.0, 60.0])
    assert baselines.linear == Line(55.0, 0.0, 5.0)
    assert math.isfinite(score([50.0], *Baselines.fit([0.3], [50.0]).linear([0.3])).nll)
    with pytest.raises(ValueError, match="at least one training sample"):
        Baselines.fit([], [])


def test_baselines_survive_a_checkpoint_as_plain_floats() -> None:
    baselines = Baselines.fit(*samples()[:2])
    written = json.loads(json.dumps(baselines.to_dict()))
    assert all(type(value) is float for value in baselines.to_dict().values())
    assert Baselines.from_dict(written) == baselines


def test_the_bootstrap_draws_whole_scenes() -> None:
    # two scenes, one perfect and one off by 2 m: a resampling of two holds the bad one zero, one or two times
    draws = bootstrap_rmse(np.zeros(6), np.array([0, 0, 0, 2, 2, 2.0]), np.array(["a"] * 3 + ["b"] * 3))
    values, counts = np.unique(draws, return_counts=True)
    np.testing.assert_allclose(values, (0, math.sqrt(2), 2))
    np.testing.assert_allclose(counts / len(draws), (0.25, 0.5, 0.25), atol=0.04)


def test_the_bootstrap_spreads_as_theory_says() -> None:
    # with one sample a scene, the mean square has the variance var(error²)/n; the delta method gives the rmse's
    random = np.random.default_rng(1)
    error = random.standard_normal(400)
    spread = bootstrap_rmse(np.zeros(400), error, np.array([str(i) for i in range(400)])).std()
    rmse = math.sqrt(np.mean(error**2))
    assert spread == pytest.approx(np.std(error**2) / math.sqrt(400) / (2 * rmse), rel=0.1)
