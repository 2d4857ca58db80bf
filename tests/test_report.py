"""The report, parsed as HTML: its numbers are recomputed from the samples."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.geometry import closed_form_height, polyline_length_px
from dali_pipes.samples.table import SampleTable
from tests.reported import Page, predict, sample_table, write
from train.scores.metrics import CLOSED_FORM, NETWORK
from train.scores.predictions import Predictions, write_predictions

HOSTILE = "<script>alert(1)</script>.jpg"


@pytest.fixture(scope="module")
def official() -> Predictions:
    return predict("validation", sample_table(80, without_metadata=6), noise=4.0, seen=True)


@pytest.fixture(scope="module")
def unseen() -> Predictions:
    return predict("held-out scenes", sample_table(60, seed=1), noise=20.0, seen=False)


# Reports that several tests read; each takes a second to draw.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def alone(folder: Path, official: Predictions) -> str:
    return write(folder / "alone.html", official)


@pytest.fixture(scope="module")
def both(folder: Path, official: Predictions, unseen: Predictions) -> str:
    return write(folder / "both.html", official, unseen)


@pytest.fixture(scope="module")
def chosen_on_official(folder: Path, official: Predictions, unseen: Predictions) -> str:
    return write(folder / "chosen_on_official.html", replace(official, optimistic=True), unseen)


@pytest.fixture(scope="module")
def chosen_on_unseen(folder: Path, official: Predictions, unseen: Predictions) -> str:
    return write(folder / "chosen_on_unseen.html", official, replace(unseen, optimistic=True))


def test_the_page_is_balanced_and_loads_nothing_else(both: str) -> None:
    page = Page(both)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            if address := attributes.get(name):
                assert address.startswith(("#", "data:image/jpeg;base64,"))
    assert "@import" not in both
    assert all(address.startswith(("#", '"#')) for address in both.replace("url (", "url(").split("url(")[1:])
    assert len(both) < 3_000_000


def test_ids_are_unique_and_every_reference_has_its_target(both: str) -> None:
    page = Page(both)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {part.split(")")[0] for part in both.split("url(#")[1:]}
    wanted |= {(value or "")[1:] for _, a in page.elements if (value := a.get("xlink:href") or "").startswith("#")}
    assert wanted <= set(ids)


def test_figures_have_a_text_and_table_headers_a_scope(alone: str) -> None:
    page = Page(alone)
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(figures) == 1 + 2 + 5 + 12
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")


def test_hostile_names_stay_text(tmp_path: Path, official: Predictions) -> None:
    hostile = HOSTILE, '"><img src=x onerror=alert(1)>.jpg', "'-{{ 7 * 7 }}-$\\frac{1}$.jpg"
    table = official.table
    tile = np.array([hostile[i % 3] + str(i) for i in range(len(table))])
    table = SampleTable(**{**vars(table), "tile": tile, "scene": tile})
    attacked = Predictions(HOSTILE, HOSTILE, table, official.mu, official.sigma, official.seen)
    page = Page(
        write(
            tmp_path / "report.html",
            attacked,
            title=HOSTILE,
            config={HOSTILE: HOSTILE},
            environment={HOSTILE: HOSTILE},
            training={"release": HOSTILE, "left_out": {HOSTILE: 1}},
        )
    )
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>.jpg") > 10
    assert "{{ 7 * 7 }}" in page.text


def test_the_score_table_has_the_scores_of_the_samples(official: Predictions, unseen: Predictions, both: str) -> None:
    page = Page(both)
    networks = [row for row in page.rows if row[0] == NETWORK and row[2] == "no"]
    formulas = [row for row in page.rows if row[0].startswith(CLOSED_FORM)]

    def shown(value: float) -> str:
        return f"{value:.2f}".replace("-", "−")

    for group, network, formula in zip((official, unseen), networks, formulas, strict=True):
        height = group.table.height
        error, variance = group.mu - height, group.sigma**2
        nll = float(np.mean(np.log(2 * np.pi * variance) / 2 + error**2 / (2 * variance)))
        rmse, mae = np.sqrt(np.mean(error**2)), np.abs(error).mean()
        assert network[1:] == [
            str(len(group)),
            "no",
            shown(rmse),
            shown(mae),
            shown(error.mean()),
            shown(nll),
        ]

        table = group.table.select(np.isfinite(group.table.roll))
        length = polyline_length_px(table.polyline)
        error = closed_form_height(length, table.gsd, table.roll, table.pitch) - table.height
        assert formula[1:4] == [str(len(table)), "used", shown(float(np.sqrt(np.mean(error**2))))]
        assert formula[-1] == "–"
    assert formulas[0][1] == "74"  # without the six that have no roll


def test_the_headline_names_the_samples_and_the_line_to_beat(official: Predictions, alone: str) -> None:
    training = sample_table(100, seed=9)
    slope, intercept = np.polyfit(training.length, training.height, 1)
    network = np.sqrt(np.mean((official.mu - official.table.height) ** 2))
    line = np.sqrt(np.mean((slope * official.table.length + intercept - official.table.height) ** 2))
    assert (
        f"On the 80 samples of validation the network is off by {network:.2f} m (RMSE), "
        f"{1 - network / line:.0%} under the {line:.2f} m of a straight line"
    ) in Page(alone).text


def test_the_sentence_on_recognition_depends_on_the_scenes_seen(
    tmp_path: Path, official: Predictions, unseen: Predictions, alone: str, both: str
) -> None:
    path, table = tmp_path / "report.html", official.table

    only_seen = Page(alone).text
    assert "All 20 scenes in “validation” were also trained on." in only_seen
    assert "these scores cannot show" in only_seen

    only_unseen = Page(write(path, unseen)).text
    assert "None of the 20 scenes in “held-out scenes” was trained on." in only_unseen
    assert "recognising a scene cannot help here" in only_unseen

    text = Page(both).text
    assert "the benefit of recognising the scene" in text
    assert "95% interval over scenes" in text

    alike = Page(
        write(path, official, predict("held-out scenes", sample_table(60, seed=1), noise=4.0, seen=False))
    ).text
    assert "This does not show that the network recognises scenes" in alike

    half = np.isin(table.scene, np.unique(table.scene)[:7])
    mixed = Page(write(path, predict("validation", table, noise=4.0, seen=half))).text
    assert "Of the 20 scenes in “validation”, 7 were also trained on." in mixed
    assert "fewer than 10 scenes on a side" in mixed
    assert "on scenes seen in training" in mixed


def test_the_twelve_tiles_with_the_largest_errors_are_shown_once_each(
    official: Predictions, unseen: Predictions, both: str
) -> None:
    errors: dict[str, float] = {}
    for group in (official, unseen):
        for tile, error in zip(group.table.tile.tolist(), np.abs(group.mu - group.table.height), strict=True):
            errors[tile] = max(error, errors.get(tile, 0.0))
    worst = sorted(errors, key=errors.__getitem__, reverse=True)[:12]
    page = Page(both)
    shown = [caption.split()[-1] for caption in page.captions if caption.endswith(".jpg")]
    assert shown == worst


def test_the_caption_of_a_tile_has_true_and_predicted_height_and_the_scene(official: Predictions, alone: str) -> None:
    i = int(np.argmax(np.abs(official.mu - official.table.height)))
    page = Page(alone)
    caption = next(" ".join(caption.split()) for caption in page.captions if caption.endswith(".jpg"))
    assert caption.startswith(f"{official.table.height[i]:.1f} m true")
    assert f"{official.mu[i]:.1f} ± {official.sigma[i]:.1f} m predicted" in caption
    assert f"scene seen in training scene {official.table.scene[i]}" in caption


def test_sigma_is_called_better_only_if_it_beats_a_constant(tmp_path: Path, official: Predictions) -> None:
    error = np.abs(official.mu - official.table.height)
    right = Predictions("right", "", official.table, official.mu, error + 0.1, official.seen)
    wrong = Predictions("wrong", "", official.table, official.mu, 1 / (error + 0.1), official.seen)
    text = Page(write(tmp_path / "report.html", right, wrong)).text
    assert "On right, σ is better than a constant" in text
    assert "On wrong, σ is worse than a constant" in text


def test_a_report_without_a_training_history_has_no_training_curves(tmp_path: Path, official: Predictions) -> None:
    page = Page(write(tmp_path / "report.html", official, history=[], config={}, environment={}, training={}))
    assert "Training loss" not in page.text
    assert "No training sample was skipped" in page.text


def test_a_history_with_gaps_is_shown_as_far_as_it_goes(alone: str) -> None:
    text = Page(alone).text
    assert "3 epochs; best RMSE 12.50 m after epoch 2; median 100 samples/s; 25% of the time spent waiting" in text


def test_the_caption_of_the_rmse_curve_names_the_group_that_chose_the_epoch(
    tmp_path: Path,
    official: Predictions,
    unseen: Predictions,
    both: str,
    chosen_on_official: str,
    chosen_on_unseen: str,
) -> None:
    nobody = replace(official.select(np.zeros(len(official), bool)), optimistic=True)
    for text, samples in (
        (chosen_on_official, "RMSE on validation"),
        (write(tmp_path / "report.html", nobody, unseen), "RMSE on validation"),
        (chosen_on_unseen, "RMSE on held-out scenes"),
        (both, "RMSE"),
    ):
        captions = Page(text).captions
        assert [caption for caption in captions if "the best epoch" in caption] == [
            f"{samples}, logarithmic; the ring marks the best epoch."
        ]


def test_the_page_says_which_scores_are_optimistic(
    tmp_path: Path, official: Predictions, both: str, chosen_on_official: str, chosen_on_unseen: str
) -> None:
    by_validation = Page(chosen_on_official).text
    assert (
        "chosen on the 20 scenes of “validation”, so its scores there are optimistic; “held-out scenes” had no part"
        in by_validation
    )
    by_unseen = Page(chosen_on_unseen).text
    assert (
        "chosen on the 20 scenes of “held-out scenes”, so its scores there are optimistic; “validation” had no part"
        in by_unseen
    )
    assert "No scene here is both new to the network and independent of the choice" in by_unseen
    only = Page(write(tmp_path / "report.html", replace(official, optimistic=True))).text
    assert "there are no other samples to check them on" in only
    assert "optimistic" not in Page(both).text


def test_a_page_is_written_even_if_facts_of_the_run_are_unknown(tmp_path: Path, official: Predictions) -> None:
    page = Page(
        write(
            tmp_path / "report.html",
            official,
            config={"model": {"layer_scale": None}, "weights": None},
            environment={"GPU": None},
            training={"release": None, "samples": None, "left_out": None, "seconds": None},
        )
    )
    for name in ("model.layer_scale", "weights", "GPU", "release", "samples"):
        assert [name, "None"] in page.rows
    assert ["duration", "–"] in page.rows


def test_a_page_is_written_even_if_predictions_are_not_finite(tmp_path: Path, official: Predictions) -> None:
    mu = official.mu.copy()
    mu[3] = np.nan
    failed = Predictions("validation", "", official.table, mu, official.sigma, official.seen)
    page = Page(write(tmp_path / "report.html", failed))
    assert "the training has failed" in page.text
    assert next(caption for caption in page.captions if ".jpg" in caption).split()[-1] == official.table.tile[3]


def test_a_page_is_written_even_without_samples(tmp_path: Path, official: Predictions) -> None:
    nobody = official.select(np.zeros(len(official), bool))
    assert "No samples were evaluated" in Page(write(tmp_path / "report.html", nobody)).text
    assert "No samples were evaluated" in Page(write(tmp_path / "report.html")).text


def test_many_samples_are_drawn_as_pixels(tmp_path: Path) -> None:
    many = predict("training", sample_table(8000), noise=4.0, seen=True)
    text = write(tmp_path / "report.html", many)
    assert "data:image/png;base64," in text
    assert len(text) < 1_000_000


def test_the_same_input_gives_the_same_bytes(
    folder: Path, official: Predictions, unseen: Predictions, both: str
) -> None:
    write(folder / "again.html", official, unseen)
    assert (folder / "again.html").read_bytes() == (folder / "both.html").read_bytes() == both.encode()


@pytest.mark.parametrize(("place", "call"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("name", ["report.html", "predictions.csv"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, official: Predictions, monkeypatch: pytest.MonkeyPatch, name: str, place: object, call: str
) -> None:
    path = tmp_path / name
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(place, call, full)
    with pytest.raises(OSError, match="No space left"):
        write(path, official) if name == "report.html" else write_predictions(path, [official])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
