"""Throughput of the training step alone: from the reference's eager fp32 NCHW step to ours, compiled.

    python -m bench.step [--device cpu] [--backbones convnext_atto convnext_tiny] [--repeats 5]

The variants of the step update networks of the same architecture on the same random batch, in one process, and take
turns. Each variant keeps the gains of the one above it. The batch is already on the device; `bench.epoch` measures the
cost of copying. The reference's step gets normalised images, ours get uint8 and normalise them. A multiplication and an
addition are two FLOPs. Utilisation is FLOP/s divided by the published dense 16-bit peak of the GPU, and unknown where
that peak is unknown, as on a CPU.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from rich.table import Table

from bench.measure.data import random_batch
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate, Work, alternate, finish, ratio, seconds_of
from dali_pipes.command import at_least, default_is, parse
from dali_pipes.errors import exits_with_one_sentence
from model import BackboneError

if TYPE_CHECKING:
    import torch

    from dali_pipes import Batch
    from model import HeightRegressor

REFERENCE = "the reference's step"
PEAKS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100-PCIE": 112e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Dense 16-bit FLOP/s with fp32 accumulation, by whole words of the GPU's name, the more specific name first.
Source: NVIDIA's data sheets."""
OTHERS = re.compile(r"\b(MIG|Laptop|Max-Q|Ti|D)\b")
"""Words in the name of a part of a GPU or of a different GPU: the peak is unknown."""


@dataclass(frozen=True)
class Arguments(Output):
    """Measure the training step."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    backbones: Annotated[tuple[str, ...], default_is("convnext_atto convnext_tiny, on a GPU also convnext_base")] = ()
    """Names in timm. On a CPU, the fp32 step of convnext_base takes half a minute."""
    batch_size: int = 16
    """Samples per step; the reference uses 16."""
    size: int = 224
    """Side of the frame in pixels."""
    steps: int = 2
    """Steps per turn."""
    repeats: int = 5
    """Counted turns of each variant."""
    compile: Literal["on", "off"] = "on"
    """off skips the compiled variants; each takes a minute to start on a CPU."""
    autotune: Literal["on", "off"] = "on"
    """off skips max-autotune, which takes minutes to start; on a GPU only."""
    profile: Path | None = None
    """File for a trace of ten steps of the last variant, for chrome://tracing or Perfetto."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size, steps=self.steps, repeats=self.repeats)
        at_least(32, size=self.size)


class Parts(NamedTuple):
    """A training step on the common batch, as a whole and in three parts."""

    step: Callable[[], object]
    forward: Callable[[], torch.Tensor]
    """Returns the loss."""
    backward: Callable[[torch.Tensor], object]
    optimiser: Callable[[], object]


@dataclass(frozen=True)
class Variant:
    """One kind of step, after its first step."""

    work: Work
    first_step_s: float
    """Seconds, compilation included; far fewer if the cache of compiled code is warm."""
    peak_bytes: int | None
    """Peak device memory of the second step, above that before the network was built; None on a CPU."""
    parts: Parts


def measure(arguments: Arguments, backbone: str, device: torch.device) -> dict[str, Any]:
    """All variants with one backbone: rates, ratios to the reference's step, memory, utilisation, parts of the step."""
    import torch

    batch = random_batch(arguments.batch_size, arguments.size, device)
    steps = dict(variants(arguments, backbone, batch, device))
    rates = alternate({name: step.work for name, step in steps.items()}, arguments.repeats)
    if arguments.profile:
        trace(list(steps.values())[-1].parts.step, device, arguments.profile)
    flops = flops_per_sample(backbone, arguments.size)
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return {
        "flops_per_sample": flops,
        "rungs": {
            name: {
                "samples_per_s": rates[name],
                "of_the_reference": ratio(rates[name], rates[REFERENCE]),
                "first_step_s": step.first_step_s,
                "peak_bytes": step.peak_bytes,
                "utilisation": rates[name].median * flops / peak if peak else None,
                "parts_ms": milliseconds(step.parts, arguments.repeats, device),
            }
            for name, step in steps.items()
        },
    }


def variants(arguments: Arguments, backbone: str, batch: Batch, device: torch.device) -> Iterator[tuple[str, Variant]]:
    """The variants by name, first the reference's step; each keeps the gains of the one before it."""
    import torch

    from bench.measure.baselines import ReferenceStep
    from train.engine.step import Forward
    from train.machine.choices import choose_compilation, choose_precision

    image = Forward(torch.nn.Identity(), device, len(batch), "fp32").image(batch.rgb, batch.polyline, batch.padding)
    inputs = image.contiguous(), batch.length, batch.height

    def reference() -> Parts:
        step = ReferenceStep(network(backbone, device), device)
        return Parts(lambda: step(*inputs), lambda: step.loss(*inputs), step.backward, step.update)

    yield REFERENCE, ready(reference, arguments, device)

    native = choose_precision("auto", device).value
    ours = [("channels_last, fused AdamW", "fp32", "off", "default")]
    if native != "fp32":
        ours.append((f"+ {native}", native, "off", "default"))
    if arguments.compile == "on" and choose_compilation("on", device).value != "off":
        ours.append(("+ compiled by block", native, "regional", "default"))
        ours.append(("+ compiled whole", native, "whole", "default"))
        if device.type == "cuda" and native != "fp16":
            ours.append(("+ one CUDA graph", native, "whole", "cudagraph"))
        if device.type == "cuda" and arguments.autotune == "on":
            ours.append(("max-autotune, CUDA graphs", native, "whole", "max-autotune"))
    for name, *settings in ours:
        yield name, ready(partial(_our_step, backbone, batch, device, *settings), arguments, device)


def _our_step(backbone: str, batch: Batch, device: torch.device, precision: str, compilation: str, mode: str) -> Parts:
    import torch

    from train.engine.adamw import AdamW
    from train.engine.captured import CapturedStep, CudaGraph
    from train.engine.step import Forward, Step

    model = network(backbone, device).to(memory_format=torch.channels_last)
    captures = mode == "cudagraph"
    mode = "default" if captures else mode
    forward = Forward(model, device, len(batch), precision, compilation=compilation, mode=mode)
    step = Step(forward, AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4), 5.0)
    weight = torch.ones((), device=device)
    captured = CapturedStep(step, None, CudaGraph()) if captures else None
    return Parts(
        (lambda: captured(batch, weight, 1)) if captured else (lambda: step(batch, weight)),
        lambda: forward.loss(batch, weight),
        lambda loss: step.scaler.scale(loss).backward(),
        step.update,
    )


def network(backbone: str, device: torch.device) -> HeightRegressor:
    """A network with random weights and the drop path of the reference."""
    import torch

    from model import HeightRegressor

    torch.manual_seed(0)
    return HeightRegressor(backbone).to(device).train()


def ready(build: Callable[[], Parts], arguments: Arguments, device: torch.device) -> Variant:
    """Build a variant and measure its first step, and on a GPU the memory of a second one."""
    import torch

    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    parts = build()

    def once() -> None:
        parts.step()
        finish(device)

    seconds = seconds_of(once)
    peak = None
    if on_gpu:  # in the first step cuDNN tries algorithms with workspaces that later steps do not need
        torch.cuda.reset_peak_memory_stats(device)
        once()
        peak = torch.cuda.max_memory_allocated(device) - before

    def work() -> int:
        for _ in range(arguments.steps):
            parts.step()
        finish(device)
        return arguments.steps * arguments.batch_size

    return Variant(work, seconds, peak, parts)


def trace(step: Callable[[], object], device: torch.device, path: Path) -> None:
    """Write a trace of ten steps, with host and device, to `path`."""
    import torch

    with torch.profiler.profile() as profiler:
        for _ in range(10):
            step()
        finish(device)
    profiler.export_chrome_trace(str(path))


def milliseconds(parts: Parts, repeats: int, device: torch.device) -> dict[str, Rate]:
    """Milliseconds of forward, backward and optimiser in `repeats` steps; each part waits for the device."""
    times: dict[str, list[float]] = {"forward": [], "backward": [], "optimiser": []}
    for _ in range(repeats):
        marks = [time.perf_counter()]

        def mark(marks: list[float] = marks) -> None:
            finish(device)
            marks.append(time.perf_counter())

        loss = parts.forward()
        mark()
        parts.backward(loss)
        mark()
        parts.optimiser()
        mark()
        for part, begin, end in zip(times.values(), marks, marks[1:], strict=False):
            part.append(1000 * (end - begin))
    return {name: Rate.of(values) for name, values in times.items()}


def flops_per_sample(backbone: str, size: int) -> int:
    """FLOPs per sample: PyTorch counts those of the forward pass on a CPU, and the backward pass has twice as many.

    PyTorch's own count of the backward pass treats depthwise convolutions as dense ones.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from model import HeightRegressor

    model = HeightRegressor(backbone).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 5, size, size), torch.randn(1, 1))
    return 3 * int(counter.get_total_flops())


def peak_flops(gpu: str) -> float | None:
    """The published peak of a GPU by its name in FLOP/s, None if unknown."""
    if OTHERS.search(gpu):
        return None
    return next((peak for words, peak in PEAKS.items() if re.search(rf"\b{words}\b", gpu)), None)


def table_of(backbone: str, results: dict[str, Any], arguments: Arguments) -> Table:
    """One row per variant."""
    title = f"{backbone}, {arguments.size}², batch {arguments.batch_size}: samples per second, median (lowest–highest)"
    columns = ("samples/s", "/ reference", "peak memory", "utilisation", "fwd / bwd / opt, ms", "first step, s")
    table = grid(title, *columns)
    for name, rung in results["rungs"].items():
        peak, utilisation, parts = rung["peak_bytes"], rung["utilisation"], rung["parts_ms"]
        table.add_row(
            name,
            f"{rung['samples_per_s']:,.1f}",
            f"{rung['of_the_reference']:.2f}",
            "unknown" if peak is None else f"{peak / 2**20:,.0f} MiB",
            "unknown" if utilisation is None else f"{utilisation:.0%}",
            " / ".join(f"{part.median:.0f}" for part in parts.values()),
            f"{rung['first_step_s']:.1f}",
        )
    fastest = max(results["rungs"], key=lambda name: results["rungs"][name]["of_the_reference"].median)
    best: Rate = results["rungs"][fastest]["of_the_reference"]
    table.caption = (
        f"{results['flops_per_sample'] / 1e9:.2f} GFLOP per sample, forward and backward;"
        f" fastest: {fastest}, {best:.2f} times as fast as {REFERENCE}"
    )
    return table


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(BackboneError):
        arguments = parse(Arguments, argv, module="bench.step", description=__doc__)
        import torch

        from train.machine.choices import choose_device

        device = choose_device(arguments.device)
        torch.set_float32_matmul_precision("high")  # for all variants, including the reference's
        torch.backends.cudnn.benchmark = True
        small = ("convnext_atto", "convnext_tiny")
        backbones = arguments.backbones or (small if device.type == "cpu" else (*small, "convnext_base"))
        results = {backbone: measure(arguments, backbone, device) for backbone in backbones}
        tables = [table_of(backbone, of_backbone, arguments) for backbone, of_backbone in results.items()]
        report(
            tables,
            {"bench": "step", **asdict(arguments), "peer": REFERENCE, "backbones": results},
            device,
            arguments.json,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
