"""The report, parsed as HTML: its numbers are recomputed from the samples."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.geometry import closed_form_height, polyline_length_px
from dali_pipes.samples.table import SampleTable
from model.calibration import Calibration
from tests.reported import Page, evaluate, predict, sample_table, write
from train.report.findings import reference
from train.report.tiles import chosen, heat_map
from train.scores.calibrate import calibrate
from train.scores.metrics import CALIBRATED, CLOSED_FORM, LINEAR, MEAN, NETWORK, POOLED
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
                assert address.startswith(("#", "data:image/jpeg;base64,", "data:image/png;base64,"))
    assert "@import" not in both
    assert all(address.startswith(("#", '"#')) for address in both.replace("url (", "url(").split("url(")[1:])
    assert len(both) < 1_500_000


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
    assert len(figures) == 1 + 2 + 6 + 2 * 18, "the scatter, two curves, six in the folds; tiles also enlarged"
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")


def test_the_answers_come_first_and_the_rest_is_folded(both: str) -> None:
    page = Page(both)
    order = ["scores", "tiles", "use", "uncertainty", "errors", "training", "audit", "data"]
    ids = [attributes.get("id") for _, attributes in page.elements]
    assert [name for name in ids if name in order] == order
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#{name}" for name in order]
    folds = [attributes for tag, attributes in page.elements if tag == "details"]
    assert len(folds) == 5
    assert not any("open" in attributes for attributes in folds)
    assert both.index('id="use"') < both.index("<details>") < both.index('id="uncertainty"')


def test_figures_follow_the_dark_mode(both: str) -> None:
    plots = re.findall(r'<svg class="plot".*?</svg>', both, re.DOTALL)
    assert len(plots) == 9
    for plot in plots:
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?![^<]*url)", re.sub(r'(url\(#|href="#|id=")\w+', "", plot))
        assert not re.search(r"\brgb\(|<image", plot)
        assert "var(--" in plot
        assert "<text" in plot


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
    assert page.text.count("<script>alert(1)</script>.jpg") > 5
    assert "{{ 7 * 7 }}" in page.text


def test_the_first_table_has_the_scores_of_unseen_scenes_then_of_seen_ones(
    official: Predictions, unseen: Predictions, both: str
) -> None:
    rows = {row[0]: row[1:] for row in reversed(Page(both).rows)}  # the first row of each name
    assert [row[0] for row in Page(both).rows[2:5]] == [NETWORK, LINEAR, MEAN]
    error, variance = unseen.mu - unseen.table.height, unseen.sigma**2
    nll = float(np.mean(np.log(2 * np.pi * variance) / 2 + error**2 / (2 * variance)))
    values = [np.sqrt(np.mean(error**2)), np.abs(error).mean(), error.mean(), nll]
    values.append(np.sqrt(np.mean((official.mu - official.table.height) ** 2)))
    assert rows[NETWORK] == [f"{value:.2f}".replace("-", "−") for value in values]


def test_a_calibrated_and_pooled_network_has_five_rows(tmp_path: Path) -> None:
    calibrated = calibrate(
        Calibration(1.1, -2.0, 1.3), predict("validation", sample_table(40), noise=4.0, seen=False), by_scene=True
    )
    rows = [row[0] for row in Page(write(tmp_path / "report.html", calibrated)).rows]
    assert rows[2:7] == [NETWORK, CALIBRATED, POOLED, LINEAR, MEAN]


def test_the_closed_form_stands_alone_in_the_audit(official: Predictions, both: str) -> None:
    page = Page(both)
    assert not [row for row in page.rows if row[0] == CLOSED_FORM], "it does not compete in any table"
    row = next(row for row in page.rows if row[0] == "validation" and len(row) == 4)
    table = official.table.select(np.isfinite(official.table.roll))
    error = closed_form_height(polyline_length_px(table.polyline), table.gsd, table.roll, table.pitch) - table.height
    assert row[1:3] == ["74 of 80", f"{np.sqrt(np.mean(error**2)):.2f}"], "six have no roll"


def test_the_reference_is_compared_only_on_its_own_samples(both: str) -> None:
    assert "No figures here are of these samples, so none is comparable" in Page(both).text
    names = np.array([f"K3_{i % 1006 % 259:03d}_{i % 1006}.jpg" for i in range(1323)])
    table = sample_table(1323)
    table = replace(table, tile=names, scene=np.array([name.rpartition("_")[0] for name in names.tolist()]))
    theirs = reference(evaluate(predict("validation", table, noise=4.0, seen=True)))
    error = np.random.default_rng(7).standard_normal(1323) * 4.0
    assert f"Compare it with the {np.sqrt(np.mean(error**2)):.2f}" in theirs
    assert "none is comparable" in reference(evaluate(predict("validation", table, noise=4.0, seen=False)))


def test_the_headline_names_the_samples_and_the_line_to_beat(official: Predictions, alone: str) -> None:
    training = sample_table(100, seed=9)
    slope, intercept = np.polyfit(training.length, training.height, 1)
    network = np.sqrt(np.mean((official.mu - official.table.height) ** 2))
    line = np.sqrt(np.mean((slope * official.table.length + intercept - official.table.height) ** 2))
    assert (
        f"On 80 samples of 20 scenes seen in training the network is off by {network:.2f} m (RMSE), "
        f"{1 - network / line:.0%} under the {line:.2f} m of a straight line"
    ) in Page(alone).text


def test_the_sentence_on_recognition_depends_on_the_scenes_seen(
    tmp_path: Path, official: Predictions, unseen: Predictions, alone: str, both: str
) -> None:
    path, table = tmp_path / "report.html", official.table

    only_seen = Page(alone).text
    assert "80 samples of 20 scenes seen in training" in only_seen
    assert "these scores cannot show" in only_seen

    only_unseen = Page(write(path, unseen)).text
    assert "60 samples of 20 scenes not seen in training" in only_unseen
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
    assert "of 20 scenes partly seen in training" in mixed
    assert "fewer than 10 scenes on a side" in mixed
    assert "seen scenes" in mixed


def test_the_worst_typical_and_most_uncertain_tiles_of_unseen_scenes_are_shown(
    official: Predictions, unseen: Predictions, both: str
) -> None:
    assert evaluate(official, unseen).leading.group == unseen.name  # type: ignore[union-attr]
    error = np.abs(unseen.mu - unseen.table.height)
    worst: dict[str, float] = {}
    for tile, value in zip(unseen.table.tile.tolist(), error, strict=True):
        worst[tile] = max(value, worst.get(tile, 0.0))
    page = Page(both)
    labels = [attributes["aria-label"] or "" for tag, attributes in page.elements if tag == "svg"]
    shown = [label.split(":")[0] for label in labels if ".jpg: " in label and not label.endswith("enlarged")]
    assert shown[:6] == sorted(worst, key=worst.__getitem__, reverse=True)[:6]
    rows = chosen(unseen)["typical"]
    assert shown[6:12] == unseen.table.tile[rows].tolist()
    assert np.abs(error[rows] - np.median(error)).max() <= np.sort(np.abs(error - np.median(error)))[11]
    sigma = np.linspace(1, 60, len(unseen))
    assert chosen(replace(unseen, sigma=sigma))["uncertain"] == [59, 57, 55, 53, 51, 49], "two samples to a tile"


def test_a_tile_has_both_heights_and_can_be_enlarged(official: Predictions, alone: str) -> None:
    i = int(np.argmax(np.abs(official.mu - official.table.height)))
    page = Page(alone)
    assert " ".join(page.captions[1].split()) == (
        f"{official.table.height[i]:.0f} m label {official.mu[i]:.0f} ± {official.sigma[i]:.0f} m predicted"
    )
    label = f"{official.table.tile[i]}: label {official.table.height[i]:.1f} m, predicted {official.mu[i]:.1f} ± 4.0 m"
    assert f"{label}, 90% interval" in page.text
    targets = [attributes["popovertarget"] for tag, attributes in page.elements if tag == "button"]
    assert targets == [attributes["id"] for _, attributes in page.elements if "popover" in attributes]
    assert len(targets) == 18


def test_the_heat_map_is_opaque_where_the_pixels_matter() -> None:
    heat = np.zeros((56, 56), np.float32)
    heat[10:14, 40:44] = 1.0
    opacity = heat_map(heat)[..., 3]
    assert np.unravel_index(opacity.argmax(), opacity.shape) in {(y, x) for y in (5, 6) for x in (20, 21)}
    assert opacity[20:, :10].max() == 0


def test_sigma_is_called_better_only_if_it_beats_a_constant(tmp_path: Path, official: Predictions) -> None:
    error = np.abs(official.mu - official.table.height)
    right = Predictions("right", "", official.table, official.mu, error + 0.1, official.seen)
    wrong = Predictions("wrong", "", official.table, official.mu, 1 / (error + 0.1), official.seen)
    for group, sentence in ((right, "On right, σ is better than"), (wrong, "On wrong, σ is worse than")):
        assert sentence in Page(write(tmp_path / "report.html", group)).text


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
    labels = [attributes["aria-label"] or "" for tag, attributes in page.elements if tag == "svg"]
    assert next(label for label in labels if ".jpg" in label).startswith(str(official.table.tile[3]))


def test_a_page_is_written_even_without_samples(tmp_path: Path, official: Predictions) -> None:
    nobody = official.select(np.zeros(len(official), bool))
    assert "No samples were evaluated" in Page(write(tmp_path / "report.html", nobody)).text
    assert "No samples were evaluated" in Page(write(tmp_path / "report.html")).text


def test_a_report_of_many_samples_is_small(tmp_path: Path) -> None:
    many = predict("training", sample_table(8000), noise=4.0, seen=True)
    text = write(tmp_path / "report.html", many)
    assert "A random choice of 2,000 samples is drawn." in Page(text).text
    assert len(text) < 700_000, "a megabyte is left for 24 pictures of 512 pixels"


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
