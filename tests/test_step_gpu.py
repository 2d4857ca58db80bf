"""The step on a GPU: compiled equals eager, no synchronisation, fp16 scaling, CUDA graphs, the cache on the device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dali_pipes import Batch, CacheOptions, Loader, SampleTable
from dali_pipes.batches.augment import Augmentation
from model import HeightRegressor
from tests.test_graph import assert_decoded_alike
from tests.test_step import network, random_batch
from train.engine.adamw import AdamW
from train.engine.average import MovingAverage
from train.engine.captured import WARM_UP, CapturedStep, CudaGraph
from train.engine.readout import Readout
from train.engine.step import Forward, Step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: none here"),
]
GPU = torch.device("cuda", 0)


def on_gpu(batch: Batch) -> Batch:
    return Batch(**{name: tensor.to(GPU) for name, tensor in vars(batch).items()})


def step_on_gpu(precision: str, compilation: str = "off", mode: str = "default") -> Step:
    model: HeightRegressor = network().to(GPU)
    forward = Forward(model, GPU, 4, precision, compilation=compilation, mode=mode)
    return Step(forward, AdamW(model.parameters(), lr=1e-4), clip_norm=5.0)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("compilation", "mode"),
    [("off", "default"), ("whole", "default"), ("regional", "default"), ("whole", "max-autotune")],
)
def test_the_losses_are_those_of_the_cpu(precision: str, compilation: str, mode: str) -> None:
    model = network()
    cpu = Forward(model, torch.device("cpu"), 4, "fp32")
    oracle = Step(cpu, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), clip_norm=5.0)
    mine = step_on_gpu(precision, compilation, mode)
    batches = [random_batch(64, seed=seed) for seed in range(4)]
    expected = [oracle(batch, torch.tensor(1.0)) for batch in batches]
    # All are compared at the end: a loss in the memory of a CUDA graph would be overwritten by the last one.
    losses = [mine(on_gpu(batch), torch.tensor(1.0, device=GPU)) for batch in batches]
    torch.testing.assert_close(torch.stack(losses).cpu(), torch.stack(expected), rtol=0.1, atol=0.05)
    mine.forward.model.eval()
    predicted = [mine.forward.predict(on_gpu(batch))[0] for batch in (*batches, random_batch(64, 3))]
    assert [len(mu) for mu in predicted] == [4, 4, 4, 4, 3]
    assert len({mu[0].item() for mu in predicted[:4]}) == 4


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("compilation", ["off", "whole", "regional"])
def test_no_step_synchronises_with_the_gpu(precision: str, compilation: str) -> None:
    step, weight, total = step_on_gpu(precision, compilation), torch.ones((), device=GPU), torch.zeros((), device=GPU)
    batches = [on_gpu(random_batch(64, seed=seed)) for seed in range(3)]
    for batch in batches:  # compiling and choosing kernels may synchronise
        step(batch, weight)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            total += step(batch, weight)
        with pytest.raises(RuntimeError, match="synchroniz"):  # the guard itself works
            float(total)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("cache", ["host", "device", "disk"])
def test_no_cached_and_augmented_batch_synchronises_with_the_gpu(cache: str, release: Path, tmp_path: Path) -> None:
    table = SampleTable.from_release(release)
    changes = Augmentation(hflip=0.5, vflip=0.5, rot90=0.5, brightness=0.2, contrast=0.2)
    cached = CacheOptions(cache, tmp_path)
    loader = Loader(table, 4, device=GPU, shuffle=True, size=64, cache=cached, augmentation=changes)
    oracle = Loader(table, 4, shuffle=True, size=64, augmentation=changes)
    step, weight = step_on_gpu("fp32"), torch.ones((), device=GPU)
    for batch in (*loader, *loader):  # fills the cache, draws the masks, pins the memory
        step(batch, weight)
    expected = list(oracle.epoch(2))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = []
        for batch in loader:
            step(batch, weight)
            batches.append(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for mine, theirs in zip(batches, expected, strict=True):  # a buffer that is reused too early differs
        for name in ("polyline", "padding", "sample", "height"):
            assert torch.equal(getattr(mine, name).cpu(), getattr(theirs, name)), name
        assert_decoded_alike(theirs.rgb, mine.rgb)


@pytest.mark.parametrize("compilation", ["off", "whole"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_step_equals_the_eager_one_and_never_synchronises(precision: str, compilation: str) -> None:
    eager, mine, weight = step_on_gpu(precision), step_on_gpu(precision, compilation), torch.ones((), device=GPU)
    averages = [MovingAverage(step.forward.model, 0.9) for step in (eager, mine)]
    captured = CapturedStep(mine, averages[1], CudaGraph())
    batches = [on_gpu(random_batch(64, seed=seed)) for seed in range(WARM_UP + 5)]
    losses: list[list[torch.Tensor]] = [[], []]
    for i, batch in enumerate(batches):
        losses[0].append(eager(batch, weight).clone())
        averages[0].update_after(i + 1)
    for i, batch in enumerate(batches):
        torch.cuda.set_sync_debug_mode("error" if i > WARM_UP else "default")
        try:
            losses[1].append(captured(batch, weight, i + 1).clone())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    rtol, atol = (0.05, 0.02) if precision == "bf16" else (1e-3, 1e-4)
    torch.testing.assert_close(torch.stack(losses[1]), torch.stack(losses[0]), rtol=rtol, atol=atol)


def test_a_loss_is_read_one_call_late_and_without_waiting() -> None:
    readout, values = Readout(), [torch.full((), float(i), device=GPU) for i in range(3)]
    torch.cuda.synchronize()
    assert readout.next(values[0]) is None
    torch.cuda._sleep(10**9)  # the device is busy while the value of the last call is read
    late = readout.next(values[1])
    assert late is not None
    assert late.item() == 0
    assert not torch.cuda.current_stream().query(), "the host waited for the device"


def test_the_scaler_skips_a_step_with_an_overflow() -> None:
    step, batch = step_on_gpu("fp16"), on_gpu(random_batch(64))
    step(batch, torch.ones((), device=GPU))
    before, scale = step.forward.model.get_parameter("head.0.weight").detach().clone(), step.scaler.get_scale()
    batch.height.fill_(1e30)
    step(batch, torch.ones((), device=GPU))
    assert torch.equal(step.forward.model.get_parameter("head.0.weight"), before)
    assert step.scaler.get_scale() < scale


def test_the_cache_on_the_device_gives_the_streamed_batches(release: Path) -> None:
    table = SampleTable.from_release(release, split="validation")
    loader = Loader(table, 8, device=GPU, cache=CacheOptions("device"))
    streamed, cached = list(loader), list(loader)
    for first, second in zip(streamed, cached, strict=True):
        assert second.rgb.is_cuda
        for name in ("polyline", "padding", "length", "height", "sample"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        assert_decoded_alike(first.rgb.cpu(), second.rgb)  # nvJPEG decodes one part of a batch in hardware
