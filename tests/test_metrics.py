"""Scores and baselines against torch, the standard library, numpy's own fits and the algebra of means."""

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
    CLOSED_FORM,
    LINEAR,
    MEAN,
    NETWORK,
    Baselines,
    Line,
    bootstrap_rmse,
    constant_sigma_nll,
    coverage,
    rows,
    score,
)

Float64 = NDArray[np.float64]

metres = st.floats(-500, 500, width=32)
pairs = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=metres)


def samples(n: int = 200, seed: int = 0) -> tuple[Float64, Float64, Float64]:
    """Heights, predictions and sigmas as a trained model has them, (n,) metres."""
    random = np.random.default_rng(seed)
    height, sigma = random.uniform(40, 298, n), random.uniform(1, 9, n)
    return height, height + sigma * random.standard_normal(n), sigma


def test_nll_is_that_of_torchs_normal_distribution() -> None:
    height, mu, sigma = samples()
    normal = torch.distributions.Normal(torch.from_numpy(mu), torch.from_numpy(sigma))
    expected = -normal.log_prob(torch.from_numpy(height)).mean().item()
    assert score(height, mu, sigma).nll == pytest.approx(expected, rel=1e-12)


def test_nll_of_one_sample_is_that_of_the_standard_librarys_normal() -> None:
    assert score([62.41], [60.0], [3.5]).nll == pytest.approx(-math.log(NormalDist(60.0, 3.5).pdf(62.41)))


def test_scores_of_a_case_done_by_hand() -> None:
    scores = score([100.0, 50.0], [103.0, 49.0])
    assert (scores.n, scores.rmse, scores.mae, scores.bias) == (2, math.sqrt(5), 2.0, 1.0)
    assert math.isnan(scores.nll)


def test_no_samples_have_no_scores() -> None:
    scores = score([], [], [])
    assert scores.n == 0
    assert all(math.isnan(value) for value in (scores.rmse, scores.mae, scores.bias, scores.nll))


@given(pairs, metres)
def test_shifting_all_predictions_moves_the_bias_by_as_much(pair: Float64, shift: float) -> None:
    height, mu = pair.T
    assert score(height, mu + shift).bias == pytest.approx(score(height, mu).bias + shift, abs=1e-9)


@given(pairs)
def test_mean_square_is_bias_squared_plus_variance(pair: Float64) -> None:
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
    np.testing.assert_allclose((one.rmse, one.mae, one.bias, one.nll), (other.rmse, other.mae, other.bias, other.nll))


def test_the_constant_sigma_nll_is_the_least_that_any_constant_reaches() -> None:
    height, mu, _ = samples()
    rmse = score(height, mu).rmse
    assert constant_sigma_nll(rmse) == pytest.approx(score(height, mu, np.full_like(mu, rmse)).nll)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert score(height, mu, np.full_like(mu, factor * rmse)).nll > constant_sigma_nll(rmse)


def test_the_constant_sigma_nll_reproduces_the_references_published_bar() -> None:
    # RMSE 4.098 m on heights with a standard deviation of 49 m, without the ½ln2π: −1.97 or −1.98 by rounding
    assert constant_sigma_nll(4.098 / 49) - 0.5 * math.log(2 * math.pi) == pytest.approx(-1.97, abs=0.02)


def test_a_calibrated_model_covers_as_a_gaussian_does() -> None:
    height, mu, sigma = samples(20_000)
    for sigmas in (1, 2):
        expected = NormalDist().cdf(sigmas) - NormalDist().cdf(-sigmas)
        assert coverage(height, mu, sigma, sigmas) == pytest.approx(expected, abs=0.01)


def test_the_linear_baseline_is_numpys_least_squares() -> None:
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


def test_baselines_whose_training_samples_say_nothing_of_the_length_are_flat() -> None:
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


def grouped(seen: list[bool], closed_form: list[float]) -> list[tuple[str, str, int, int, str, float]]:
    """The rows of four samples of three scenes, told as (part, predictor, n, scenes, seen, rmse)."""
    table = rows(
        "validation",
        height=np.array([50.0, 60.0, 70.0, 80.0]),
        length=np.array([1.0, 2.0, 3.0, 4.0]),
        scene=np.array(["a", "a", "b", "c"]),
        seen=np.array(seen),
        network={NETWORK: (np.array([51.0, 61.0, 72.0, 83.0]), np.ones(4))},
        closed_form=np.array(closed_form),
        baselines=Baselines(mean=Line(65.0, 0.0, 9.0), linear=Line(40.0, 10.0, 2.0)),
    )
    assert {row.group for row in table} == {"validation"}
    assert [row.metadata for row in table] == [row.predictor == CLOSED_FORM for row in table]
    return [(row.part, row.predictor, row.n, row.scenes, row.seen, row.scores.rmse) for row in table]


def test_a_group_of_seen_scenes_has_four_rows_on_the_same_samples() -> None:
    assert grouped([True] * 4, [50.0, 60.0, 70.0, 84.0]) == [
        ("all", NETWORK, 4, 3, "all", math.sqrt(15 / 4)),
        ("all", LINEAR, 4, 3, "all", 0.0),
        ("all", MEAN, 4, 3, "all", math.sqrt(125)),
        ("all", CLOSED_FORM, 4, 3, "all", 2.0),
    ]


def test_a_mixed_group_is_also_told_apart() -> None:
    table = grouped([True, True, False, False], [50.0, 60.0, 70.0, 80.0])
    assert [row[:5] for row in table if row[1] == NETWORK] == [
        ("all", NETWORK, 4, 3, "33%"),
        ("seen", NETWORK, 2, 1, "all"),
        ("unseen", NETWORK, 2, 2, "none"),
    ]
    assert [row[5] for row in table if row[1] == NETWORK] == [math.sqrt(15 / 4), 1.0, math.sqrt(13 / 2)]


def test_the_closed_form_is_scored_only_where_there_are_metadata() -> None:
    nan = math.nan
    assert grouped([False] * 4, [nan, 61.0, math.inf, nan])[3] == ("all", CLOSED_FORM, 1, 1, "none", 1.0)
    part, predictor, n, scenes, seen, rmse = grouped([False] * 4, [nan] * 4)[3]
    assert (part, predictor, n, scenes, seen) == ("all", CLOSED_FORM, 0, 0, "")
    assert math.isnan(rmse)


def test_rows_become_json_without_nan() -> None:
    height, mu, sigma = samples(3)
    table = rows(
        "validation",
        height=height,
        length=mu,
        scene=np.array(["a", "b", "c"]),
        seen=np.zeros(3, bool),
        network={NETWORK: (mu, sigma)},
        closed_form=np.full(3, np.nan),
        baselines=Baselines.fit(mu, height),
    )
    written = json.loads(json.dumps([row.to_dict() for row in table], allow_nan=False))
    assert written[0]["rmse"] == score(height, mu).rmse
    assert written[3]["n"] == 0
    assert written[3]["rmse"] is None


def test_the_bootstrap_draws_whole_scenes() -> None:
    # two scenes, one perfect and one off by 2 m: a resampling has the bad one never, once or twice in two
    draws = bootstrap_rmse(np.zeros(6), np.array([0, 0, 0, 2, 2, 2.0]), np.array(["a"] * 3 + ["b"] * 3))
    values, counts = np.unique(draws, return_counts=True)
    np.testing.assert_allclose(values, (0, math.sqrt(2), 2))
    np.testing.assert_allclose(counts / len(draws), (0.25, 0.5, 0.25), atol=0.04)


def test_the_bootstrap_spreads_as_theory_says() -> None:
    # with one sample a scene the variance of the mean square is var(error²)/n, and the delta method gives rmse's
    random = np.random.default_rng(1)
    error = random.standard_normal(400)
    spread = bootstrap_rmse(np.zeros(400), error, np.array([str(i) for i in range(400)])).std()
    rmse = math.sqrt(np.mean(error**2))
    assert spread == pytest.approx(np.std(error**2) / math.sqrt(400) / (2 * rmse), rel=0.1)
