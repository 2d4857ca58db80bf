"""From a release to the datasets of a run: the training samples and the samples to evaluate on.

Training and evaluation both use this module, so that they agree on which samples are validation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dali_pipes import SampleTable
from dali_pipes.console import say
from dali_pipes.errors import InputError
from dali_pipes.release.find import open_split
from dali_pipes.release.paths import SPLITS, ReleasePaths
from dali_pipes.release.stage import staged
from dali_pipes.samples.index import Keeper, open_index, refuse_above
from dali_pipes.samples.splits import DEVELOPMENT, VALIDATION, Division, without_repeated_pictures, without_shared_tiles
from dali_pipes.samples.table import scene_of
from dali_pipes.units import count

HELD_OUT = "Tiles of the training split, from scenes that were held out of training."
LARGEST_SHARE = 0.3  # of the scenes, for a calibration: with fewer scenes, training needs all that there are


@dataclass(frozen=True)
class Datasets:
    """The tables of a run, by their use."""

    training: SampleTable
    evaluated: dict[str, SampleTable]
    """"validation", then "development" if scenes were held out."""
    descriptions: dict[str, str]
    """A sentence about each evaluated table: which samples it has."""
    select_on: str = VALIDATION
    """The evaluated table that selects the best epoch, so its scores are optimistic. The other one is evaluated
    once, after training."""

    @property
    def selection(self) -> SampleTable:
        """The table that selects the best epoch."""
        return self.evaluated[self.select_on]

    def by_name(self) -> dict[str, SampleTable]:
        """All tables: "training" and the evaluated ones."""
        return {"training": self.training, **self.evaluated}

    def counts(self) -> dict[str, dict[str, Any]]:
        """Samples, tiles, scenes and skipped items by reason, of each table, as in samples.json."""
        return {
            name: {
                "samples": len(table),
                "tiles": len(np.unique(table.tile)),
                "scenes": len(np.unique(table.scene)),
                "left_out": dict(Counter(item.reason.value for item in table.left_out)),
            }
            for name, table in self.by_name().items()
        }


def load_datasets(
    paths: ReleasePaths,
    division: Division,
    held_out: float | Collection[str] = 0.0,
    select_on: str = VALIDATION,
    *,
    max_bad: float = 1.0,
    console: Console,
    keeper: Keeper | None = None,
) -> Datasets:
    """Read the release or its index in `paths.index_cache`, divide it, and hold scenes out of training.

    The tables read their images from the copy in `paths.stage`, if that was given.

    `held_out`: a share of the training samples, sampled with the division's seed, or names of scenes. `keeper`: gets
    the images that are decoded to build an index. Raises InputError if the release cannot be read, if a larger share of
    a split's tiles than `max_bad` is unusable, or if the two splits share many tiles; a few are dropped from training,
    and so is a picture that training has twice.
    """
    splits = []
    local = staged(paths, console)
    for split in SPLITS:
        table, listing = open_index(local, split, console=console, keeper=keeper)
        refuse_above(max_bad, split, table, listing)
        if table.left_out:
            listed = f"; listed in {listing}" if listing else ""
            say(console, f"{split}: skipped {len(table.left_out)} regions and tiles{listed}")
        splits.append(table)
    splits[0], shared = without_shared_tiles(*splits)
    splits[0], repeated = without_repeated_pictures(splits[0])
    for dropped in filter(None, (shared, repeated)):
        say(console, dropped)
    training, validation = division.divide(*splits)
    if isinstance(held_out, (int, float)):
        training, development = training.hold_out_scenes(held_out, division.seed)
    else:
        apart = np.isin(training.scene, list(held_out))
        training, development = training.select(~apart), training.select(apart)
    evaluated = {VALIDATION: validation} | ({DEVELOPMENT: development} if len(development) else {})
    return Datasets(training, evaluated, {VALIDATION: str(division), DEVELOPMENT: HELD_OUT}, select_on)


def refuse_few_held_out_scenes(paths: ReleasePaths, division: Division, share: float, wanted: int) -> None:
    """Raise InputError if `share` holds out fewer than the `wanted` scenes, and a larger share would do.

    Reads only the names of the tiles. Which scenes are held out depends on their samples, so their number is an
    estimate.
    """
    splits = SPLITS if division.by == "scene" else SPLITS[:1]
    scenes = len({scene_of(name) for split in splits for name in open_split(paths, split)[0].names})
    if division.by == "scene":
        scenes = scenes * (division.folds - 1) // division.folds
    held_out = math.ceil(share * scenes)  # if all have as many samples
    enough = math.ceil(100 * wanted / max(scenes, 1)) / 100
    if 0 < held_out < wanted and enough <= LARGEST_SHARE:
        raise InputError(
            f"--data.holdout {share:g} of {count(scenes, 'training scene')} holds out about {held_out}: expected"
            f" {wanted} or more, which a calibration needs; use --data.holdout {enough:g} or more, or train without a"
            " calibration by --data.holdout 0 --select-on validation"
        )


def default_index_folder(run: Path) -> Path:
    """The folder index-cache next to the run folder `run`, so that neighbouring runs share one index.

    The release itself may be read-only.
    """
    return run.parent / "index-cache"
