"""Which samples each rank sees at each step: a pure function of (seed, epoch, rank, world size).

Steps are numbered without end: `epoch, i = divmod(step, steps_per_epoch)`. One integer is therefore enough to resume.
The order of an epoch depends on seed and epoch alone. A global batch is a slice of that order, and each rank takes
its part of the slice. A step therefore sees the same samples for any number of ranks. `ScenePlan` keeps
samples of a scene together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

ROUNDS = 6  # with fewer, the 720 orders of 6 samples are not equally frequent


@dataclass(frozen=True)
class Shard:
    """One rank's share of the samples: `rank` of `world_size` ranks, all with the same `seed`.

    The seed decides the order of each training epoch and its augmentation.
    """

    rank: int = 0
    world_size: int = 1
    seed: int = 0


ONE_RANK = Shard()


@dataclass(frozen=True)
class TrainingPlan:
    """Shuffled epochs with equal steps on every rank; samples that do not fill a global batch are dropped.

    `samples`: rows of the table; `batch_size`: samples per step over all ranks, a multiple of the world size.
    Raises ValueError if there is less than one global batch or the ranks cannot share it evenly.
    """

    samples: int
    batch_size: int
    shard: Shard = ONE_RANK

    def __post_init__(self) -> None:
        world_size = self.shard.world_size
        if self.batch_size < 1 or self.batch_size % world_size:
            raise ValueError(
                f"the batch size must be a positive multiple of the {world_size} ranks, found {self.batch_size}"
            )
        if self.samples < self.batch_size:
            raise ValueError(
                f"an epoch needs at least one batch: expected {self.batch_size} samples or more, found {self.samples};"
                " use a smaller batch size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of this rank in one epoch, the same on each rank."""
        return self.samples // self.batch_size

    @property
    def max_steps_per_epoch(self) -> int:
        """Largest `steps_per_epoch` of all ranks."""
        return self.steps_per_epoch

    @property
    def largest_batch(self) -> int:
        """Samples in this rank's largest batch; all are equal."""
        return self.batch_size // self.shard.world_size

    @property
    def rows(self) -> Int64:
        """All rows that this rank may see: the whole table, because each epoch is shuffled across ranks."""
        return np.arange(self.samples, dtype=np.int64)

    def ids(self, step: int) -> Int64:
        """Rows of the table for this rank at `step` → (largest_batch,) int64."""
        epoch, i = divmod(step, self.steps_per_epoch)
        first = i * self.batch_size + self.shard.rank * self.largest_batch
        return shuffled(np.arange(first, first + self.largest_batch), self.samples, self.shard.seed, epoch)


@dataclass(frozen=True)
class ScenePlan(TrainingPlan):
    """A `TrainingPlan` whose batches consist of blocks: `group` samples each, which are of one scene if possible.

    In each epoch the samples of a scene are shuffled and cut into blocks, from different tiles as far as there are any.
    What is left of the scenes, fewer samples than a block each, is put together and cut into blocks too: these hold
    several scenes. The blocks are shuffled. A rank's batch is a whole number of blocks, and the samples of its block
    `i` are at the positions `i * group` to `(i + 1) * group - 1`. So the blocks of a step are the same for any number
    of ranks.

    `scene`, `tile`: numbers of each sample's, (N,). Every rank sorts the whole epoch: 0.7 s for 10⁶ samples. Raises
    ValueError like `TrainingPlan`, and if a rank's batch is no whole number of blocks.
    """

    group: int = 1
    scene: Int64 = field(kw_only=True, repr=False, compare=False)
    tile: Int64 = field(kw_only=True, repr=False, compare=False)
    _order: Callable[[int], Int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.largest_batch % self.group:
            raise ValueError(
                f"the batch of a rank must be a multiple of the {self.group} samples of a scene that stay together,"
                f" found {self.largest_batch}"
            )
        # DALI's thread asks for later epochs than the loop does; lru_cache allows both at once.
        order = partial(scene_order, self.scene, self.tile, self.group, self.shard.seed)
        object.__setattr__(self, "_order", lru_cache(maxsize=4)(order))

    def ids(self, step: int) -> Int64:
        """Rows of the table for this rank at `step` → (largest_batch,) int64."""
        epoch, i = divmod(step, self.steps_per_epoch)
        first = i * self.batch_size + self.shard.rank * self.largest_batch
        return self._order(epoch)[first : first + self.largest_batch].copy()


@dataclass(frozen=True)
class ValidationPlan:
    """Every sample exactly once per epoch, in the table's order; the last batch may be smaller. All epochs are equal.

    Rank r takes rows r, r + world_size, …  No batch is empty, and the steps of two ranks differ by at most one.
    A rank without samples has no steps. `batch_size`: samples per step over all ranks. Raises ValueError if it is not
    positive.
    """

    samples: int
    batch_size: int
    shard: Shard = ONE_RANK

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"the batch size must be positive, found {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        """Steps of this rank in one epoch."""
        return -(-len(self._rows) // self.largest_batch)

    @property
    def max_steps_per_epoch(self) -> int:
        """Largest `steps_per_epoch` of all ranks: that of rank 0."""
        return replace(self, shard=replace(self.shard, rank=0)).steps_per_epoch

    @property
    def largest_batch(self) -> int:
        """Samples in this rank's largest batch."""
        return max(1, self.batch_size // self.shard.world_size)

    @property
    def rows(self) -> Int64:
        """All rows that this rank ever sees, the same in every epoch."""
        return np.array(self._rows, np.int64)

    def ids(self, step: int) -> Int64:
        """Rows of the table for this rank at `step` → (≤ largest_batch,) int64."""
        first = step % self.steps_per_epoch * self.largest_batch
        return np.array(self._rows[first : first + self.largest_batch], np.int64)

    @property
    def _rows(self) -> range:
        return range(self.shard.rank, self.samples, self.shard.world_size)


Plan = TrainingPlan | ValidationPlan


def shuffled(positions: Int64, samples: int, seed: int, epoch: int) -> Int64:
    """The samples at `positions` (n,) int64 of an epoch's order → (n,) int64.

    Over all positions the result is a permutation. The cost of a position does not depend on the number of samples and
    ranks. Sorting random keys, or numpy's permutation, would cost every rank the whole epoch. With 10⁶ samples on 1,024
    ranks that is 100 µs for each sample that a rank sees, twice the cost of reading the sample and drawing its masks.

    A position is a pair (row, column) of a grid with about √samples rows. Each round rotates each column by a random
    amount, then each row: a Feistel network in mixed radix, in which every round can be inverted. The grid has a few
    cells too many; a position that lands on one is permuted again until it lands on a sample (Black & Rogaway, *Ciphers
    with arbitrary finite domains*, CT-RSA 2002). The amounts are raw PCG64 words, a stream that numpy guarantees
    (NEP 19).
    """
    columns, row_shifts, column_shifts = _shifts(samples, seed, epoch)
    row, column = np.divmod(positions, columns)
    for row_shift, column_shift in zip(row_shifts, column_shifts, strict=True):
        row = (row + row_shift[column]) % column_shifts.shape[1]
        column = (column + column_shift[row]) % columns
    sample: Int64 = row * columns + column
    beyond = sample >= samples
    if beyond.any():
        sample[beyond] = shuffled(sample[beyond], samples, seed, epoch)
    return sample


def scene_order(scene: Int64, tile: Int64, group: int, seed: int, epoch: int) -> Int64:
    """An epoch's order in blocks of `group` samples, as in `ScenePlan`; `scene`, `tile` (N,) → (N,) int64.

    The result is a permutation. Its last block is smaller if `group` does not divide N.
    """
    random = np.random.PCG64(np.random.SeedSequence((seed, epoch)))
    order = np.argsort(random.random_raw(len(scene)), kind="stable")
    scenes = np.argsort(random.random_raw(scene.max() + 1), kind="stable")[scene]  # numbers in a random order
    order = order[np.lexsort((_turns(tile[order]), scenes[order]))]  # scene by scene, and in turns from its tiles
    turn = _turns(scenes[order])
    is_left = turn >= (np.bincount(scenes) // group * group)[scenes[order]]
    order = np.concatenate([order[~is_left], order[is_left]])
    whole = len(order) // group
    blocks = order[: whole * group].reshape(whole, group)[np.argsort(random.random_raw(whole), kind="stable")]
    return np.concatenate([blocks.ravel(), order[whole * group :]])


def _turns(numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    """How often each entry of `numbers` (n,) has occurred before it → (n,)."""
    order = np.argsort(numbers, kind="stable")
    count = np.bincount(numbers)
    turns = np.empty_like(numbers)
    turns[order] = np.arange(len(numbers)) - np.repeat(np.cumsum(count) - count, count)
    return turns


@lru_cache(maxsize=4)
def _shifts(samples: int, seed: int, epoch: int) -> tuple[int, Int64, Int64]:
    """The grid's columns, and the amounts of each round, int64.

    (ROUNDS, columns): how far rows shift within each column; (ROUNDS, rows): how far columns shift within each row.
    """
    rows = math.isqrt(samples - 1) + 1
    columns = -(-samples // rows)
    words = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(ROUNDS * (rows + columns))
    for_columns, for_rows = np.split(words.reshape(ROUNDS, -1), [columns], axis=1)
    return columns, (for_columns % rows).astype(np.int64), (for_rows % columns).astype(np.int64)
