"""The uncertainty section of the report: its numbers are recomputed, and its sentences follow the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.calibration import Calibration
from tests.reported import Page, evaluate, predict, sample_table, write
from tests.test_calibrate import simulate
from train.report.figures import bins
from train.report.findings import coverage
from train.scores.calibrate import calibrate, cross_calibrate, fit_calibration
from train.scores.evaluation import Part
from train.scores.metrics import CALIBRATED, NETWORK, POOLED
from train.scores.predictions import Predictions
from train.scores.uncertainty import LEVELS

CONSTANT = "network, with a constant σ"


def part_of(predictions: Predictions) -> Part:
    """The scored group of `predictions`."""
    return evaluate(predictions).groups[0]


def account_of(predictions: Predictions) -> str:
    return " ".join(coverage(part_of(predictions)))


@pytest.fixture(scope="module")
def development() -> Predictions:
    return replace(cross_calibrate(simulate(12, seed=1), by_scene=True), name="development", optimistic=True)


@pytest.fixture(scope="module")
def validation() -> Predictions:
    raw = simulate(20, seed=2)
    seen = np.isin(raw.table.scene, np.unique(raw.table.scene)[:15])
    return replace(calibrate(fit_calibration(simulate(12, seed=1)), raw, by_scene=True), name="validation", seen=seen)


def test_the_page_has_each_forecast_and_a_constant(tmp_path: Path, validation: Predictions) -> None:
    unseen = replace(validation, seen=np.zeros(len(validation), bool))
    page = Page(write(tmp_path / "report.html", unseen))
    start = next(i for i, row in enumerate(page.rows) if row[0] == "Forecast")
    rows = page.rows[start + 1 : start + 5]
    assert [row[0] for row in rows] == [NETWORK, CALIBRATED, POOLED, CONSTANT]
    forecast = validation.calibrated
    assert forecast is not None
    normal = torch.distributions.Normal(torch.from_numpy(forecast.mu), torch.from_numpy(forecast.sigma))
    height, (low, high) = validation.table.height, forecast.intervals[0.9]
    inside = (low <= height) & (height <= high)
    by_scene = np.mean([inside[validation.table.scene == name].mean() for name in np.unique(validation.table.scene)])
    nll = -normal.log_prob(torch.from_numpy(height)).mean().item()
    assert rows[1][1] == f"{nll:.2f}"
    assert rows[1][3:] == [f"{by_scene:.0%}", f"{np.mean(high - low):.1f}"]


def test_the_page_has_five_figures_of_the_unseen_scenes(
    tmp_path: Path, validation: Predictions, development: Predictions
) -> None:
    captions = Page(write(tmp_path / "report.html", validation, development)).captions
    for start in (
        *("Reliability", "Coverage by scene"),
        *("RMSE by true height", "RMSE by polyline length", "RMSE by polylines in the scene", "RMSE by sensor"),
    ):
        assert len([caption for caption in captions if caption.startswith(start)]) == 1
    shown = evaluate(validation, development).leading
    assert shown is not None
    assert shown.group == "development"  # its 12 unseen scenes are more than the 5 of validation


def test_the_account_says_which_intervals_do_not_exist(development: Predictions) -> None:
    assert "There is no finite interval at 95%: that takes at least 19 development scenes" in account_of(development)
    raw = predict("validation", sample_table(80), noise=4.0, seen=True)
    for group in (raw, calibrate(Calibration(1.1, -2.0, 1.3), raw, by_scene=True)):  # the reference has no quantiles
        assert "nothing guarantees its level on a new scene" in account_of(group)


def test_samples_that_did_not_choose_the_epoch_lead_if_they_have_enough_scenes(
    validation: Predictions, development: Predictions
) -> None:
    unseen = replace(validation, seen=np.zeros(len(validation), bool))
    leading = evaluate(unseen, development).leading
    assert leading is not None
    assert leading.group == "validation"


def test_the_account_says_what_to_expect_on_a_new_scene(validation: Predictions) -> None:
    unseen = replace(validation, seen=np.zeros(len(validation), bool))
    assert "expect them to hold nine heights of ten" in account_of(unseen)
    assert "none was evaluated here" in account_of(replace(unseen, seen=~unseen.seen))
    few = unseen.select(np.isin(unseen.table.scene, np.unique(unseen.table.scene)[:9]))
    assert "9 scenes are too few to check the level" in account_of(few)
    raw = simulate(20, seed=2)
    overconfident = replace(raw, sigma=raw.sigma / 4, name="validation", optimistic=True)
    text = account_of(calibrate(fit_calibration(simulate(12, seed=1)), overconfident, by_scene=True))
    assert "less than their level of 90%" in text
    assert "expect them to hold" not in text


def test_groups_that_chose_the_epoch_are_marked_in_each_sentence_and_block(
    tmp_path: Path, validation: Predictions, development: Predictions
) -> None:
    page = Page(
        write(tmp_path / "report.html", replace(validation, optimistic=True), replace(development, optimistic=False))
    )
    for sentence in (
        "samples of 12 scenes not seen in training the network is off by",
        "On development, σ is",
    ):
        assert sentence in page.text
    chosen = replace(validation, optimistic=True, seen=np.zeros(len(validation), bool))
    alone = Page(write(tmp_path / "alone.html", chosen)).text
    assert "never seen before, except that the best epoch was chosen on them." in alone
    optimistic = [row[0] for row in page.rows if "(optimistic)" in row[0]]
    assert len(optimistic) == 3, "all of it, its seen and its unseen scenes"
    assert all("validation" in name for name in optimistic)


def test_intervals_of_a_higher_level_hold_more_heights(validation: Predictions) -> None:
    for part in evaluate(validation).parts:
        for name, both in part.uncertainty.items():
            for scores in both:
                assert sorted(scores.coverage.values()) == list(scores.coverage.values()), name
                assert list(scores.coverage) == list(LEVELS)


@given(st.lists(st.floats(1, 400), min_size=1, max_size=50))
def test_each_height_is_in_one_bin(heights: list[float]) -> None:
    parts = bins(np.array(heights), (60.0, 80.0, 130.0), "m")
    assert (np.sum([mask for _, mask in parts], axis=0) == 1).all()
    assert {name for name, _ in parts} <= {"under 60 m", "60–80 m", "80–130 m", "from 130 m"}
