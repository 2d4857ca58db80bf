"""What each option of the recipe is worth: the reference's recipe and ours at equal samples seen, each option alone.

    python -m bench.ablate --release runs/release --seeds 3 [--markdown FILE] [--figure FILE]

Every run trains the same small network from random weights, convnext_atto at 80², on the same samples, chooses its
best epoch on scenes that are held out for it, and looks at the validation samples once: `--split scene`, a fold whose
scenes it never saw, for every recipe of `bench/ablate/recipes.py`; `--split official`, on the scenes that training
knows, for the reference's recipe and ours.  A seed draws the weights, the order of the samples, the fold and the
held-out scenes; recipes are compared seed by seed, since folds differ more than recipes do.

Two kinds of tables (`bench/ablate/tables.py`): heights by recipe, and what the uncertainty of both recipes is worth.
They tell of training from random weights on rendered tiles; of fine-tuning ImageNet weights on real ones they tell
nothing.

Each finished run is a line of `results.jsonl` under `--out`, named by a digest of its configuration: the command goes
on where it was stopped, and more seeds or other options cost only what is new.
"""

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from bench.ablate.recipes import OURS, REFERENCE, configuration, recipes
from bench.ablate.tables import draw, markdown_of, tables_of
from bench.measure.timing import report
from dali_pipes import SampleTable
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_text
from model import checkpoint
from train.__main__ import run
from train.machine.choices import choose_device
from train.recipe.config import MAY_CHANGE, Config, flattened
from train.run.console import RunConsole
from train.scores.metrics import CALIBRATED, NETWORK, POOLED, Baselines, score
from train.scores.uncertainty import LEVEL, Forecast, Uncertainty

COLUMNS = {NETWORK: "", CALIBRATED: "calibrated_", POOLED: "pooled_"}
"""How the columns of predictions.csv begin, by what they hold."""


@dataclass(frozen=True)
class Arguments:
    """What to compare, and on what."""

    release: Path
    """A release in any form, best a rendered one of 1,000 tiles or more: a run of ours has to be short."""
    out: Path = Path("runs/ablation")
    """Folder for results.jsonl; a run that is under way keeps its folder there, too."""
    seeds: int = 3
    """Seeds of each recipe, from 0."""
    epochs: int = 6
    """Passes of each run over its samples."""
    splits: tuple[Literal["scene", "official"], ...] = ("scene", "official")
    """Which validation samples to compare on."""
    only: tuple[str, ...] = ()
    """Recipes to run, by the names of their rows; if not given, all."""
    size: int = 80
    """Side of the letterboxed frame, in pixels."""
    threads: int = 0
    """DALI's threads; 0 for all cores that this process may use."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    quick: bool = False
    """One seed, two epochs at 32² of the reference's recipe and ours: shows that the command works, and no more."""
    markdown: Path | None = None
    """File to write the tables to as Markdown."""
    figure: Path | None = None
    """File to draw the validation RMSE of every run to; its suffix names the format."""

    def __post_init__(self) -> None:
        for name, value in (("--seeds", self.seeds), ("--epochs", self.epochs)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        unknown = sorted(set(self.only) - set(recipes()))
        if unknown:
            raise InputError(f"--only knows no recipe {unknown[0]!r}; expected some of: {', '.join(recipes())}")


@dataclass(frozen=True)
class Run:
    """One training: a row of the table at one seed."""

    split: str
    recipe: str
    seed: int
    config: Config

    @property
    def named(self) -> dict[str, Any]:
        """Where its result stands in the table."""
        return {"split": self.split, "recipe": self.recipe, "seed": self.seed}

    @property
    def key(self) -> str:
        """A digest of the settings that the result depends on and that are not the defaults, which may grow.

        Whoever changes a default, or how a recipe is trained, has to begin in another `--out`.
        """
        default = flattened(Config())
        settings = {
            name: value
            for name, value in flattened(self.config).items()
            if name not in MAY_CHANGE and value != default[name]
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def runs(arguments: Arguments) -> list[Run]:
    """All runs, every seed of the chosen recipes on the scene split, two of them on the official one."""
    chosen = [name for name in recipes() if not arguments.only or name in arguments.only]
    seeds, epochs, size = arguments.seeds, arguments.epochs, arguments.size
    if arguments.quick:
        chosen, seeds, epochs, size = [REFERENCE, OURS], 1, 2, 32

    def one(split: str, name: str, seed: int) -> Run:
        config = configuration(name, split=split, seed=seed, epochs=epochs, size=size)
        # All runs show the same tiles, kept in one place.
        data = replace(config.data, index_cache=str(arguments.out / "index-cache"), threads=arguments.threads)
        return Run(split, name, seed, replace(config, device=arguments.device, data=data))

    return [
        one(split, name, seed)
        for seed in range(seeds)
        for split in arguments.splits
        for name in chosen
        if split == "scene" or name in (REFERENCE, OURS)
    ]


def finish(arguments: Arguments) -> list[dict[str, Any]]:
    """Do all runs that have no result yet → the results of all, in their order."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    known = {result["key"]: result for result in map(json.loads, lines)}
    wanted, release = runs(arguments), digest_of(arguments.release)
    results = []
    for i, item in enumerate(wanted, start=1):
        key = f"{item.key}-{release}"
        if key not in known:
            print(
                f"run {i} of {len(wanted)}: {item.split}, {item.recipe}, seed {item.seed}", file=sys.stderr, flush=True
            )
            known[key] = {"key": key, **item.named, **result_of(item, arguments.release, arguments.out / key)}
            write_text(path, "".join(json.dumps(result) + "\n" for result in known.values()))
            shutil.rmtree(arguments.out / key)
        results.append({**known[key], **item.named})  # a recipe's name may have changed, its configuration has not
    return results


def digest_of(release: Path) -> str:
    """Eight hexadecimal digits of where the release lies and of its labels, which one rendered anew has otherwise."""
    digest = hashlib.sha256(str(release.resolve()).encode())
    for split in ("train", "validation"):
        table = SampleTable.from_release(release, split)
        digest.update(table.height.tobytes() + table.polyline.tobytes())
    return digest.hexdigest()[:8]


def result_of(item: Run, release: Path, folder: Path) -> dict[str, Any]:
    """Train, in `folder`, and read the run folder as anybody could."""
    began = time.process_time()
    run(item.config, release, folder, resume=True, console=RunConsole(Console(file=io.StringIO())))
    seconds = time.process_time() - began
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    samples = json.loads((folder / "samples.json").read_text("utf-8"))["training"]["samples"]
    baselines = Baselines.from_dict(checkpoint.load(folder / "best.pt")["about"]["baselines"])
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # The official split is there to show what knowing the scenes is worth: without those that were held out.
    seen = "true" if item.split == "official" else "false"
    validation = [row for row in rows if (row["group"], row["scene_seen"]) == ("validation", seen)]
    return {
        "samples": samples,
        "epochs": item.config.epochs,
        "samples_seen": samples // item.config.batch_size * item.config.batch_size * item.config.epochs,
        "cpu_s": round(seconds, 1),
        "development_rmse_by_epoch": [record["rmse"] for record in history],
        "scores": scores_of(validation, baselines),
    }


def scores_of(rows: Sequence[Mapping[str, str]], baselines: Baselines) -> dict[str, Any]:
    """What rows of predictions.csv are worth: by predictor, and under "line" a straight line's RMSE in metres.

    `constant_nll` and `constant_crps` are those of the same means with the RMSE as everyone's σ.
    """

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    height, scene = column("height_m"), np.array([row["scene"] for row in rows])
    scores: dict[str, Any] = {"line": score(height, baselines.linear(column("length"))[0]).rmse}
    for name, prefix in COLUMNS.items():
        if not all(row[f"{prefix}mu_m"] for row in rows):
            continue  # too few held-out scenes for a calibration
        forecast = Forecast.gaussian(column(f"{prefix}mu_m"), column(f"{prefix}sigma_m"))
        if prefix:  # a level that could not be promised is left empty
            low, high = (np.array([float(row[f"{prefix}{end}_m"] or "inf") for row in rows]) for end in ("low", "high"))
            forecast = replace(forecast, intervals={LEVEL: (low, high)}, conformal=True)
        worth = Uncertainty.of(height, forecast, scene)
        constant = Uncertainty.of(height, forecast.constant(height), scene)
        scores[name] = {
            "rmse": score(height, forecast.mu).rmse,
            "nll": worth.nll,
            "crps": worth.crps,
            "constant_nll": constant.nll,
            "constant_crps": constant.crps,
            "coverage": worth.scene_coverage[LEVEL],
            "width": worth.width[LEVEL] if math.isfinite(worth.width[LEVEL]) else None,  # JSON knows no infinity
        }
    return scores


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.ablate", description=__doc__)
        results = finish(arguments)
        tables = tables_of(results)
        if arguments.markdown:
            write_text(arguments.markdown, markdown_of(tables))
        if arguments.figure:
            draw(results, arguments.figure)
        report(tables, {"bench": "ablate", **asdict(arguments), "results": results}, choose_device(arguments.device))


if __name__ == "__main__":
    main(sys.argv[1:])
