"""Which samples at which step on which rank: a pure function of (seed, epoch, rank, world size).

Steps are numbered without end: `epoch, i = divmod(step, steps_per_epoch)`, so that resuming is one integer.  The
order of an epoch depends on seed and epoch alone; a global batch is a slice of it and a rank takes its part of
the slice, so that the same samples meet in a step however many ranks there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@lru_cache(maxsize=4)
def shuffled(samples: int, seed: int, epoch: int) -> Ids:
    """A permutation of `range(samples)` → (samples,) int64, the same on every machine and numpy version.

    Sorts raw PCG64 words: numpy promises the streams of its bit generators (NEP 19), but not those of
    `Generator.permutation`.
    """
    keys = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(samples)
    order = np.argsort(keys, kind="stable")
    order.setflags(write=False)  # shared between calls
    return order


@dataclass(frozen=True)
class TrainingPlan:
    """Shuffled epochs of equal steps on every rank; the remainder of a global batch is dropped, a new one each epoch.

    `samples`: rows of the table; `batch_size`: samples a step over all ranks, a multiple of `world_size`.
    Raises ValueError if there is less than one global batch or the ranks cannot share it evenly.
    """

    samples: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise ValueError(
                f"the batch size must be a positive multiple of the {self.world_size} ranks, found {self.batch_size}"
            )
        if self.samples < self.batch_size:
            raise ValueError(
                f"an epoch needs at least one batch: expected {self.batch_size} samples or more, found {self.samples};"
                " use a smaller batch size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps a rank makes in one epoch, the same on each rank."""
        return self.samples // self.batch_size

    @property
    def largest_batch(self) -> int:
        """Samples of this rank's largest batch; here all are equal."""
        return self.batch_size // self.world_size

    def ids(self, step: int) -> Ids:
        """Rows of the table for this rank at `step` → (largest_batch,) int64."""
        epoch, i = divmod(step, self.steps_per_epoch)
        first = i * self.batch_size + self.rank * self.largest_batch
        return shuffled(self.samples, self.seed, epoch)[first : first + self.largest_batch]


@dataclass(frozen=True)
class ValidationPlan:
    """Every sample exactly once an epoch, in the table's order, the last batch partial; all epochs are alike.

    Rank r takes rows r, r + world_size, …: never an empty batch, and the steps of two ranks may differ by one.
    `batch_size` counts samples a step over all ranks.  A rank without samples has no steps.
    """

    samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"the batch size must be positive, found {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        """Steps this rank makes in one epoch."""
        return -(-len(range(self.rank, self.samples, self.world_size)) // self.largest_batch)

    @property
    def largest_batch(self) -> int:
        """Samples of this rank's largest batch."""
        return max(1, self.batch_size // self.world_size)

    def ids(self, step: int) -> Ids:
        """Rows of the table for this rank at `step` → (≤ largest_batch,) int64."""
        stride = self.largest_batch * self.world_size
        first = self.rank + step % self.steps_per_epoch * stride
        return np.arange(first, min(first + stride, self.samples), self.world_size, dtype=np.int64)


Plan = TrainingPlan | ValidationPlan
