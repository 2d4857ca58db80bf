"""Time to a target: runs of several recipes, each ended by the first epoch whose validation RMSE is low enough.

The second part of `bench.epoch`.  Every run is one of `python -m train`, and its seconds are those of its epochs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from dali_pipes import SampleTable
from train.config import Config
from train.console import RunConsole
from train.loop import run
from train.metrics import Baselines, score


class _Enough(Exception):
    """A run need not go on."""


class _Watch(RunConsole):
    """Sees the epochs of a run, and ends it when the target or the last epoch is reached."""

    def __init__(self, target: float, epochs: int) -> None:
        super().__init__(Console(quiet=True))
        self.target, self.epochs = target, epochs
        self.records: list[dict[str, Any]] = []

    def epoch(self, record: dict[str, Any]) -> None:
        """Keep the record; raises _Enough at the end."""
        self.records.append(record)
        if record["rmse"] <= self.target or record["epoch"] == self.epochs:
            raise _Enough


def to_target(recipes: Mapping[str, Sequence[Config]], release: Path, scratch: Path, share: float) -> dict[str, Any]:
    """Each recipe's runs, one a seed: seconds, epochs, samples, the last RMSE, and whether that reached the target.

    The target is `share` of the validation RMSE of a straight line in polyline length.  The recipes take turns.
    """
    training, validation = (SampleTable.from_release(release, split) for split in ("train", "validation"))
    line = Baselines.fit(training.length, training.height).linear
    straight = score(validation.height, line(validation.length)[0]).rmse
    target = share * straight
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    for configs in zip(*recipes.values(), strict=True):
        for name, config in zip(recipes, configs, strict=True):
            watch, out = _Watch(target, config.epochs), scratch / f"{name}-{config.seed}"
            try:
                run(config, release, out, resume=False, console=watch)
            except _Enough:
                samples = json.loads((out / "samples.json").read_text("utf-8"))["training"]["samples"]
                runs[name].append(_summary(watch, samples // config.batch_size * config.batch_size))
    return {"straight_line_rmse": straight, "share": share, "target_rmse": target, "runs": runs}


def _summary(watch: _Watch, samples_an_epoch: int) -> dict[str, float]:
    rmse = watch.records[-1]["rmse"]
    return {
        "reached": rmse <= watch.target,
        "seconds": sum(record["seconds"] for record in watch.records),
        "epochs": len(watch.records),
        "samples": len(watch.records) * samples_an_epoch,
        "rmse": rmse,
    }


def target_table(found: dict[str, Any]) -> Table:
    """One row a recipe, medians over its seeds."""
    table = Table(
        title=f"Time to {found['target_rmse']:.2f} m of RMSE on the validation split, {found['share']:.0%} of a"
        " straight line's",
        box=None,
        title_justify="left",
    )
    table.add_column("preset")
    for name in ("reached", "seconds", "epochs", "samples seen", "RMSE at the end, m"):
        table.add_column(name, justify="right")
    for name, runs in found["runs"].items():
        reached = sum(run["reached"] for run in runs)
        middle = {key: median(run[key] for run in runs) for key in runs[0]}
        # Where half of the runs did not get there, the median is only known to be longer.
        longer = "" if 2 * reached > len(runs) else "over "
        seconds = f"{longer}{middle['seconds']:,.1f}"
        cells = (f"{middle['epochs']:g}", f"{middle['samples']:,.0f}", f"{middle['rmse']:.2f}")
        table.add_row(name, f"{reached} of {len(runs)} seeds", seconds, *cells)
    return table
