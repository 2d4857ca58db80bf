"""Predictions as a CSV file and as the score table on a terminal."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.reported import evaluate, predict, sample_table
from train.run.console import score_table
from train.scores.calibrate import calibrate, fit_calibration
from train.scores.evaluation import HEADLINE, Evaluation, headline_rows
from train.scores.predictions import Predictions, write_predictions


@pytest.fixture
def official() -> Predictions:
    return predict("validation", sample_table(80, without_metadata=6), noise=4.0, seen=True)


@pytest.fixture
def unseen() -> Predictions:
    return predict("held-out scenes", sample_table(60, seed=1), noise=20.0, seen=False)


def test_the_csv_file_has_every_column_of_every_sample(
    tmp_path: Path, official: Predictions, unseen: Predictions
) -> None:
    write_predictions(tmp_path / "predictions.csv", [official, replace(unseen, optimistic=True)])
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(official) + len(unseen)
    first, last = written[0], written[-1]
    table = official.table
    assert (first["tile"], first["scene"], first["group"]) == (table.tile[0], table.scene[0], "validation")
    points = [[float(number) for number in point.split()] for point in first["polyline"].split(";")]
    assert points == table.polyline[0, :2].tolist()  # without the padding
    assert float(first["length"]) == pytest.approx(table.length[0], abs=1e-6)
    assert float(first["height_m"]) == pytest.approx(table.height[0], rel=1e-9)
    assert (float(first["mu_m"]), float(first["sigma_m"])) == pytest.approx((official.mu[0], 4.0), abs=1e-4)
    assert (first["scene_seen"], last["scene_seen"]) == ("true", "false")
    assert (first["optimistic"], last["optimistic"]) == ("false", "true")
    assert first["closed_form_m"] == ""
    table = unseen.table
    length = math.dist(table.polyline[-1, 0], table.polyline[-1, 1])
    tilt = math.hypot(math.tan(math.radians(table.roll[-1])), math.tan(math.radians(table.pitch[-1])))
    assert float(last["closed_form_m"]) == pytest.approx(length * 0.7 / tilt, abs=1e-4)


def test_predictions_of_the_wrong_length_are_refused(official: Predictions) -> None:
    with pytest.raises(ValueError, match=r"expected mu of shape \(80,\) for validation, found \(79,\)"):
        Predictions("validation", "", official.table, official.mu[1:], official.sigma, official.seen)


def test_a_narrow_terminal_cuts_no_score(official: Predictions) -> None:
    refined = calibrate(fit_calibration(official), official, by_scene=True)
    for optimistic, marks in ((True, 2), (False, 0)):
        evaluation = evaluate(replace(refined, optimistic=optimistic))
        console = Console(record=True, width=80)
        console.print(score_table(evaluation))
        printed = console.export_text()
        assert "…" not in printed
        part = evaluation.leading
        assert part is not None
        rows = part.rows
        assert [name for name in HEADLINE if name in printed] == [name for name in HEADLINE if name in rows]
        assert all(f"{rows[name].scores.rmse:.2f}" in printed for name in HEADLINE)
        assert "80 samples in 20 scenes" in printed
        assert printed.count("optimistic") == marks, "the group and the line below, or nothing"


def test_the_headline_has_the_network_its_refinements_and_two_baselines(official: Predictions) -> None:
    rows = [
        "network",
        "network, calibrated",
        "network, pooled by scene",
        "linear in length",
        "mean of training heights",
    ]
    refined = calibrate(fit_calibration(official), official, by_scene=True)
    assert [row.predictor for row in headline_rows(evaluate(refined))] == rows
    assert [row.predictor for row in headline_rows(evaluate(official))] == [rows[0], *rows[3:]]
    assert headline_rows(Evaluation((), ())) == []


def test_calibrated_and_pooled_heights_are_written_with_their_90_percent_intervals(
    tmp_path: Path, official: Predictions
) -> None:
    development = predict("development", sample_table(80, scenes=12, seed=2), noise=9.0, seen=False)
    refined = calibrate(fit_calibration(development), official, by_scene=True)
    write_predictions(tmp_path / "predictions.csv", [official, refined])
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert written[0]["calibrated_mu_m"] == written[0]["pooled_high_m"] == ""
    for name, forecast in (("calibrated", refined.calibrated), ("pooled", refined.pooled)):
        assert forecast is not None
        columns = [float(written[-1][f"{name}_{column}_m"]) for column in ("mu", "sigma", "low", "high")]
        expected = [forecast.mu[-1], forecast.sigma[-1], *(side[-1] for side in forecast.intervals[0.9])]
        assert columns == pytest.approx(expected, abs=1e-4)
