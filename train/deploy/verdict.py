"""Decide which of two networks to use: promote the new one or keep the old one. train/promotion.py states the rule."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dali_pipes.console import cell, say
from dali_pipes.errors import InputError
from dali_pipes.files import read_text
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.splits import VALIDATION

from ..engine.step import Forward
from ..engine.trained import Trained, completed, evaluate, forward_of, load_trained
from ..machine.choices import choose_device
from ..recipe.data import Datasets, default_index_folder, load_datasets
from ..recipe.flags import LARGEST_SETTINGS
from ..scores.metrics import MIN_SCENES_FOR_INTERVAL, Float64, bootstrap_rmse, score

EXIT_KEEP = 3

Verdict = Literal["promote", "keep"]


@dataclass(frozen=True)
class PairedRmse:
    """RMSE in metres of two networks on the same samples; `closed_form` uses metadata, which the networks must not.

    `low`, `high`: the 95 % interval of RMSE(new) − RMSE(old) over scenes, NaN with fewer than ten scenes.
    """

    name: str
    samples: int
    scenes: int
    unseen: bool
    """Whether neither network was trained on any of these scenes."""
    old: float
    new: float
    closed_form: float
    low: float
    high: float
    selected: bool = False
    """Whether the new network's epoch was chosen on these samples."""


def paired_rmse(
    name: str, height: Float64, old: Float64, new: Float64, closed_form: Float64, scene: NDArray[np.str_], unseen: bool
) -> PairedRmse:
    """Score the predictions `old` and `new` (N,) of the same samples, all in metres."""
    scenes = len(np.unique(scene))
    low = high = math.nan
    if scenes >= MIN_SCENES_FOR_INTERVAL:  # one seed resamples the same scenes for both: the bootstrap is paired
        difference = bootstrap_rmse(height, new, scene, seed=0) - bootstrap_rmse(height, old, scene, seed=0)
        low, high = map(float, np.quantile(difference, (0.025, 0.975)))
    known = np.isfinite(closed_form)
    return PairedRmse(
        name,
        samples=len(height),
        scenes=scenes,
        unseen=unseen,
        old=score(height, old).rmse,
        new=score(height, new).rmse,
        closed_form=score(height[known], closed_form[known]).rmse,
        low=low,
        high=high,
    )


def decide(new_release: PairedRmse, old_release: PairedRmse | None, skipped: str = "") -> tuple[Verdict, str]:
    """The verdict and its reason in one sentence, which ends with `skipped`: why there is no old release."""
    caveats = [
        *([] if new_release.unseen else ["a network may have recognised scenes that it was trained on"]),
        *(["the new network's epoch was chosen on these samples, which flatters it"] if new_release.selected else []),
        *([skipped] if skipped else []),
    ]
    verdict, reason = _apply_rule(new_release, old_release)
    return verdict, "; ".join([reason, *caveats])


def _apply_rule(new_release: PairedRmse, old_release: PairedRmse | None) -> tuple[Verdict, str]:
    if math.isnan(new_release.high):
        return "keep", f"{new_release.scenes} scenes of {new_release.name} are too few for an interval"
    interval = (
        f"RMSE(new) − RMSE(old) lies within {new_release.low:+.2f} to {new_release.high:+.2f} m on {new_release.name}"
    )
    if new_release.high >= 0:
        return "keep", f"{interval}: this does not show that the new network is better"
    if old_release is not None and old_release.low > 0:
        worse = f"{old_release.low:+.2f} to {old_release.high:+.2f} m on {old_release.name}"
        return "keep", f"{interval}, but within {worse}: the new network is worse there"
    return "promote", interval


def judge_runs(
    old_run: Path,
    new_run: Path,
    paths: ReleasePaths,
    *,
    device: str = "auto",
    batch_size: int = 64,
    statistics: Path | None = None,
    console: Console,
) -> tuple[Verdict, str]:
    """Measure the best networks of two runs, print a table, and return the verdict with its reason.

    `paths`: the new release; its index is by default next to the new run. `statistics`: those of an old network that is
    a bare state dict.

    Raises InputError, CheckpointError or BackboneError if a run or the release cannot be read.
    """
    chosen = choose_device(device)
    pair = [load_trained(old_run, statistics), load_trained(new_run)]
    forwards = [forward_of(trained, chosen, batch_size) for trained in pair]
    paths = paths.cached_in(default_index_folder(new_run))
    read = partial(load_datasets, division=pair[1].division, console=console)
    new = _measure("the new release", read(paths), pair, forwards, console)
    results = [replace(new, selected=pair[1].select_on == VALIDATION)]
    old_release, skipped = old_release_of(old_run, paths.release)
    if old_release is not None:
        try:
            old_paths = ReleasePaths(old_release, stage=paths.stage, index_cache=paths.index_cache)
            results.append(_measure("the old release", read(old_paths), pair, forwards, console))
        except InputError as error:
            skipped = f"the old release was skipped, because it cannot be read: {error}"
    _show(results, console)
    verdict, reason = decide(results[0], results[1] if len(results) > 1 else None, skipped)
    say(console, f"{verdict}: {reason}")
    return verdict, reason


def _measure(
    name: str, datasets: Datasets, pair: Sequence[Trained], forwards: Sequence[Forward], console: Console
) -> PairedRmse:
    datasets = replace(datasets, evaluated={VALIDATION: datasets.evaluated[VALIDATION]})
    old, new = (
        evaluate(completed(trained, datasets.training), datasets, forward, console=console)[0]
        for trained, forward in zip(pair, forwards, strict=True)
    )
    neither = ~(old.seen | new.seen)
    unseen = len(np.unique(old.table.scene[neither])) >= MIN_SCENES_FOR_INTERVAL
    if unseen:
        old, new = old.select(neither), new.select(neither)
    samples = f"{'unseen scenes of ' if unseen else ''}the validation samples of {name}"
    return paired_rmse(samples, old.table.height, old.mu, new.mu, old.closed_form(), old.table.scene, unseen)


def old_release_of(run: Path, release: Path) -> tuple[Path | None, str]:
    """The release that a run was trained on, if it exists and is not `release`; else None, and the reason.

    `run`: a run folder or a checkpoint in it; the folder's samples.json names the release.
    """
    folder = run if run.is_dir() else run.parent
    try:
        named = Path(json.loads(read_text(folder / "samples.json", LARGEST_SETTINGS))["release"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, f"the old release was skipped, because no samples.json in {folder} names it"
    if not named.exists():
        return None, f"the old release was skipped, because {named} does not exist"
    if named.resolve() == release.resolve():
        return None, f"the old network was also trained on the release at {named}, so there is no other to compare on"
    return named, ""


def _show(results: Iterable[PairedRmse], console: Console) -> None:
    table = Table(title="RMSE in metres", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("samples", "scenes", "old", "new", "closed form (metadata)", "new − old, 95 %"):
        table.add_column(name, justify="right")
    for row in results:
        interval = "too few scenes" if math.isnan(row.low) else f"{row.low:+.2f} to {row.high:+.2f}"
        figures = (f"{row.old:.2f}", f"{row.new:.2f}", f"{row.closed_form:.2f}", interval)
        table.add_row(cell(row.name), str(row.samples), str(row.scenes), *figures)
    console.print(table)
