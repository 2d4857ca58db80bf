"""The runs of the ablation: trained once, evaluated, and stored as a line of results.jsonl."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dali_pipes import SampleTable
from dali_pipes.files import read_text, write_text
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.splits import VALIDATION
from train.recipe.config import MAY_CHANGE, Config, flattened
from train.run.console import RunConsole
from train.run.lease import lease
from train.scores.evaluation import Evaluation, Part
from train.scores.metrics import LINEAR
from train.scores.uncertainty import LEVEL

LARGEST = 64 << 20  # bytes of results.jsonl


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
        """A digest of the settings that affect the result and differ from the defaults; new settings do not change it.

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
    """Run those that have no result in `out` yet → the results of all runs, in order."""
    out.mkdir(parents=True, exist_ok=True)
    path, digest = out / "results.jsonl", digest_of(release)
    lines = read_text(path, LARGEST).splitlines() if path.exists() else []
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
    """Train in `folder`, evaluate the best epoch, and return the result."""
    from train.engine.run import evaluate_best, train

    began = time.process_time()
    paths = ReleasePaths(release, index_cache=folder.parent / "index-cache")  # all runs use the same tiles
    with lease(folder):
        finished = train(run.config, paths, folder, resume=True, console=RunConsole(Console(quiet=True)))
        evaluation = Evaluation.of(evaluate_best(finished), finished.training.baselines)
    seconds = time.process_time() - began
    samples = len(finished.datasets.training)
    # The official split shows the effect of knowing the scenes, so its held-out scenes do not count.
    parts = [part for part in evaluation.parts if part.group == VALIDATION]
    part = next(part for part in parts if (part.predictions.seen == (run.split == "official")).all())
    return {
        "samples": samples,
        "epochs": run.config.epochs,
        "samples_seen": samples // run.config.batch_size * run.config.batch_size * run.config.epochs,
        "cpu_s": round(seconds, 1),
        "development_rmse_by_epoch": [record["rmse"] for record in finished.training.history],
        "scores": scores_of(part),
    }


def scores_of(part: Part) -> dict[str, Any]:
    """Scores of a part: a dict for each forecast, and under "line" the RMSE of a straight line in metres.

    `constant_nll` and `constant_crps` are the scores of the same means with a constant σ, their RMSE.
    """
    scores: dict[str, Any] = {"line": part.rmse(LINEAR)}
    for name, (own, constant) in part.uncertainty.items():
        width = own.width[LEVEL]
        scores[name] = {
            "rmse": part.rmse(name),
            "nll": own.nll,
            "crps": own.crps,
            "constant_nll": constant.nll,
            "constant_crps": constant.crps,
            "coverage": own.scene_coverage[LEVEL],
            "width": width if math.isfinite(width) else None,  # JSON has no infinity
        }
    return scores
