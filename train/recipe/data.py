"""From a release to the tables of a run: what is trained on, what is evaluated, and in words which samples those are.

Training and evaluation ask here, so that a network is evaluated on what its training calls validation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dali_pipes import SampleTable
from dali_pipes.release.paths import SPLITS, ReleasePaths
from dali_pipes.samples.index import open_index, refuse_above
from dali_pipes.samples.splits import DEVELOPMENT, VALIDATION, Division, refuse_shared_tiles

HELD_OUT = "Tiles of the training side whose scenes were held out of training as a whole."


@dataclass(frozen=True)
class Tables:
    """`training`; `evaluated`: "validation" first, "development" where scenes were held out; `about`: what each is.

    `select_on`: the one of them on which the best epoch is chosen.  Its figures are optimistic, since chance chose with
    it; the other one is looked at once, at the end.
    """

    training: SampleTable
    evaluated: dict[str, SampleTable]
    about: dict[str, str]
    select_on: str = VALIDATION

    @property
    def selection(self) -> SampleTable:
        """The samples on which the best epoch is chosen."""
        return self.evaluated[self.select_on]


def load_tables(
    paths: ReleasePaths,
    division: Division,
    held_out: float | Collection[str] = 0.0,
    select_on: str = VALIDATION,
    *,
    max_bad: float = 1.0,
    console: Console,
) -> Tables:
    """Check the release or read its index from its cache, divide it, and hold scenes out of training.

    `held_out`: a share of the training samples,
    drawn by the division's seed, or the scenes by name.  `select_on`: see `Tables`.  Raises InputError where the
    release cannot be read or more than the share `max_bad` of a split's tiles is unusable.
    """
    splits = []
    for split in SPLITS:
        table, listing = open_index(paths, split, console=console)
        refuse_above(max_bad, split, table, listing)
        if table.left_out:
            listed = f"; listed in {listing}" if listing else ""
            found = f"{split}: skipped {len(table.left_out)} regions and tiles{listed}"
            console.print(found, highlight=False, markup=False, soft_wrap=True)
        splits.append(table)
    refuse_shared_tiles(*splits)
    training, validation = division.divide(*splits)
    if isinstance(held_out, (int, float)):
        training, kept_apart = training.hold_out_scenes(held_out, division.seed)
    else:
        apart = np.isin(training.scene, list(held_out))
        training, kept_apart = training.select(~apart), training.select(apart)
    evaluated = {VALIDATION: validation} | ({DEVELOPMENT: kept_apart} if len(kept_apart) else {})
    return Tables(training, evaluated, {VALIDATION: str(division), DEVELOPMENT: HELD_OUT}, select_on)


def beside(run: Path) -> Path:
    """Where the index is kept unless a folder is named: beside the run, where its neighbours find it, too.

    Not in the release, which may be read-only, nor in the run, which would check everything anew each time.
    """
    return run.parent / "index-cache"


def counts(tables: Tables) -> dict[str, Any]:
    """Samples, tiles, scenes and what was left out by reason, of each table: `samples.json`."""
    return {
        name: {
            "samples": len(table),
            "tiles": len(np.unique(table.tile)),
            "scenes": len(np.unique(table.scene)),
            "left_out": dict(Counter(item.reason.value for item in table.left_out)),
        }
        for name, table in {"training": tables.training, **tables.evaluated}.items()
    }
