"""The runs of the ablation: trained once, evaluated, and stored as a line of results.jsonl.

Several processes may work on one list of runs: each takes those that no other has finished or is training.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from dali_pipes.files import alone, read_text, write_text
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.splits import VALIDATION, Division, merge
from train.recipe.config import MAY_CHANGE, Config, flattened
from train.recipe.data import Datasets, load_datasets
from train.run.console import RunConsole
from train.run.lease import lease
from train.scores.evaluation import Evaluation, Part
from train.scores.metrics import LINEAR
from train.scores.uncertainty import LEVEL

if TYPE_CHECKING:
    from train.engine.run import FinishedRun

LARGEST = 64 << 20  # bytes of results.jsonl


@dataclass(frozen=True)
class Run:
    """One training: a recipe at one seed on one split of a release."""

    release: Path
    split: str
    recipe: str
    seed: int
    config: Config
    other: Path | None = None
    """Another release, on whose samples the network is scored as well."""

    @property
    def releases(self) -> list[Path]:
        """All releases that it reads."""
        return [self.release] if self.other is None else [self.release, self.other]

    @property
    def place(self) -> dict[str, Any]:
        """Its place in the tables."""
        return {"release": self.release.resolve().name, "split": self.split, "recipe": self.recipe, "seed": self.seed}

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


def results_of(runs: Sequence[Run], out: Path, *, train: bool = True) -> list[dict[str, Any]]:
    """The results of all finished runs in order; those that have no result in `out` yet are trained, if `train`."""
    out.mkdir(parents=True, exist_ok=True)
    digests = {release: digest_of(release) for run in runs for release in run.releases}
    keys = ["-".join([run.key, *(digests[release] for release in run.releases)]) for run in runs]
    for i, (key, run) in enumerate(zip(keys, runs, strict=True), start=1):
        if train and key not in _finished(out):
            named = f"{run.release.name}, {run.split}, {run.recipe}, seed {run.seed}"
            print(f"run {i} of {len(runs)}: {named}", file=sys.stderr, flush=True)
            _train_unless_taken(run, key, out)
    finished = _finished(out)
    if missing := sum(key not in finished for key in keys):
        print(f"{missing} of {len(runs)} runs have not finished and are not in the tables", file=sys.stderr)
    # The name of a recipe may have changed since.
    return [{**finished[key], **run.place} for key, run in zip(keys, runs, strict=True) if key in finished]


def _finished(out: Path) -> dict[str, dict[str, Any]]:
    """The results in `out` by their keys."""
    path = out / "results.jsonl"
    lines = read_text(path, LARGEST).splitlines() if path.exists() else []
    return {result["key"]: result for result in map(json.loads, lines)}


def _train_unless_taken(run: Run, key: str, out: Path) -> None:
    """Add the run's result to results.jsonl, unless another process trains it or has just finished it."""
    folder = out / key
    with ExitStack() as leased:
        try:
            leased.enter_context(lease(folder))
        except InputError as taken:
            print(f"skipped: {taken}", file=sys.stderr, flush=True)
            return
        if key in _finished(out):
            return
        result = {"key": key, **run.place, **result_of(run, folder)}
        with alone(out / ".results.lock"):
            results = {**_finished(out), key: result}.values()
            write_text(out / "results.jsonl", "".join(json.dumps(result) + "\n" for result in results))
    shutil.rmtree(folder, ignore_errors=True)


def digest_of(release: Path) -> str:
    """Eight hexadecimal digits from the path and the labels of a release; they change if it is rendered differently."""
    digest = hashlib.sha256(str(release.resolve()).encode())
    for split in ("train", "validation"):
        table = SampleTable.from_release(release, split)
        digest.update(table.height.tobytes() + table.polyline.tobytes())
    return digest.hexdigest()[:8]


def result_of(run: Run, folder: Path) -> dict[str, Any]:
    """Train in `folder`, which is leased, evaluate the best epoch, and return the result."""
    from train.engine.run import evaluate_best, train

    began = time.process_time()
    paths = ReleasePaths(run.release, index_cache=folder.parent / "index-cache")  # all runs use the same tiles
    finished = train(run.config, paths, folder, resume=True, console=RunConsole(Console(quiet=True)))
    evaluation = Evaluation.of(evaluate_best(finished), finished.training.baselines)
    seconds = time.process_time() - began
    other = {} if run.other is None else {"other_scores": scores_on(run.other, finished)}
    samples = len(finished.datasets.training)
    # The official split shows the effect of knowing the scenes, so its unseen scenes do not count unless all are.
    parts = [part for part in evaluation.parts if part.group == VALIDATION]
    known = run.split == "official" and any(part.predictions.seen.any() for part in parts)
    part = next(part for part in parts if (part.predictions.seen == known).all())
    return {
        "samples": samples,
        "epochs": run.config.epochs,
        "samples_seen": samples // run.config.batch_size * run.config.batch_size * run.config.epochs,
        "cpu_s": round(seconds, 1),
        "development_rmse_by_epoch": [record["rmse"] for record in finished.training.history],
        "scores": scores_of(part),
        **other,
    }


def scores_on(release: Path, finished: FinishedRun) -> dict[str, Any]:
    """Scores of the finished and evaluated run on all samples of a release that it was not trained on."""
    from train.engine.trained import calibrate_and_pool, evaluate, load_trained

    quiet = Console(quiet=True)
    paths = ReleasePaths(release, index_cache=finished.paths.index_cache)
    both = load_datasets(paths, Division(), console=quiet)
    table = merge(both.training, both.selection)
    datasets = Datasets(table, {VALIDATION: table}, {VALIDATION: f"all of {release.name}"})
    trained = load_trained(finished.folder.best)
    predictions = evaluate(trained, datasets, finished.training.forward, finished.training.config.data.threads, quiet)
    pooled = calibrate_and_pool(trained, predictions, "scene")
    return scores_of(Evaluation.of(pooled, finished.training.baselines).parts[0])


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
