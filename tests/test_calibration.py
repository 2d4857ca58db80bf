"""A calibration is applied, written and read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.calibration import Calibration
from train.run.folder import save_checkpoint

FITTED = Calibration(
    a=1.1,
    b=-3.0,
    tau=1.5,
    quantiles={0.5: 0.7, 0.9: 1.8},
    within_tile=0.8,
    between=0.25,
    weighting=0.5,
    centre=0.4,
    reliability=0.8,
    scenes=14,
)


def test_the_mean_is_corrected_and_sigma_is_scaled() -> None:
    mu, sigma = FITTED([100.0, 50.0], [10.0, 5.0])
    np.testing.assert_allclose(mu, [107.0, 52.0])
    np.testing.assert_allclose(sigma, [16.5, 8.25])
    mirrored = Calibration(a=-1.0)([100.0], [10.0])
    assert (mirrored[0].item(), mirrored[1].item()) == (-100.0, 10.0)  # a deviation has no sign


def test_the_default_changes_nothing_and_has_no_intervals() -> None:
    mu, sigma = Calibration()([100.0], [10.0])
    assert (mu.item(), sigma.item()) == (100.0, 10.0)
    with pytest.raises(ValueError, match=r"expected a level that was fitted \(none\), found 0\.9"):
        Calibration().interval(mu, sigma, 0.9)


def test_an_interval_is_a_quantile_of_sigmas_and_never_below_zero() -> None:
    low, high = FITTED.interval([100.0, 10.0], [10.0, 10.0], 0.9)
    np.testing.assert_allclose(low, [82.0, 0.0])
    np.testing.assert_allclose(high, [118.0, 28.0])


def test_pooled_predictions_have_their_own_quantiles_which_may_be_infinite() -> None:
    calibration = Calibration(quantiles={0.9: 2.0}, pooled_quantiles={0.9: math.inf})
    assert calibration.interval([50.0], [1.0], 0.9)[1].item() == 52.0
    low, high = calibration.interval([50.0], [1.0], 0.9, pooled=True)
    assert (low.item(), high.item()) == (0.0, math.inf)


def test_a_calibration_survives_a_checkpoint_and_json(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"model": {}, "stats": (0.2, 0.1, 109.0, 49.0), "calib": FITTED.to_dict()})
    assert Calibration.from_dict(torch.load(path, weights_only=True)["calib"]) == FITTED
    assert Calibration.from_dict(json.loads(json.dumps(FITTED.to_dict()))) == FITTED  # JSON keys are text


def test_the_three_numbers_of_the_reference_are_enough() -> None:
    assert Calibration.from_dict({"a": 1.01, "b": -0.7, "tau": 1.2}) == Calibration(1.01, -0.7, 1.2)


def test_without_a_share_within_tiles_the_polylines_of_a_tile_count_as_one() -> None:
    values = {name: value for name, value in FITTED.to_dict().items() if name != "within_tile"}
    assert Calibration.from_dict(values).shares == (1.0, 0.25)


@pytest.mark.parametrize(
    "values",
    [
        {"a": 0.0, "b": 0.0, "tau": 1.0},
        {"a": 1.0, "b": math.nan, "tau": 1.0},
        {"a": 1.0, "b": 0.0, "tau": -1.0},
        {"between": 1.5},
        {"weighting": -0.1},
        {"reliability": 0.0},
        {"reliability": 1.1},
        {"centre": math.inf},
        {"within_tile": -0.1},
        {"within_tile": math.nan},
        {"quantiles": {0.9: -1.0}},
        {"quantiles": {0.9: math.nan}},
        {"quantiles": {9.0: 1.0}},
        {"quantiles": 3},
        {"a": "much"},
    ],
)
def test_an_invalid_calibration_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Calibration.from_dict(values)
