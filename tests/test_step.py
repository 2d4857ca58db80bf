"""The step against a plain float64 computation; it compiles to one graph and never synchronises with the device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch.utils._python_dispatch import TorchDispatchMode

from dali_pipes import Batch, SampleTable
from model import HeightRegressor
from tests.test_training import SMALL
from train.engine.adamw import AdamW
from train.engine.average import MovingAverage
from train.engine.run import train
from train.engine.step import Forward, Step
from train.machine.choices import Choice
from train.machine.compilation import CACHE, StochasticDepth, set_compiler_cache

CPU = torch.device("cpu")


def random_batch(size: int, count: int = 4, seed: int = 0, views: int = 1) -> Batch:
    rng = torch.Generator().manual_seed(seed)

    def pixels(channels: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, size, size, channels), generator=rng, dtype=torch.uint8)

    length, height = torch.randn(count, 1, generator=rng), torch.randn(count, generator=rng)
    return Batch(pixels(3 * views), pixels(views), pixels(views), length, height, torch.arange(count))


def network(seed: int = 0, drop_path: float = 0.0, views: int = 1) -> HeightRegressor:
    torch.manual_seed(seed)
    model = HeightRegressor("convnext_atto", drop_path=drop_path, layer_scale=1.0, views=views)
    return model.to(memory_format=torch.channels_last)


def test_the_image_is_normalised_as_in_the_reference_and_channels_last() -> None:
    batch = random_batch(32)
    image = Forward(network(), CPU, 4, "fp32").image(batch.rgb, batch.polyline, batch.padding)
    stacked = np.concatenate([x.numpy() for x in (batch.rgb, batch.polyline, batch.padding)], axis=3) / 255
    expected = (stacked - np.array([0.485, 0.456, 0.406, 0.5, 0.5])) / np.array([0.229, 0.224, 0.225, 0.5, 0.5])
    np.testing.assert_allclose(image, expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert image.is_contiguous(memory_format=torch.channels_last)


# bf16 has 8 bits of mantissa and the network 40 layers: the gradient of random weights on noise is 18 % off.
@pytest.mark.parametrize(("precision", "of_loss", "of_gradient"), [("fp32", 1e-5, 1e-4), ("bf16", 0.05, 0.3)])
def test_loss_and_gradient_agree_with_float64(precision: str, of_loss: float, of_gradient: float) -> None:
    batch = random_batch(64)
    exact = network().double()
    image = Forward(network(), CPU, 4, "fp32").image(batch.rgb, batch.polyline, batch.padding).double()
    features = exact.backbone(image)
    gamma, beta = exact.len_to_film(batch.length.double()).chunk(2, 1)
    gate = 1 + 0.5 * torch.tanh(exact.gate_mlp(torch.cat([features, batch.length.double()], 1)))
    out = exact.head(torch.cat([features * (1 + gamma) + beta, batch.length.double() * gate], 1))
    mu, log_var = out[:, 0], out[:, 1].clamp(-6, 4)
    expected = (0.5 * (log_var + (batch.height.double() - mu) ** 2 / log_var.exp())).mean()
    expected.backward()

    mine = network()
    loss = Forward(mine, CPU, 4, precision).loss(batch, torch.tensor(1.0))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=of_loss)
    flat = [torch.cat([p.grad.flatten().double() for p in m.parameters() if p.grad is not None]) for m in (mine, exact)]
    assert (flat[0] - flat[1]).norm() < of_gradient * flat[1].norm()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch.compile with a backend that counts graphs and runs them eagerly."""
    counted: list[Any] = []
    real = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        counted.append(graph)
        return graph.forward

    def counting(function: Any, **options: Any) -> Any:
        return real(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", counting)
    torch._dynamo.reset()
    return counted


class Syncs(TorchDispatchMode):
    """Lists operations that synchronise with the device: reading a value, or a shape that depends on one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_listed_optimizer_is_that_of_torch_to_the_bit_also_on_resuming_and_without_a_gradient() -> None:
    sides = []
    for kind in (AdamW, partial(torch.optim.AdamW, fused=True)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
        optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.02)
        for step in range(8):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
            for i, parameter in enumerate(model.parameters()):
                parameter.grad = None if (step, i) == (3, 1) else torch.randn_like(parameter)
            if step == 5:
                optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
            optimizer.step()
        sides.append(list(model.parameters()) + [x for s in optimizer.state.values() for x in s.values()])
    for mine, torchs in zip(*sides, strict=True):
        assert torch.equal(mine, torchs)
    assert len(sides[0]) == 4 + 4 * 3


def test_the_listed_optimizer_leaves_the_steps_of_a_loss_scaler_to_torch() -> None:
    """An infinite gradient is skipped, which the optimizer decides by what the scaler gives it."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, moved in ((1.0, True), (1.0, True), (float("inf"), False), (1.0, True)):
        before = parameter.detach().clone()
        optimizer.zero_grad()
        scaler.scale(parameter.sum() * gradient).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(parameter, before) != moved


@pytest.mark.parametrize("compilation", ["off", "whole", "regional"])
def test_no_step_synchronises_with_the_device(compilation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Under a dispatch mode nothing is compiled. A full graph cannot synchronise: reading a value would break it.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    model = network(drop_path=0.1)
    forward = Forward(model, CPU, 4, "bf16", compilation=compilation)
    step = Step(forward, AdamW(model.parameters()), clip_norm=5.0)
    weight, total = torch.tensor(1.0), torch.zeros(())
    batches = [random_batch(32, seed=seed) for seed in range(2)]
    with Syncs() as syncs:
        for batch in batches:
            total += step(batch, weight)
        model.eval()
        predictions = [forward.predict(batch) for batch in (*batches, random_batch(32, 3))]
    assert len(predictions) == 3
    assert syncs.found == []
    with Syncs() as syncs:  # the guard itself works
        float(total)
    assert syncs.found == ["aten._local_scalar_dense.default"]


@pytest.mark.parametrize(("precision", "views"), [("fp32", 1), ("bf16", 1), ("bf16", 2)])
@pytest.mark.parametrize(("compilation", "in_training", "in_all"), [("whole", 1, 2), ("regional", 4, 8)])
def test_graphs_of_training_warm_up_validation_and_partial_batches(
    graphs: list[Any], compilation: str, in_training: int, in_all: int, precision: str, views: int
) -> None:
    model = network(drop_path=0.1, views=views)
    forward = Forward(model, CPU, 4, precision, compilation=compilation)
    step = Step(forward, AdamW(model.parameters()), clip_norm=5.0)
    for weight in (0.0, 0.0, 1.0, 1.0):
        step(random_batch(64, views=views), torch.tensor(weight))
    assert len(graphs) == in_training, "fullgraph=True would have raised at a break; one more is a recompilation"
    for _ in range(2):
        model.eval()
        for count in (4, 4, 3, 1):
            forward.predict(random_batch(64, count, views=views))
        model.train()
        step(random_batch(64, views=views), torch.tensor(1.0))
    assert len(graphs) == in_all


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("compilation", ["whole", "regional"])
def test_compiled_equals_eager_and_padding_a_partial_batch_changes_nothing(compilation: str) -> None:
    plain = Forward(network(), CPU, 4, "fp32")
    compiled = Forward(network(), CPU, 4, "fp32", compilation=compilation)
    steps = [Step(f, AdamW(f.model.parameters()), clip_norm=5.0) for f in (plain, compiled)]
    for weight in (0.0, 1.0):
        losses = [step(random_batch(64), torch.tensor(weight)) for step in steps]
        torch.testing.assert_close(*losses)
    plain.model.eval(), compiled.model.eval()
    for count in (4, 3, 1):
        batch = random_batch(64, count)
        for mine, expected in zip(compiled.predict(batch), plain.predict(batch), strict=True):
            assert len(mine) == count
            torch.testing.assert_close(mine, expected)


def test_stochastic_depth_drops_at_its_rate_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(20_000, 2, 1, 1)
    dropped = StochasticDepth(0.25)(x)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.015)  # five standard deviations
    assert torch.equal(dropped[:, 0], dropped[:, 1]), "a sample is dropped in all of its channels"
    assert StochasticDepth(0.25).eval()(x) is x


@pytest.mark.parametrize("compilation", ["whole", "regional"])
def test_compilation_keeps_the_names_of_the_parameters(compilation: str) -> None:
    model = network(drop_path=0.1)
    names = list(model.state_dict())
    Forward(model, CPU, 4, "fp32", compilation=compilation)
    assert list(model.state_dict()) == names


def test_the_moving_average_is_timms_and_does_not_synchronise_with_the_device() -> None:
    model = network()
    average, oracle = MovingAverage(model, 0.9), ModelEmaV3(model, 0.9, use_warmup=True)
    for step in range(1, 20):
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape)
        with Syncs() as syncs:
            average.update_after(step)
        assert syncs.found == []
        oracle.update(model, step=step)
    for mine, theirs in zip(average.module.state_dict().values(), oracle.module.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_compiled_code_is_kept_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, "")  # so that monkeypatch restores it
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert set_compiler_cache() == tmp_path / "chimney-height/inductor"
    assert os.environ[CACHE] == str(tmp_path / "chimney-height/inductor")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert set_compiler_cache() == tmp_path / "chimney-height/inductor", "a folder that is already set is kept"
    monkeypatch.delenv(CACHE)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set_compiler_cache() is None


CHOOSE = """
import torch
from train.machine.choices import choose_compilation
print(*choose_compilation("on", torch.device("cpu")), sep=": ")
"""
BROKEN = "#!/bin/sh\n[ $1 = --version ] && echo g++ 13 && exit 0\necho no cc1plus >&2; exit 1\n"


@pytest.mark.parametrize("compiler", [None, BROKEN], ids=["no compiler", "one that fails"])
def test_without_a_working_compiler_the_step_runs_eager_and_says_so(compiler: str | None, tmp_path: Path) -> None:
    if compiler:
        (tmp_path / "g++").write_text(compiler)
        (tmp_path / "g++").chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", CHOOSE],
        env=os.environ | {"CXX": str(tmp_path / "g++"), CACHE: str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in result.stderr
    assert result.stdout.startswith("off: the step runs eagerly, because nothing can be compiled here")
    assert result.stdout.endswith("install g++\n")


@pytest.mark.parametrize(("compilation", "in_all"), [("whole", 2), ("regional", 8)])
def test_graphs_of_a_run_with_warm_up_average_augmentation_and_two_evaluations(
    graphs: list[Any], compilation: str, in_all: int, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.engine.state.choose_compilation", lambda *_: Choice(compilation, "to count its graphs"))
    # Not 32²: there the last stage has 1×1 maps, whose memory format is ambiguous, which gives a second graph.
    config = replace(SMALL, epochs=2, data=replace(SMALL.data, size=64, holdout=0.0, select_on="validation"))
    assert config.data.augmentation()
    assert config.optimizer.ema > 0
    assert config.optimizer.variance_warmup == 1
    assert len(SampleTable.from_release(release, "validation")) % config.batch_size, "the last batch is a partial one"
    train(config, release, tmp_path / "run", resume=False)
    assert len(graphs) == in_all


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gradients_are_clipped_as_by_torch(scale: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3), torch.nn.Linear(2, 2))
    step = Step(Forward(model, torch.device("cpu"), 1, "fp32"), torch.optim.SGD(model.parameters(), lr=1.0), 5.0)
    used = [*model[0].parameters(), *model[1].parameters()]  # the others have no gradient
    before, gradients = [p.detach().clone() for p in used], [scale * torch.randn_like(p) for p in used]
    clipped = [torch.nn.Parameter(p) for p in before]
    for parameter, other, gradient in zip(used, clipped, gradients, strict=True):
        parameter.grad, other.grad = gradient.clone(), gradient.clone()
    torch.nn.utils.clip_grad_norm_(clipped, 5.0)
    step.update()
    for parameter, old, expected in zip(used, before, clipped, strict=True):
        assert expected.grad is not None
        assert torch.equal(parameter, old - expected.grad)
        assert parameter.grad is None
