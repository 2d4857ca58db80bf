"""The runs of the ablation: trained once, evaluated from the run folder, kept as a line of results.jsonl."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dali_pipes import SampleTable
from dali_pipes.files import write_text
from dali_pipes.release.paths import ReleasePaths
from train.__main__ import run as train_and_report
from train.recipe.config import MAY_CHANGE, Config, flattened
from train.run.console import RunConsole
from train.scores.metrics import CALIBRATED, NETWORK, POOLED, Baselines, score
from train.scores.uncertainty import LEVEL, Forecast, UncertaintyScores

COLUMNS = {NETWORK: "", CALIBRATED: "calibrated_", POOLED: "pooled_"}
"""Predictor → prefix of its columns in predictions.csv."""


@dataclass(frozen=True)
class Run:
    """One training: a recipe at one seed on one split."""

    split: str
    recipe: str
    seed: int
    config: Config

    @property
    def place(self) -> dict[str, Any]:
        """Its place in the tables."""
        return {"split": self.split, "recipe": self.recipe, "seed": self.seed}

    @property
    def key(self) -> str:
        """A digest of the settings that affect the result and differ from the defaults, so that new settings may come.

        After a change of a default, or of the code of a recipe, results need another `--out`.
        """
        default = flattened(Config())
        settings = {
            name: value
            for name, value in flattened(self.config).items()
            if name not in MAY_CHANGE and value != default[name]
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def results_of(runs: Sequence[Run], release: Path, out: Path) -> list[dict[str, Any]]:
    """Do the runs that have no result in `out` yet → the results of all runs, in order."""
    out.mkdir(parents=True, exist_ok=True)
    path, digest = out / "results.jsonl", digest_of(release)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    known = {result["key"]: result for result in map(json.loads, lines)}
    results = []
    for i, run in enumerate(runs, start=1):
        key = f"{run.key}-{digest}"
        if key not in known:
            print(f"run {i} of {len(runs)}: {run.split}, {run.recipe}, seed {run.seed}", file=sys.stderr, flush=True)
            known[key] = {"key": key, **run.place, **result_of(run, release, out / key)}
            write_text(path, "".join(json.dumps(result) + "\n" for result in known.values()))
            shutil.rmtree(out / key)
        results.append({**known[key], **run.place})  # the name of a recipe may have changed since
    return results


def digest_of(release: Path) -> str:
    """Eight hexadecimal digits from the path and the labels of a release; they change if it is rendered differently."""
    digest = hashlib.sha256(str(release.resolve()).encode())
    for split in ("train", "validation"):
        table = SampleTable.from_release(release, split)
        digest.update(table.height.tobytes() + table.polyline.tobytes())
    return digest.hexdigest()[:8]


def result_of(run: Run, release: Path, folder: Path) -> dict[str, Any]:
    """Train in `folder` and read the result from the files of the run."""
    from model import checkpoint

    began = time.process_time()
    paths = ReleasePaths(release, index_cache=folder.parent / "index-cache")  # all runs use the same tiles
    train_and_report(run.config, paths, folder, resume=True, console=RunConsole(Console(file=io.StringIO())))
    seconds = time.process_time() - began
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    samples = json.loads((folder / "samples.json").read_text("utf-8"))["training"]["samples"]
    baselines = Baselines.from_dict(checkpoint.load(folder / "best.pt")["about"]["baselines"])
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # The official split shows the effect of knowing the scenes, so its held-out scenes do not count.
    seen = "true" if run.split == "official" else "false"
    validation = [row for row in rows if (row["group"], row["scene_seen"]) == ("validation", seen)]
    return {
        "samples": samples,
        "epochs": run.config.epochs,
        "samples_seen": samples // run.config.batch_size * run.config.batch_size * run.config.epochs,
        "cpu_s": round(seconds, 1),
        "development_rmse_by_epoch": [record["rmse"] for record in history],
        "scores": scores_of(validation, baselines),
    }


def scores_of(rows: Sequence[Mapping[str, str]], baselines: Baselines) -> dict[str, Any]:
    """Scores of rows of predictions.csv: a dict per predictor, and under "line" the RMSE of a straight line in metres.

    `constant_nll` and `constant_crps` are the scores of the same means with a constant σ, their RMSE.
    """

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    height, scene = column("height_m"), np.array([row["scene"] for row in rows])
    scores: dict[str, Any] = {"line": score(height, baselines.linear(column("length"))[0]).rmse}
    for name, prefix in COLUMNS.items():
        if not all(row[f"{prefix}mu_m"] for row in rows):
            continue  # too few held-out scenes for a calibration
        forecast = Forecast.gaussian(column(f"{prefix}mu_m"), column(f"{prefix}sigma_m"))
        if prefix:  # an interval without a guarantee is empty in the file
            low, high = (np.array([float(row[f"{prefix}{end}_m"] or "inf") for row in rows]) for end in ("low", "high"))
            forecast = replace(forecast, intervals={LEVEL: (low, high)}, conformal=True)
        uncertainty = UncertaintyScores.of(height, forecast, scene)
        constant = UncertaintyScores.of(height, forecast.constant(height), scene)
        width = uncertainty.width[LEVEL]
        scores[name] = {
            "rmse": score(height, forecast.mu).rmse,
            "nll": uncertainty.nll,
            "crps": uncertainty.crps,
            "constant_nll": constant.nll,
            "constant_crps": constant.crps,
            "coverage": uncertainty.scene_coverage[LEVEL],
            "width": width if math.isfinite(width) else None,  # JSON has no infinity
        }
    return scores
