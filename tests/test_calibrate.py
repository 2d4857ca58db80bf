"""Calibrations fitted on simulated scenes equal numpy's fits, and their intervals hold their level on new scenes."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dali_pipes.geometry import polyline_length_px
from model.calibration import Calibration
from tests.reported import sample_table
from tests.test_training import SMALL, Quiet
from train import evaluate
from train.__main__ import run
from train.scores.calibrate import calibrate, conformal_quantile, cross_calibrate, fit_calibration, fit_mean_line
from train.scores.metrics import CALIBRATED, NETWORK, POOLED, score
from train.scores.predictions import Predictions
from train.scores.uncertainty import LEVELS, UncertaintyScores

Float64 = NDArray[np.float64]


def simulate(scenes: int, seed: int, samples: int = 400, common: float = 0.1, own: float = 0.1) -> Predictions:
    """A network whose log scale has an error of N(0, common²) for each scene and one of N(0, own²) for each polyline.

    Its sigma is half of its errors' deviation, and its heights are 5 m too low, then 10 % too high.
    """
    random = np.random.default_rng(seed)
    table = sample_table(samples, scenes=scenes, seed=seed)
    length = polyline_length_px(table.polyline)
    table = table.select(length > 10)
    length = length[length > 10]
    _, group = np.unique(table.scene, return_inverse=True)
    log_scale = random.normal(0.4, 0.3, scenes)[group]
    spread = math.hypot(common, own)
    error = random.normal(0, common, scenes)[group] + random.normal(0, own, len(length)) - spread**2 / 2
    table = replace(table, height=length * np.exp(log_scale))
    mu = table.height * np.exp(error)
    return Predictions("simulated", "", table, 1.1 * (mu - 5), mu * spread / 2, np.zeros(len(mu), bool))


def test_the_mean_line_equals_numpys_weighted_least_squares() -> None:
    raw = simulate(20, seed=0)
    height = raw.table.height
    a, b = fit_mean_line(height, raw.mu, raw.sigma)
    assert (a, b) == pytest.approx(tuple(np.polyfit(raw.mu, height, 1, w=1 / raw.sigma)))
    assert a == pytest.approx(1 / 1.1, rel=0.15)


@pytest.mark.parametrize(
    ("shift", "factor", "lowest", "highest"), [(0, 1.0, 0, 8), (10, 1.0, 19, 20), (0, 1.2, 19, 20)]
)
def test_the_mean_is_corrected_if_it_is_biased_and_mostly_left_alone_if_not(
    shift: float, factor: float, lowest: int, highest: int
) -> None:
    corrected = 0
    for seed in range(20):
        raw = simulate(16, seed=seed, samples=160)
        calibration = fit_calibration(replace(raw, mu=factor * (raw.mu / 1.1 + 5 + shift)))
        corrected += (calibration.a, calibration.b) != (1, 0)
    assert lowest <= corrected <= highest


def test_the_temperature_is_fitted_to_each_scenes_errors_from_the_line_of_the_other_scenes() -> None:
    raw = simulate(20, seed=0)
    off = np.empty(len(raw))
    for name in np.unique(raw.table.scene):
        this = raw.table.scene == name
        line = np.polyfit(raw.mu[~this], raw.table.height[~this], 1, w=1 / raw.sigma[~this])
        off[this] = raw.table.height[this] - np.polyval(line, raw.mu[this])
    calibration = fit_calibration(raw)
    assert np.mean((off / (calibration.tau * calibration.a * raw.sigma)) ** 2) == pytest.approx(1)
    assert calibration.tau == pytest.approx(2.2, rel=0.15)


def test_a_forecast_calibrated_on_few_scenes_is_not_overconfident() -> None:
    """With a fit to in-sample errors, these would be 1.39 and 2.08."""
    square: dict[str, list[float]] = {CALIBRATED: [], POOLED: []}
    for seed in range(60):
        calibration = fit_calibration(simulate(8, seed=seed, samples=160))
        unseen = calibrate(calibration, simulate(40, seed=1000 + seed, samples=400), by_scene=True)
        for name, mean in square.items():
            forecast = unseen.forecasts()[name]
            mean.append(float(np.mean(((unseen.table.height - forecast.mu) / forecast.sigma) ** 2)))
    assert np.mean(square[CALIBRATED]) < 1.28
    assert np.mean(square[POOLED]) < 1.75


@pytest.mark.parametrize(("height", "mu"), [([50.0, 60.0], [70.0, 70.0]), ([50.0, 60.0], [60.0, 50.0]), ([9.0], [9.0])])
def test_the_mean_is_only_shifted_if_no_line_fits(height: list[float], mu: list[float]) -> None:
    a, b = fit_mean_line(np.array(height), np.array(mu), np.ones(len(mu)))
    assert a == 1
    assert b == pytest.approx(np.mean(height) - np.mean(mu))


def test_each_scene_has_one_vote_and_the_new_scene_an_infinite_score() -> None:
    scores, scene = np.array([1.0, 2.0, 3.0, 9.0]), np.array(["a", "a", "a", "b"])
    # weights 1/9, 1/9, 1/9 and 1/3; the last third is infinite
    assert conformal_quantile(scores, scene, 0.1) == 1
    assert conformal_quantile(scores, scene, 0.2) == 2
    assert conformal_quantile(scores, scene, 1 / 3) == 3
    assert conformal_quantile(scores, scene, 0.34) == 9
    assert conformal_quantile(scores, scene, 2 / 3) == 9
    assert conformal_quantile(scores, scene, 0.67) == math.inf


@given(st.lists(st.floats(0, 9), min_size=1, max_size=60), st.sampled_from(LEVELS))
def test_with_one_sample_a_scene_the_quantile_is_the_usual_conformal_one(scores: list[float], level: float) -> None:
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    expected = sorted(scores)[rank - 1] if rank <= len(scores) else math.inf
    assert conformal_quantile(np.array(scores), np.array([str(i) for i in range(len(scores))]), level) == expected


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_the_level_holds_on_new_scenes_but_not_with_the_quantile_over_all_samples(level: float) -> None:
    random = np.random.default_rng(1)
    repetitions, scenes = 1500, 12
    ours, naive = np.empty(repetitions), np.empty(repetitions)
    for i in range(repetitions):
        counts = random.geometric(0.1, scenes)
        scene = np.repeat([f"{k:02}" for k in range(scenes)], counts)
        common = random.normal(0, 1, scenes + 1)
        scores = np.abs(np.repeat(common[:-1], counts) + random.normal(0, 0.5, counts.sum()))
        new = np.abs(common[-1] + random.normal(0, 0.5, 30))
        ours[i] = np.mean(new <= conformal_quantile(scores, scene, level))
        naive[i] = np.mean(new <= np.quantile(scores, level))
    error = ours.std() / math.sqrt(repetitions)
    assert ours.mean() >= level - 2 * error
    assert naive.mean() < level - 4 * error


def test_a_calibration_is_right_on_scenes_that_it_was_not_fitted_on() -> None:
    calibration = fit_calibration(simulate(100, seed=2, samples=1000))
    unseen = calibrate(calibration, simulate(300, seed=3, samples=3000), by_scene=True)
    scores = {
        name: UncertaintyScores.of(unseen.table.height, forecast, unseen.table.scene)
        for name, forecast in unseen.forecasts().items()
    }
    assert list(scores) == [NETWORK, CALIBRATED, POOLED]
    assert calibration.between == pytest.approx(0.5, abs=0.15)
    for name in (CALIBRATED, POOLED):
        for level in LEVELS:
            assert scores[name].scene_coverage[level] == pytest.approx(
                level, abs=0.12
            )  # two standard errors of 100 scenes
        forecast = unseen.forecasts()[name].constant(unseen.table.height)
        constant = UncertaintyScores.of(unseen.table.height, forecast, unseen.table.scene)
        assert scores[name].nll < constant.nll
        assert scores[name].crps < constant.crps
    assert scores[NETWORK].coverage[0.9] < 0.7
    assert scores[CALIBRATED].nll < scores[NETWORK].nll
    assert scores[POOLED].crps < scores[CALIBRATED].crps
    rmse = {name: score(unseen.table.height, forecast.mu).rmse for name, forecast in unseen.forecasts().items()}
    assert rmse[POOLED] < 0.9 * rmse[CALIBRATED] < 0.9 * rmse[NETWORK]


def test_estimates_that_are_drawn_to_the_mean_are_pooled_as_such() -> None:
    """The network predicts the posterior of the log scale, whose prior over scenes is N(0.4, 0.3²)."""
    prior, spread = 0.09, 2 * 0.12**2
    reliability = prior / (prior + spread)

    def posterior(scenes: int, seed: int) -> Predictions:
        raw = simulate(scenes, seed, 6 * scenes, common=0.12, own=0.12)
        length = polyline_length_px(raw.table.polyline)
        seen = np.log((raw.mu / 1.1 + 5) / length) + spread / 2  # the true log scale plus an error
        variance = prior * (1 - reliability)
        mu = length * np.exp(0.4 + reliability * (seen - 0.4) + variance / 2)
        return replace(raw, mu=mu, sigma=mu * np.sqrt(np.expm1(variance)))

    calibration, unseen = fit_calibration(posterior(60, seed=6)), posterior(400, seed=7)
    assert calibration.reliability == pytest.approx(reliability, abs=0.08)
    assert calibration.centre == pytest.approx(0.4, abs=0.12)
    square = {}
    for name, fitted in {"prior": calibration, "flat": replace(calibration, reliability=1.0)}.items():
        pooled = calibrate(fitted, unseen, by_scene=True).pooled
        assert pooled is not None
        error = np.log(pooled.mu / unseen.table.height)
        square[name] = float(np.mean(error**2))
    assert square["prior"] < 0.97 * square["flat"]


def test_each_development_scene_is_calibrated_only_by_the_others() -> None:
    raw = simulate(12, seed=4)
    here = raw.table.scene == raw.table.scene[0]
    original = cross_calibrate(raw, by_scene=True)
    height = np.where(here, 5 * raw.table.height, raw.table.height)  # the true heights of this scene must not matter
    changed = cross_calibrate(replace(raw, table=replace(raw.table, height=height)), by_scene=True)
    for one, other in zip(original.forecasts().values(), changed.forecasts().values(), strict=True):
        np.testing.assert_array_equal(one.mu[here], other.mu[here])
        np.testing.assert_array_equal(one.sigma[here], other.sigma[here])
    assert original.calibrated is not None
    assert changed.calibrated is not None
    assert (original.calibrated.sigma[~here] != changed.calibrated.sigma[~here]).all()


def test_few_scenes_allow_no_high_level_and_too_few_are_refused() -> None:
    calibration = fit_calibration(simulate(10, seed=5))
    assert [math.isfinite(calibration.quantiles[level]) for level in LEVELS] == [True, True, True, False]
    with pytest.raises(ValueError, match="at least 5 development scenes to calibrate on, found 4"):
        fit_calibration(simulate(4, seed=5))


def test_a_run_keeps_its_calibration_and_an_evaluation_uses_it(release: Path, tmp_path: Path) -> None:
    config = replace(SMALL, epochs=1, data=replace(SMALL.data, holdout=0.7))
    run(config, release, tmp_path / "run", resume=False, console=Quiet())
    kept = Calibration.from_dict(torch.load(tmp_path / "run" / "best.pt", weights_only=True)["calib"])
    assert kept.scenes >= 5
    flags = ["--checkpoint", str(tmp_path / "run" / "best.pt"), "--release", str(release), "--pool", "none"]
    evaluate.main([*flags, "--out", str(tmp_path / "again"), "--device", "cpu"])

    def read(folder: str) -> list[dict[str, str]]:
        with (tmp_path / folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    trained, again = read("run"), read("again")
    assert {row["pooled_mu_m"] for row in again} == {""}
    assert all(row["pooled_mu_m"] for row in trained)
    validation = [row for row in again if row["group"] == "validation"]
    for row in validation:
        mu, sigma = kept(float(row["mu_m"]), float(row["sigma_m"]))
        assert float(row["calibrated_mu_m"]) == pytest.approx(float(mu), abs=1e-3)
        assert float(row["calibrated_sigma_m"]) == pytest.approx(float(sigma), abs=1e-3)
    for one, other in zip(trained, again, strict=True):  # in batches of another size
        assert float(one["calibrated_mu_m"]) == pytest.approx(float(other["calibrated_mu_m"]), rel=0.05)
