"""Batches with several samples of a scene, and the loss of the scene's pooled log scale."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from dali_pipes import Loader, SampleTable
from dali_pipes.batches.plan import ScenePlan, Shard, TrainingPlan, scene_order
from dali_pipes.errors import InputError
from model import gaussian_nll, scene_nll
from model.loss import SHARED
from tests.test_step import CPU, Syncs, network, random_batch
from train.engine.captured import WARM_UP, CapturedStep, PlainCalls
from train.engine.step import Forward, SceneTerm, Step
from train.recipe.config import Config, Data, Model, Optimizer
from train.scores.pooling import pool_log_scale

Numbers = NDArray[np.int64]


@st.composite
def tables(draw: st.DrawFn) -> tuple[Numbers, Numbers]:
    """The scene and the tile of each sample, in any order."""
    scenes = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scene = rng.integers(0, scenes, draw(st.integers(1, 150)))
    return scene, 3 * scene + rng.integers(0, 3, len(scene))


@given(table=tables(), group=st.integers(2, 6), seed=st.integers(0, 2**63), epoch=st.integers(0, 99))
@settings(deadline=None)
def test_an_epoch_is_a_permutation_in_which_scenes_lie_together(
    table: tuple[Numbers, Numbers], group: int, seed: int, epoch: int
) -> None:
    scene, tile = table
    order = scene_order(scene, tile, group, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(scene)))
    blocks = [order[i : i + group] for i in range(0, len(order), group)]
    of_one_scene = [block for block in blocks if len(block) == group and len(set(scene[block])) == 1]
    _, counts = np.unique(scene, return_counts=True)
    # A scene with 7 samples has 3 blocks of 2; further ones may arise from what is left only if it is cut so.
    assert len(of_one_scene) >= (counts // group).sum()
    if group > 2:
        mixed = [block for block in blocks if len(set(scene[block])) > 1]
        assert len(mixed) <= -(-(counts % group).sum() // group), "samples that could be together are not"


@given(table=tables(), group=st.integers(2, 4), blocks=st.integers(1, 3), world=st.integers(1, 4))
@settings(deadline=None)
def test_ranks_take_whole_blocks_of_one_order(
    table: tuple[Numbers, Numbers], group: int, blocks: int, world: int
) -> None:
    scene, tile = table
    batch = group * blocks * world
    if batch > len(scene):
        return
    plans = [
        ScenePlan(len(scene), batch, Shard(rank, world, 5), group, scene=scene, tile=tile) for rank in range(world)
    ]
    alone = ScenePlan(len(scene), batch, Shard(seed=5), group, scene=scene, tile=tile)
    steps = alone.steps_per_epoch
    for step in (*range(3 * steps), 0):  # the last one as after a resume, when its epoch is no longer kept
        parts = np.concatenate([plan.ids(step) for plan in plans])
        epoch, i = divmod(step, steps)
        order = scene_order(scene, tile, group, 5, epoch)
        assert parts.tolist() == alone.ids(step).tolist() == order[i * batch : (i + 1) * batch].tolist()


def test_the_samples_of_a_block_come_from_different_tiles_if_the_scene_has_them() -> None:
    tile = np.repeat(np.arange(4), 4)
    for epoch in range(20):
        blocks = tile[scene_order(np.zeros(16, np.int64), tile, 4, 0, epoch)].reshape(4, 4)
        assert [sorted(block) for block in blocks.tolist()] == [[0, 1, 2, 3]] * 4


def test_the_order_of_blocks_is_the_same_on_any_machine_and_new_in_every_epoch() -> None:
    scene = np.repeat([0, 1, 2], [4, 5, 3])
    tile = 2 * scene + np.tile([0, 1], 6)
    orders = [tuple(scene_order(scene, tile, 2, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert orders[0] == (9, 4, 11, 10, 8, 7, 6, 5, 1, 0, 3, 2)  # a change breaks every resumed run


def test_all_blocks_and_neighbours_are_equally_frequent() -> None:
    scene, epochs = np.repeat([0, 1], 4), 3000
    first = [scene_order(scene, np.arange(8), 2, 1, epoch)[:2] for epoch in range(epochs)]
    pairs, counts = np.unique(np.sort(first, axis=1), axis=0, return_counts=True)
    assert len(pairs) == 12  # of 6 pairs in each scene
    assert ((counts - epochs / 12) ** 2 / (epochs / 12)).sum() < 11 + 6 * 22**0.5


def test_one_sample_at_a_time_is_todays_plan_and_blocks_must_fit(release: Path) -> None:
    table = SampleTable.from_release(release)
    loader = Loader(table, 8, shuffle=True, size=32)
    assert type(loader.plan) is TrainingPlan
    assert isinstance(Loader(table, 8, shuffle=True, size=32, scene_group=4).plan, ScenePlan)
    with pytest.raises(InputError, match="a multiple of the 3 samples of a scene that stay together, found 8"):
        Loader(table, 8, shuffle=True, size=32, scene_group=3)


def predictions(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    mu, log_var = torch.randn(2, count, generator=rng, dtype=torch.float64)
    scene = torch.randint(0, 3, (count,), generator=rng)
    return mu, log_var, torch.randn(3, generator=rng, dtype=torch.float64)[scene], scene


def test_a_block_has_the_likelihood_of_its_pooled_predictions() -> None:
    mu, log_var, target, scene = predictions(12)
    found = scene_nll(mu, log_var, target, scene, 4)
    for i in range(0, 12, 4):
        block = slice(i, i + 4)
        names = scene[block].numpy()
        tile = np.arange(4)  # every sample has its own: only the share between tiles counts
        pooled, variance = pool_log_scale(mu[block].numpy(), log_var[block].exp().numpy(), tile, names, (1.0, SHARED))
        error = target[block].numpy() - pooled
        np.testing.assert_allclose(found[block], 0.5 * (np.log(variance) + error**2 / variance), rtol=1e-12)


def test_samples_that_are_alone_count_as_in_the_other_loss() -> None:
    mu, log_var, target, _ = predictions(8)
    alone = scene_nll(mu, log_var, target, torch.arange(8), 4, beta=0.5)
    torch.testing.assert_close(alone, gaussian_nll(mu, log_var, target, beta=0.5))


@pytest.mark.parametrize("warm", [0.0, 1.0])
def test_gradients_agree_with_differences_and_the_warm_up_holds_the_variance(warm: float) -> None:
    mu, log_var, target, scene = (x.requires_grad_(x.is_floating_point()) for x in predictions(8))
    weight = torch.tensor(warm, dtype=torch.float64)

    def loss(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
        return scene_nll(mu, log_var, target.detach(), scene, 4, weight)

    assert torch.autograd.gradcheck(lambda mu: loss(mu, log_var.detach()), (mu,))
    if warm:
        assert torch.autograd.gradcheck(loss, (mu, log_var))
    else:
        (gradient,) = torch.autograd.grad(loss(mu, log_var).sum(), (log_var,))
        assert (gradient == 0).all()


def test_beta_weights_a_pooled_prediction_by_its_variance() -> None:
    mu, log_var, target, _ = predictions(4)
    scene = torch.zeros(4, dtype=torch.int64)
    variance = (1 + 3 * SHARED) / (-log_var).exp().sum()
    plain, weighted = (scene_nll(mu, log_var, target, scene, 4, beta=beta) for beta in (0.0, 0.5))
    torch.testing.assert_close(weighted, plain * variance**0.5)


def scene_forward(weight: float, **options: Any) -> Forward:
    return Forward(network(), CPU, 4, "fp32", scene_term=SceneTerm(weight, 2, torch.tensor([0, 0, 1, 1])), **options)


def test_the_step_adds_the_loss_of_scenes_and_parts_of_a_batch_change_nothing() -> None:
    batch, one = random_batch(32), torch.tensor(1.0)
    plain = Forward(network(), CPU, 4, "fp32")
    mu, log_var = plain.predict(batch)
    expected = gaussian_nll(mu, log_var, batch.height) + 3 * scene_nll(
        mu, log_var, batch.height, torch.tensor([0, 0, 1, 1]), 2
    )
    stepped = []
    for parts in (1, 2):
        forward = scene_forward(3.0)
        optimizer = torch.optim.SGD(forward.model.parameters(), lr=0.1)
        step = Step(forward, optimizer, 5.0, accumulate=parts)
        assert step(batch, one).item() == pytest.approx(expected.mean().item(), rel=1e-5)
        stepped.append(torch.cat([p.detach().flatten() for p in forward.model.parameters()]))
    torch.testing.assert_close(*stepped, rtol=1e-4, atol=1e-6)


def test_the_loss_of_scenes_waits_for_no_device() -> None:
    with Syncs() as syncs:
        scene_forward(1.0).loss(random_batch(32), torch.tensor(1.0)).backward()
    assert not syncs.found


class Small(nn.Module):
    """Predicts from the mean of each image, so that it compiles soon."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)
        nn.init.constant_(self.head.weight, 0.3)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mu, log_var = self.head(torch.cat([image.mean((2, 3)), length], dim=1)).unbind(1)
        return mu, log_var


def test_the_loss_of_scenes_is_one_graph_and_the_replayed_step_takes_new_scenes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: real(function, backend="eager", fullgraph=True))
    term = SceneTerm(2.0, 2, torch.tensor([0, 0, 1, 1]))
    losses: list[list[float]] = []
    for compilation in ("off", "whole"):
        forward = Forward(Small(), CPU, 4, "fp32", compilation=compilation, scene_term=term)
        optimizer = torch.optim.AdamW(forward.model.parameters(), lr=0.01)
        step: Any = Step(forward, optimizer, 5.0)
        if compilation == "whole":
            step = partial(CapturedStep(step, None, PlainCalls()), completed=1)
        torch.manual_seed(0)
        batches = (replace(random_batch(32, seed=i), sample=torch.randperm(4)) for i in range(WARM_UP + 3))
        losses.append([step(batch, torch.tensor(1.0)).item() for batch in batches])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("target", "group"), [("height", 4), ("log_scale", 1)])
def test_a_loss_of_scenes_without_scenes_is_refused(target: Any, group: int) -> None:
    config = Config(model=Model(target=target), data=Data(scene_group=group))
    with pytest.raises(InputError, match=f"found {target} and {group}"):
        replace(config, optimizer=Optimizer(scene_loss=0.5))
