"""Plans cover the table for any size, number of ranks and epoch, and are equal on all machines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.batches.plan import Shard, TrainingPlan, ValidationPlan, shuffled

counts = st.integers(1, 400)


@given(samples=counts, batch=st.integers(1, 64), world=st.integers(1, 9), epoch=st.integers(0, 3))
@settings(deadline=None)
def test_validation_shows_every_sample_exactly_once(samples: int, batch: int, world: int, epoch: int) -> None:
    seen = []
    for rank in range(world):
        plan = ValidationPlan(samples, batch, Shard(rank, world))
        for i in range(plan.steps_per_epoch):
            ids = plan.ids(epoch * plan.steps_per_epoch + i)
            assert 1 <= len(ids) <= plan.largest_batch, "an empty batch kills DALI"
            seen.extend(ids.tolist())
    assert sorted(seen) == list(range(samples))


@given(
    samples=counts,
    per_rank=st.integers(1, 16),
    world=st.integers(1, 9),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
)
@settings(deadline=None)
def test_training_shows_no_sample_twice_and_drops_less_than_a_batch(
    samples: int, per_rank: int, world: int, seed: int, epoch: int
) -> None:
    batch = per_rank * world
    if samples < batch:
        with pytest.raises(ValueError, match="at least one batch"):
            TrainingPlan(samples, batch, Shard(0, world, seed))
        return
    plans = [TrainingPlan(samples, batch, Shard(rank, world, seed)) for rank in range(world)]
    steps = plans[0].steps_per_epoch
    ids = [[plan.ids(epoch * steps + i) for plan in plans] for i in range(steps)]
    flat = np.concatenate([part for step in ids for part in step])
    assert len(set(flat.tolist())) == len(flat) == samples // batch * batch
    alone = TrainingPlan(samples, batch, Shard(seed=seed))
    for i, parts in enumerate(ids):
        assert np.concatenate(parts).tolist() == alone.ids(epoch * steps + i).tolist(), "the order depends on the ranks"


def epoch_of(samples: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(shuffled(np.arange(samples), samples, seed, epoch).tolist())


def test_the_order_is_the_same_on_any_machine() -> None:
    # Made from the published stream of PCG64.  A change breaks every resumed run.
    assert epoch_of(10, seed=7, epoch=3) == (3, 2, 4, 5, 6, 1, 7, 8, 0, 9)


def test_every_epoch_and_seed_has_its_own_order() -> None:
    orders = {epoch_of(50, seed, epoch) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(samples=st.integers(1, 20_000), seed=st.integers(0, 2**63), epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation_of_any_number_of_samples(samples: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(epoch_of(samples, seed, epoch)), np.arange(samples))


@given(samples=st.integers(1, 10**6), positions=st.lists(st.floats(0, 0.999), min_size=1, max_size=40))
def test_the_sample_at_a_position_depends_on_no_other_position(samples: int, positions: list[float]) -> None:
    asked = (np.array(positions) * samples).astype(np.int64)
    together = shuffled(asked, samples, 1, 2).tolist()
    assert together == [int(shuffled(asked[i : i + 1], samples, 1, 2)[0]) for i in range(len(asked))]
    assert 0 <= min(together) <= max(together) < samples


def is_uniform(counts: np.ndarray) -> bool:
    """Whether χ² for equal frequencies is below six standard deviations.  Seeds are fixed: no run fails by chance."""
    expected = counts.mean()
    return bool(((counts - expected) ** 2 / expected).sum() < counts.size - 1 + 6 * (2 * counts.size) ** 0.5)


def test_all_orders_of_five_samples_are_equally_frequent() -> None:
    orders = [epoch_of(5, seed, 0) for seed in range(6000)]
    frequency = np.unique(np.array(orders), axis=0, return_counts=True)[1]
    assert len(frequency) == 120
    assert is_uniform(frequency)


def test_every_sample_is_equally_likely_at_every_position_and_after_every_other() -> None:
    samples, epochs = 31, 3000
    orders = np.array([epoch_of(samples, 3, epoch) for epoch in range(epochs)])
    at_position = np.bincount((orders * samples + np.arange(samples)).ravel(), minlength=samples**2)
    assert is_uniform(at_position)
    next_to = np.bincount((orders[:, :-1] * samples + orders[:, 1:]).ravel(), minlength=samples**2).reshape(samples, -1)
    assert (np.diag(next_to) == 0).all()
    assert is_uniform(next_to[~np.eye(samples, dtype=bool)])


def test_a_batch_that_the_ranks_cannot_share_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the 3 ranks"):
        TrainingPlan(100, 16, Shard(world_size=3))
