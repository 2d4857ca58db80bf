"""The picture of the README shows what predictions.csv says."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import picture
from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from train.scores.predictions import Predictions, write_predictions
from train.scores.uncertainty import LEVEL, Forecast


@pytest.fixture
def run(release: Path, tmp_path: Path) -> Path:
    """A run folder whose predictions are off by 1 m, 2 m, 3 m, …; every other scene was seen in training."""
    table = SampleTable.from_release(release, "validation")
    sigma = np.full(len(table), 5.0)
    mu = table.height + 1 + np.arange(len(table))
    calibrated = Forecast(mu, sigma, {LEVEL: (mu - 9, mu + 9)}, conformal=True)
    seen = np.unique(table.scene, return_inverse=True)[1] % 2 == 0
    predictions = Predictions("validation", "", table, mu, sigma, seen, calibrated=calibrated)
    write_predictions(tmp_path / "predictions.csv", [predictions])
    return tmp_path


def test_the_sample_is_unseen_and_has_the_median_error(run: Path) -> None:
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["scene_seen"] == "false"]
    errors = sorted(abs(float(row["mu_m"]) - float(row["height_m"])) for row in rows)
    sample = picture.typical(run)
    assert not sample.seen
    assert sample.mu - sample.height == pytest.approx(errors[len(errors) // 2], abs=1e-3)
    assert (sample.mu - sample.low, sample.high - sample.mu) == pytest.approx((9, 9), abs=1e-3)


def test_the_picture_fits_a_page(release: Path, run: Path) -> None:
    picture.main([str(release), str(run), "--out", str(run / "tile.png")])
    assert Image.open(run / "tile.png").size == (1000, 460)
    assert (run / "tile.png").stat().st_size < 150_000


def test_a_run_without_intervals_is_refused(run: Path) -> None:
    text = (run / "predictions.csv").read_text("utf-8")
    (run / "predictions.csv").write_text(text.replace("validation", "development"), "utf-8")
    with pytest.raises(InputError, match="expected calibrated intervals"):
        picture.typical(run)


def test_a_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run"):
        picture.typical(tmp_path)
