"""What the report says and draws of uncertainty: its figures computed again, its sentences where they must differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.calibration import Calibration
from tests.reported import Page, predict, sample_table, write
from tests.test_calibrate import simulate
from train.report.uncertainty_findings import CONSTANT, account, blocks, height_blocks, telling, verdicts
from train.scores.calibrate import apply, cross_fit, fit
from train.scores.metrics import CALIBRATED, NETWORK, POOLED
from train.scores.pooling import gain
from train.scores.predictions import Predictions
from train.scores.uncertainty import LEVELS


@pytest.fixture(scope="module")
def development() -> Predictions:
    return replace(cross_fit(simulate(12, seed=1), by_scene=True), name="development", selection=True)


@pytest.fixture(scope="module")
def validation() -> Predictions:
    raw = simulate(20, seed=2)
    seen = np.isin(raw.table.scene, np.unique(raw.table.scene)[:15])
    return replace(apply(fit(simulate(12, seed=1)), raw, by_scene=True), name="validation", seen=seen)


def test_the_page_has_each_forecast_beside_its_constant_on_seen_and_unseen_scenes(
    tmp_path: Path, validation: Predictions, development: Predictions
) -> None:
    page = Page(write(tmp_path / "report.html", validation, development))
    rows = [row for row in page.rows if row[0] in (NETWORK, CALIBRATED, POOLED, CONSTANT) and len(row) == 9]
    assert [row[0] for row in rows[:24]] == 4 * [NETWORK, CONSTANT, CALIBRATED, CONSTANT, POOLED, CONSTANT]
    said = validation.calibrated
    assert said is not None
    normal = torch.distributions.Normal(torch.from_numpy(said.mu), torch.from_numpy(said.sigma))
    height = validation.table.height
    low, high = said.intervals[0.9]
    inside = (low <= height) & (height <= high)
    by_scene = np.mean([inside[validation.table.scene == name].mean() for name in np.unique(validation.table.scene)])
    nll = -normal.log_prob(torch.from_numpy(height)).mean().item()
    width = float(np.mean(high - low))
    assert rows[2][1] == f"{nll:.2f}"
    assert rows[2][5] == f"{inside.mean():.0%} ({by_scene:.0%}){width:.1f} m"
    assert rows[2][6] == "–"  # 12 scenes promise no 95 %


def test_seven_figures_are_drawn_of_the_unseen_scenes(
    tmp_path: Path, validation: Predictions, development: Predictions
) -> None:
    captions = Page(write(tmp_path / "report.html", validation, development)).captions
    for start in (
        *("Reliability", "Coverage by scene", "Sparsification", "Pooling"),
        *("RMSE by true height", "RMSE by polyline length", "RMSE by sensor"),
    ):
        assert len([caption for caption in captions if caption.startswith(start)]) == 1
    drawn = telling([validation, development])
    assert drawn is not None
    assert drawn.name == "development"  # its 12 unseen scenes are more than validation's 5


def test_a_sigma_that_does_not_beat_a_constant_is_said_not_to(development: Predictions) -> None:
    assert "“network, calibrated” beats a constant one" in verdicts(blocks([development]))[0]
    assert development.calibrated is not None
    backwards = replace(development.calibrated, sigma=300 / development.calibrated.sigma)
    told = verdicts(blocks([replace(development, calibrated=backwards)]))[0]
    assert "“network, calibrated” does not beat a constant one" in told


def test_what_the_figures_do_not_show_is_said(development: Predictions) -> None:
    told = " ".join(account(development))
    assert f"{len(development)} samples of 12 scenes not trained on" in told
    assert "No finite interval can be promised at 95%: that takes at least 19 development scenes" in told
    assert "The same scenes chose the best epoch" in told
    assert "They also fitted the calibration, which does not flatter them" in told
    assert "metadata, which the model may not" in told
    raw = predict("validation", sample_table(80), noise=4.0, seen=True)
    for without in (raw, apply(Calibration(1.1, -2.0, 1.3), raw, by_scene=True)):  # the reference's: no quantiles
        assert "none is promised to hold on a new scene" in " ".join(account(without))


def test_what_is_expected_of_a_new_scene_is_what_was_measured(validation: Predictions) -> None:
    unseen = replace(validation, seen=np.zeros(len(validation), bool))
    assert "expect nine heights of ten or more" in " ".join(account(unseen))
    assert "nothing is known here" in " ".join(account(replace(unseen, seen=~unseen.seen)))
    few = unseen.select(np.isin(unseen.table.scene, np.unique(unseen.table.scene)[:9]))
    assert "9 scenes cannot tell whether they keep their promise" in " ".join(account(few))
    raw = simulate(20, seed=2)
    harder = replace(raw, sigma=raw.sigma / 4, name="validation", selection=True)  # than it thinks
    told = " ".join(account(apply(fit(simulate(12, seed=1)), harder, by_scene=True)))
    assert "less than the 90% they promise" in told
    assert "expect nine" not in told
    assert "chose the best epoch" in told
    assert "fitted the calibration" not in told, "the development scenes did"


def test_whatever_chose_the_epoch_is_marked_in_each_sentence_and_block(
    tmp_path: Path, validation: Predictions, development: Predictions
) -> None:
    page = Page(
        write(tmp_path / "report.html", replace(validation, selection=True), replace(development, selection=False))
    )
    for sentence in (
        "of validation, which chose the best epoch, the network is off by",
        "On validation (optimistic), σ is",
        "On “validation”, scenes not seen in training (optimistic: the best epoch was chosen on it), the σ",
    ):
        assert sentence in page.text
    chosen = replace(validation, selection=True, seen=np.zeros(len(validation), bool))
    alone = Page(write(tmp_path / "alone.html", chosen)).text
    assert "never seen before, but for the choice of the epoch, which flatters it." in alone
    optimistic = [row[0] for row in page.rows if "optimistic: the best epoch was selected on them" in row[0]]
    assert len(optimistic) == 3, "all of it, its seen and its unseen scenes"
    assert all("validation" in name for name in optimistic)


def test_the_blocks_by_height_share_one_constant_and_leave_no_sample_out(development: Predictions) -> None:
    table = height_blocks(development)
    assert sum(block.samples for block in table) == len(development)
    widths = {round(dict(block.rows)[CONSTANT].width[0.9], 9) for block in table}
    assert len(widths) == 1


def test_an_interval_holds_the_more_the_higher_its_level(validation: Predictions) -> None:
    for block in blocks([validation]):
        for name, scores in block.rows:
            assert sorted(scores.coverage.values()) == list(scores.coverage.values()), name
            assert list(scores.coverage) == list(LEVELS)


def test_the_gain_of_pooling_is_that_of_simulated_scenes() -> None:
    raw = simulate(200, seed=6, samples=200 * 20, common=0.05, own=0.15)
    table = raw.table
    length = np.hypot(*(table.polyline[:, 0] - table.polyline[:, 1]).T)
    mu, spread = raw.mu / 1.1 + 5, np.hypot(0.05, 0.15)  # without its bias, and with an honest σ
    alone = np.arange(len(table)).astype(str)  # each polyline on a tile of its own
    numbers, measured, stated = gain(length, table.height, mu, mu * spread, alone, table.scene, (0.5, 0.1))
    assert numbers.tolist() == [1, 2, 4, 8, 16]
    expected = np.sqrt(0.05**2 + 0.15**2 / numbers)
    np.testing.assert_allclose(measured, expected, rtol=0.1)
    np.testing.assert_allclose(stated, expected, rtol=0.03)


def test_the_gain_is_not_drawn_where_scenes_are_too_few() -> None:
    raw = simulate(4, seed=6)
    table = raw.table
    numbers, measured, _ = gain(table.length, table.height, raw.mu, raw.sigma, table.tile, table.scene, (1.0, 0.1))
    assert len(numbers) == len(measured) == 0
