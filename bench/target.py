"""Time to a target: how soon preset `fast` is as good as preset `reference` gets.

The second part of `bench.epoch`.  Every run is one of `python -m train`, and its seconds are those of its epochs, each
with a look at the validation split.  The target of a seed is the lowest validation RMSE of the reference's run of that
seed: chosen in hindsight, hence the hardest that it can be said to reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.measure.timing import Rate
from train.engine.run import train
from train.recipe.config import Config
from train.run.console import RunConsole

REFERENCE, FAST = "reference", "fast"
Record = Mapping[str, Any]


def to_target(presets: Mapping[str, Sequence[Config]], release: Path, scratch: Path) -> list[dict[str, Any]]:
    """Run both presets, one configuration a seed, in turns → what `race` says of each seed."""
    races = []
    for configs in zip(*presets.values(), strict=True):
        records = {}
        for name, config in zip(presets, configs, strict=True):
            quiet = RunConsole(Console(quiet=True))
            finished = train(config, release, scratch / f"{name}-{config.seed}", resume=False, console=quiet)
            records[name] = finished.training.history
        races.append(race(records[REFERENCE], records[FAST]))
    return races


def race(reference: Sequence[Record], fast: Sequence[Record]) -> dict[str, Any]:
    """One seed: the target, and for each preset its RMSE by epoch, all its seconds, and those to the target, or None.

    A record has "rmse" in metres and "seconds".  A reference that diverged in every epoch sets no target: None.
    """
    target = min((record["rmse"] for record in reference if math.isfinite(record["rmse"])), default=None)

    def of(records: Sequence[Record]) -> dict[str, Any]:
        passed = accumulate(record["seconds"] for record in records)
        there = [s for s, record in zip(passed, records, strict=True) if target and record["rmse"] <= target]
        return {
            "rmse_by_epoch": [record["rmse"] for record in records],
            "seconds": sum(record["seconds"] for record in records),
            "to_target": there[0] if there else None,
        }

    return {"target_rmse": target, REFERENCE: of(reference), FAST: of(fast)}


def target_table(races: Sequence[Mapping[str, Any]]) -> Table:
    """One row a seed, and how many times sooner fast was there over all."""
    table = Table(title="Seconds to the lowest validation RMSE of preset reference", box=None, title_justify="left")
    for name in ("seed", "RMSE to reach, m", "reference", "fast", "times sooner", "lowest RMSE of fast, m"):
        table.add_column(name, justify="right")
    times: list[float] = []
    for seed, found in enumerate(races):
        mine, theirs = found[FAST]["to_target"], found[REFERENCE]["to_target"]
        if theirs is None:
            table.add_row(str(seed), "diverged", *["–"] * 4)
            continue
        if mine is None:
            cells = (f"over {found[FAST]['seconds']:,.1f}", "–")
        else:
            times.append(theirs / mine)
            cells = (f"{mine:,.1f}", f"{times[-1]:.1f}")
        lowest = min(found[FAST]["rmse_by_epoch"])
        table.add_row(str(seed), f"{found['target_rmse']:.2f}", f"{theirs:,.1f}", *cells, f"{lowest:.2f}")
    reached = f"{len(times)} of {len(races)} seeds reached it"
    # Those that did not have no figure: a median of the others alone would flatter.
    table.caption = f"{reached}, {Rate.of(times):.1f} times sooner" if len(times) == len(races) else reached
    return table
