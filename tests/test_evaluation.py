"""An evaluation scores every predictor on each group, and on its seen and unseen scenes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tests.reported import evaluate, predict, sample_table
from train.scores.evaluation import Evaluation
from train.scores.metrics import CLOSED_FORM, LINEAR, MEAN, NETWORK, Baselines, Line
from train.scores.predictions import Predictions


def four_samples(seen: list[bool], closed_form: list[float]) -> list[tuple[str, str, int, int, str, float]]:
    """The scores of four samples of three scenes: (part, predictor, samples, scenes, seen, rmse)."""
    polyline = np.array([[[10.0, 10.0], [10.0, 9.0]]] * 4)  # 1 px and 45° of roll: closed form = gsd
    table = replace(
        sample_table(4),
        polyline=polyline,
        height=np.array([50.0, 60.0, 70.0, 80.0]),
        length=np.array([1.0, 2.0, 3.0, 4.0]),
        scene=np.array(["a", "a", "b", "c"]),
        gsd=np.array(closed_form),
        roll=np.full(4, 45.0),
        pitch=np.zeros(4),
    )
    predictions = Predictions("validation", "", table, np.array([51.0, 61.0, 72.0, 83.0]), np.ones(4), np.array(seen))
    evaluation = Evaluation.of([predictions], Baselines(mean=Line(65.0, 0.0, 9.0), linear=Line(40.0, 10.0, 2.0)))
    rows = [(part, row) for part in evaluation.parts for row in part.rows.values()]
    assert {part.group for part, _ in rows} == {"validation"}
    assert [row.metadata for _, row in rows] == [row.predictor == CLOSED_FORM for _, row in rows]
    return [
        (part.name, row.predictor, row.scores.n, part.scenes, row.seen, round(row.scores.rmse, 9)) for part, row in rows
    ]


def test_a_group_of_seen_scenes_has_four_rows_on_the_same_samples() -> None:
    assert four_samples([True] * 4, [50.0, 60.0, 70.0, 84.0]) == [
        ("all", NETWORK, 4, 3, "all", round(math.sqrt(15 / 4), 9)),
        ("all", LINEAR, 4, 3, "all", 0.0),
        ("all", MEAN, 4, 3, "all", round(math.sqrt(125), 9)),
        ("all", CLOSED_FORM, 4, 3, "all", 2.0),
    ]


def test_the_seen_and_unseen_scenes_of_a_mixed_group_are_also_scored_apart() -> None:
    rows = four_samples([True, True, False, False], [50.0, 60.0, 70.0, 80.0])
    assert [row[:5] for row in rows if row[1] == NETWORK] == [
        ("all", NETWORK, 4, 3, "33%"),
        ("seen", NETWORK, 2, 1, "all"),
        ("unseen", NETWORK, 2, 2, "none"),
    ]
    expected = [math.sqrt(15 / 4), 1.0, math.sqrt(13 / 2)]
    assert [row[5] for row in rows if row[1] == NETWORK] == [round(rmse, 9) for rmse in expected]


def test_the_closed_form_is_scored_only_on_samples_with_metadata() -> None:
    nan = math.nan
    assert four_samples([False] * 4, [nan, 61.0, math.inf, nan])[3] == ("all", CLOSED_FORM, 1, 3, "none", 1.0)
    *counts, rmse = four_samples([False] * 4, [nan] * 4)[3]
    assert counts == ["all", CLOSED_FORM, 0, 3, ""]
    assert math.isnan(rmse)


def test_groups_keep_their_order_and_their_own_samples() -> None:
    official = predict("validation", sample_table(80, without_metadata=6), noise=4.0, seen=True)
    unseen = predict("held-out scenes", sample_table(60, seed=1), noise=20.0, seen=False)
    rows = [(part, row) for part in evaluate(official, unseen).parts for row in part.rows.values()]
    assert [(part.group, row.scores.n, part.scenes, row.seen, row.metadata) for part, row in rows] == [
        *[("validation", 80, 20, "all", False)] * 3,
        ("validation", 74, 20, "all", True),
        *[("held-out scenes", 60, 20, "none", False)] * 3,
        ("held-out scenes", 60, 20, "none", True),
    ]


def test_predictions_that_are_not_finite_have_no_uncertainty_scores() -> None:
    official = predict("validation", sample_table(80), noise=4.0, seen=True)
    evaluation = evaluate(replace(official, mu=np.full(80, np.nan)), official.select(np.zeros(80, bool)))
    assert [len(part) for part in evaluation.parts] == [80, 0]
    assert not any(part.uncertainty for part in evaluation.parts)
    assert evaluation.largest(seen=True) is None
    assert [part.group for part in evaluation.groups] == ["validation"]
