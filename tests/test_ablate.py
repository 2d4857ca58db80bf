"""The ablation: recipes change what their names say, finished runs are kept, and the tables are correct."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.ablate import runs
from bench.ablate.__main__ import Arguments, main, planned
from bench.ablate.recipes import OPTIONS, OURS, REFERENCE, THIRD, changed, configuration, recipes
from bench.ablate.runs import Run, results_of, scores_of
from bench.ablate.tables import height_table, ratio_table, tables_of, uncertainty_table
from bench.measure.report import as_plain
from dali_pipes import Loader, SampleTable
from dali_pipes.errors import InputError
from dali_pipes.release.paths import SPLITS
from dali_pipes.samples.splits import merge
from tests.reported import evaluate, predict, sample_table
from train.engine.trained import forward_of, load_trained
from train.engine.trained import predict as trained_predict
from train.recipe.config import Config, flattened
from train.recipe.presets import fast, reference
from train.scores.metrics import LINEAR, NETWORK, POOLED


def differing(a: Config, b: Config) -> set[str]:
    left, right = flattened(a), flattened(b)
    return {name for name in left if left[name] != right[name]}


def test_the_first_row_is_the_references_recipe_and_each_option_changes_only_its_own_fields() -> None:
    by_recipe = {run.recipe: run.config for run in planned(Arguments((Path("DIR"),), seeds=1, splits=("scene",)))}
    assert list(by_recipe) == list(recipes())
    ours, theirs = by_recipe[OURS], by_recipe[REFERENCE]
    optimizer = {name for name in differing(theirs, reference()) if name.startswith(("optimizer.", "model."))}
    assert optimizer == {"optimizer.variance_warmup"}, "the same share of the epochs as in the preset"
    for name, option in OPTIONS.items():
        assert differing(by_recipe[f"reference + {name}"], theirs) == set(option), "each option changes something"
        assert differing(by_recipe[f"ours − {name}"], ours) == set(option)
    of_scale = ("epochs", "backbone", "optimizer.variance_warmup", "data.holdout", "data.select_on")
    assert differing(fast(), reference()) - differing(ours, theirs) == set(of_scale), "ours is the whole preset fast"
    assert differing(by_recipe[THIRD], ours) == {"epochs"}
    assert ours.epochs == 3 * by_recipe[THIRD].epochs


def test_recipes_of_one_seed_see_the_same_samples_and_seeds_differ() -> None:
    runs = planned(Arguments((Path("DIR"),), seeds=2))
    assert len({run.key for run in runs}) == len(runs)
    assert {run.config.division() for run in runs if (run.seed, run.split) == (1, "scene")} == {
        changed(runs[0].config, {"seed": 1, "data.split": "scene"}).division()
    }
    assert {run.recipe for run in runs if run.split == "official"} == {REFERENCE, OURS}


def test_named_recipes_run_on_every_split_of_every_release() -> None:
    only = (REFERENCE, "ours + window mirrored in training only")
    runs = planned(Arguments((Path("town"), Path("coast")), seeds=1, only=only, epochs=24, size=128))
    assert [(run.release.name, run.split, run.recipe) for run in runs] == [
        (release, split, name) for release in ("town", "coast") for split in ("scene", "official") for name in only
    ]
    shown = {(run.config.epochs, run.config.data.size) for run in runs}
    assert shown == {(24, 128)}
    aligned = runs[1].config
    assert (aligned.data.view, aligned.data.crop, aligned.data.hflip) == ("aligned", 160, 0.5)
    with pytest.raises(InputError, match="--release needs folders of different names"):
        Arguments((Path("a/town"), Path("b/town")))


def result(recipe: str, seed: int, rmse: float, by_epoch: list[float], release: str = "town") -> dict[str, Any]:
    return {
        "release": release,
        "split": "scene",
        "recipe": recipe,
        "seed": seed,
        "samples_seen": 600,
        "development_rmse_by_epoch": by_epoch,
        "scores": {"line": 30.0, NETWORK: {"rmse": rmse}, POOLED: {"rmse": rmse - 1}},
    }


def test_the_table_compares_seed_by_seed() -> None:
    results = [
        result(REFERENCE, 0, 30.0, [40.0, 20.0]),
        result(REFERENCE, 1, 20.0, [35.0, 30.0]),
        result(OURS, 0, 15.0, [19.0, 10.0]),
        result(OURS, 1, 16.0, [31.0, 29.0]),
        result(THIRD, 1, 24.0, [33.0]),
    ]
    cells = {row[0]: row for row in as_plain(height_table(results, "scene"))["rows"]}
    assert cells[REFERENCE][4:] == ["25.00 ± 7.07", "24.00 ± 7.07", "2, 2"]
    assert cells[OURS][4:] == ["15.50 ± 0.71", "14.50 ± 0.71", "1, 2"]
    assert cells[THIRD][-1] == "–"
    assert cells["linear in length"][4] == "30.00 ± 0.00"
    ratios = {row[0]: row[2:] for row in as_plain(ratio_table(results, "scene"))["rows"]}
    assert ratios[REFERENCE] == ["1.000 (1.000–1.000)", "0.958 (0.950–0.967)", "1.000 (1.000–1.000)"]
    assert ratios[OURS] == ["0.650 (0.500–0.800)", "0.608 (0.467–0.750)", "0.636 (0.483–0.789)"]
    assert ratios[THIRD] == ["1.200 (1.200–1.200)", "1.150 (1.150–1.150)", "1.211 (1.211–1.211)"]


def test_each_release_is_compared_with_its_own_reference() -> None:
    results = [
        *(result(REFERENCE, 0, rmse, [1.0], release) for release, rmse in (("town", 20.0), ("coast", 40.0))),
        *(result(OURS, 0, rmse, [1.0], release) for release, rmse in (("town", 10.0), ("coast", 30.0))),
    ]
    rows = [row[:3] for row in as_plain(ratio_table(results, "scene"))["rows"]]
    assert rows[2:] == [[OURS, "town", "0.500 (0.500–0.500)"], [OURS, "coast", "0.750 (0.750–0.750)"]]


def test_networks_are_scored_on_another_release_as_well(release: Path, tmp_path: Path) -> None:
    """On its own release, all samples are those of training, held-out and validation scenes together."""
    run = replace(planned(Arguments((release,), quick=True, other=(release,)))[0], other=release)
    scored = runs.result_of(run, tmp_path / "run")
    trained = load_trained(tmp_path / "run/best.pt")
    everything = merge(*(SampleTable.from_release(release, split) for split in SPLITS))
    loader = Loader(everything, 16, device="cpu", size=32, statistics=trained.statistics)
    mean, _ = trained_predict(forward_of(trained, torch.device("cpu"), 16), loader, trained.target)
    loader.close()
    rmse = np.sqrt(np.mean((mean - everything.height) ** 2))
    assert scored["other_scores"][NETWORK]["rmse"] == pytest.approx(rmse, rel=1e-4)
    assert scored["scores"][NETWORK]["rmse"] != pytest.approx(rmse, rel=1e-3)
    titles = [as_plain(table)["title"] for table in tables_of([{**scored, **run.place}])]
    assert [title.split(" on ")[1].split(":")[0] for title in titles[3:]] == [
        "another release, trained with --split scene"
    ] * 3
    with pytest.raises(InputError, match="--other needs one release for each of the 2 of --release, found 1"):
        Arguments((Path("a"), Path("b")), other=(Path("c"),))


def test_the_uncertainty_table_counts_seeds_that_beat_a_constant_and_shows_no_infinite_width() -> None:
    def of(seed: int, nll: float, width: float | None) -> dict[str, Any]:
        figures = {"rmse": 9.0, "nll": nll, "constant_nll": 4.0, "crps": 5.0, "constant_crps": 6.0, "coverage": 0.9}
        return {**result(OURS, seed, 9.0, [9.0]), "scores": {"line": 30.0, NETWORK: {**figures, "width": width}}}

    plain = as_plain(uncertainty_table([of(0, 3.0, 10.0), of(1, 4.5, None)], "scene"))
    row = dict(zip(plain["columns"], plain["rows"][0], strict=True))
    assert (row["beats it"], row["width, m"], row["NLL"]) == ("1 of 2", "–", "3.750 ± 1.061")


def test_the_scores_of_a_part_are_those_of_its_evaluation() -> None:
    [part] = evaluate(predict("validation", sample_table(400), noise=10.0, seen=False)).parts
    scores = scores_of(part)
    assert scores["line"] == part.rmse(LINEAR)
    assert POOLED not in scores, "no predictions, no score"
    network = scores[NETWORK]
    assert network["rmse"] == pytest.approx(10, rel=0.1)
    assert network["nll"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e) + np.log(10), abs=0.1), "Gaussian entropy"
    assert network["nll"] == pytest.approx(network["constant_nll"], abs=0.01), "its σ is the right constant"
    assert network["crps"] == pytest.approx(10 / np.sqrt(np.pi), rel=0.1), "Gaussian CRPS: σ/√π"
    assert network["coverage"] == pytest.approx(0.9, abs=0.05)
    assert network["width"] == pytest.approx(2 * 1.645 * 10, rel=1e-3)


def test_a_quick_run_ends_with_tables_and_is_not_trained_again(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["--markdown", str(tmp_path / "table.md"), "--figure", str(tmp_path / "figure.svg")]
    argv = ["--release", str(release), "--out", str(tmp_path / "runs"), "--quick", "--splits", "scene", *files]
    main(argv)
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [table["title"].split(" on ")[0] for table in first["tables"]] == [
        "Heights",
        "Relative to the reference's recipe",
        "Uncertainty",
    ]
    assert {(item["recipe"], item["seed"]) for item in first["results"]} == {(REFERENCE, 0), (OURS, 0)}
    assert all(len(item["development_rmse_by_epoch"]) == 2 for item in first["results"])
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"results.jsonl", "index-cache"}
    kept = [json.loads(line) for line in (tmp_path / "runs/results.jsonl").read_text().splitlines()]
    assert kept == first["results"]
    assert "| ours | release | 1 | " in (tmp_path / "table.md").read_text()
    assert "<svg" in (tmp_path / "figure.svg").read_text()

    monkeypatch.setattr("train.engine.run.train", None)  # training would fail now
    main(argv)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["results"] == first["results"]


def run_of(name: str) -> Run:
    return Run(Path("town"), "scene", name, 0, configuration(name, split="scene", seed=0, epochs=1, size=32))


def test_processes_share_the_runs_and_none_is_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While one process trains the first run, another one with the same command trains the second."""
    names, trained = [REFERENCE, OURS], []

    def train(run: Run, folder: Path) -> dict[str, Any]:
        trained.append(run.recipe)
        if run.recipe == REFERENCE:
            elsewhere = results_of([run_of(name) for name in names], tmp_path)
            assert [result["recipe"] for result in elsewhere] == [OURS]
            assert "1 of 2 runs have not finished" in capsys.readouterr().err
        return {"scores": {}}

    monkeypatch.setattr(runs, "result_of", train)
    monkeypatch.setattr(runs, "digest_of", lambda release: release.name)
    assert not results_of([run_of(name) for name in names], tmp_path, train=False)
    assert not trained
    assert [result["recipe"] for result in results_of([run_of(name) for name in names], tmp_path)] == names
    assert trained == names
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl"}


def test_unknown_recipes_and_no_seeds_are_refused() -> None:
    with pytest.raises(InputError, match="--only knows no recipe 'theirs'; expected some of: reference, "):
        Arguments((Path("DIR"),), only=("theirs",))
    with pytest.raises(InputError, match="--seeds must be at least 1"):
        Arguments((Path("DIR"),), seeds=0)
