"""Which of two networks to use on a release: promote the new one or keep the old one."""

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
from rich.text import Text

from dali_pipes.errors import InputError
from dali_pipes.samples.splits import VALIDATION

from ..engine.step import Forward
from ..engine.trained import Trained, completed, evaluate, forward_of, load_trained
from ..machine.choices import choose_device
from ..recipe.data import Datasets, default_index_folder, load_datasets
from ..report.findings import FEWEST_SCENES
from ..scores.metrics import Float64, bootstrap_rmse, score
from ..scores.predictions import Predictions

KEEP = 3  # exit status


Verdict = Literal["promote", "keep"]


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same samples, RMSE in metres; `closed_form` reads metadata, which the networks may not.

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


def compared(
    name: str, height: Float64, old: Float64, new: Float64, closed_form: Float64, scene: NDArray[np.str_], unseen: bool
) -> Comparison:
    """Compare predictions `old` and `new` (N,) of the same samples, all metres."""
    scenes = len(np.unique(scene))
    low = high = math.nan
    if scenes >= FEWEST_SCENES:  # the same seed draws the same scenes: that is what pairs them
        drawn = bootstrap_rmse(height, new, scene, seed=0) - bootstrap_rmse(height, old, scene, seed=0)
        low, high = map(float, np.quantile(drawn, (0.025, 0.975)))
    known = np.isfinite(closed_form)
    return Comparison(
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


def verdict(new_release: Comparison, old_release: Comparison | None, skipped: str = "") -> tuple[Verdict, str]:
    """The rule above, and its reason as a sentence, which ends with `skipped`: why there is no old release."""
    caveats = [
        *([] if new_release.unseen else ["a network may have recognised scenes that it was trained on"]),
        *(["the new network's epoch was chosen on these samples, which flatters it"] if new_release.selected else []),
        *([skipped] if skipped else []),
    ]
    decided, told = _rule(new_release, old_release)
    return decided, "; ".join([told, *caveats])


def _rule(new_release: Comparison, old_release: Comparison | None) -> tuple[Verdict, str]:
    if math.isnan(new_release.high):
        return "keep", f"{new_release.scenes} scenes of {new_release.name} are too few to tell"
    told = (
        f"RMSE(new) − RMSE(old) lies within {new_release.low:+.2f} to {new_release.high:+.2f} m on {new_release.name}"
    )
    if new_release.high >= 0:
        return "keep", f"{told}: that the new network is better is not shown"
    if old_release is not None and old_release.low > 0:
        lost = f"{old_release.low:+.2f} to {old_release.high:+.2f} m on {old_release.name}"
        return "keep", f"{told}, but within {lost}: it has lost there"
    return "promote", told


def judge(
    old_run: Path,
    new_run: Path,
    release: Path,
    *,
    images: Path | None = None,
    labels: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    console: Console,
) -> tuple[Verdict, str]:
    """Compare the best networks of two runs as the docstring of this file tells, and show it.

    `images` and `labels`: where these lie, if `release` does not tell; `cache`: the index's folder, by default beside
    the new run.

    Raises InputError, CheckpointError or BackboneError where a run or the release cannot be read.
    """
    where = choose_device(device)
    pair = [load_trained(run) for run in (old_run, new_run)]
    forwards = [forward_of(trained, where, batch_size) for trained in pair]
    read = partial(
        load_datasets, division=pair[1].division, cache=cache or default_index_folder(new_run), console=console
    )
    results = [_measured("the new release", read(release, images=images, labels=labels), pair, forwards)]
    results[0] = replace(results[0], selected=pair[1].select_on == VALIDATION)
    before, skipped = old_release_of(old_run, release)
    if before is not None:
        try:
            results.append(_measured("the old release", read(before), pair, forwards))
        except InputError as error:
            skipped = f"the old release was not compared on, since it cannot be read: {error}"
    _show(results, console)
    decided, reason = verdict(results[0], results[1] if len(results) > 1 else None, skipped)
    console.print(f"{decided}: {reason}", highlight=False, markup=False, soft_wrap=True)
    return decided, reason


def _measured(name: str, tables: Datasets, pair: Sequence[Trained], forwards: Sequence[Forward]) -> Comparison:
    tables = replace(tables, evaluated={VALIDATION: tables.evaluated[VALIDATION]})
    networks = zip(pair, forwards, strict=True)
    return _compare(name, [evaluate(completed(trained, tables.training), tables, f)[0] for trained, f in networks])


def _compare(name: str, said: Sequence[Predictions]) -> Comparison:
    neither = ~(said[0].seen | said[1].seen)
    unseen = len(np.unique(said[0].table.scene[neither])) >= FEWEST_SCENES
    old, new = (group.select(neither) if unseen else group for group in said)
    table = old.table
    where = f"{'unseen scenes of ' if unseen else ''}the validation samples of {name}"
    return compared(where, table.height, old.mu, new.mu, old.closed_form(), table.scene, unseen)


def old_release_of(run: Path, release: Path) -> tuple[Path | None, str]:
    """The release that a run was trained on, if it is to be compared on beside `release`; else None, and why not.

    `run`: the run folder or a checkpoint in it, whose samples.json names the release.
    """
    folder = run if run.is_dir() else run.parent
    try:
        named = Path(json.loads((folder / "samples.json").read_text("utf-8"))["release"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"the old release was not compared on, since no samples.json in {folder} names it"
    if not named.exists():
        return None, f"the old release was not compared on, since {named} is not there"
    if named.resolve() == release.resolve():
        return None, f"the old network was trained on the release at {named}, too, so there is no other to compare on"
    return named, ""


def _show(comparisons: Iterable[Comparison], console: Console) -> None:
    table = Table(title="RMSE in metres", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in ("samples", "scenes", "old", "new", "closed form (metadata)", "new − old, 95 %"):
        table.add_column(name, justify="right")
    for row in comparisons:
        interval = "too few scenes" if math.isnan(row.low) else f"{row.low:+.2f} to {row.high:+.2f}"
        figures = (f"{row.old:.2f}", f"{row.new:.2f}", f"{row.closed_form:.2f}", interval)
        table.add_row(Text(row.name), str(row.samples), str(row.scenes), *figures)
    console.print(table)
