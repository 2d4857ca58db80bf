"""Throughput of the step alone: from the reference's eager fp32 NCHW up to ours, compiled.

    python -m bench.step [--device cpu] [--backbones convnext_atto convnext_tiny] [--repeats 5]

The rungs of the ladder update networks of the same architecture on the same random batch, in one process, and take
turns.  The batch lies on the device for all: what the reference's way of copying costs, `bench.epoch` tells.  The
reference's step gets its images normalised already; ours get uint8 and normalise them.  A multiplication and addition
are two FLOPs; utilisation is their rate over the published dense 16-bit peak of the GPU, and unknown where that is not
known, as on a CPU.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from bench.measure.baselines import ReferenceStep
from bench.measure.timing import Rate, Work, alternate, at_least, finish, ratio, report
from dali_pipes import Batch
from dali_pipes.command import parse
from dali_pipes.errors import exits_with_one_sentence
from model import BackboneError, HeightRegressor
from train.engine.step import Forward, Step
from train.machine.choices import choose_compilation, choose_device, choose_precision

from .measure.baselines import random_batch

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
"""Dense 16-bit FLOP/s with fp32 accumulation by whole words of the GPU's name, the more specific first; NVIDIA's data
sheets."""
OTHERS = re.compile(r"\b(MIG|Laptop|Max-Q|Ti|D)\b")
"""A part of a GPU, or another one that shares its name: of these the peak is unknown."""


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    backbones: tuple[str, ...] = ()
    """timm's names; if not given, convnext_atto and convnext_tiny, and on a GPU convnext_base, too, whose fp32 step
    takes a CPU half a minute."""
    batch_size: int = 16
    """Samples a step, the reference's 16."""
    size: int = 224
    """Side of the frame, in pixels."""
    steps: int = 2
    """Steps a turn."""
    repeats: int = 5
    """Counted turns of each rung."""
    compile: Literal["on", "off"] = "on"
    """off leaves the compiled rungs out, which take a minute each to start on a CPU."""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, steps=self.steps, repeats=self.repeats)
        at_least(32, size=self.size)


class Way(NamedTuple):
    """A step on the batch that all take: whole, and taken apart."""

    step: Callable[[], object]
    forward: Callable[[], torch.Tensor]
    """Returns the loss."""
    backward: Callable[[torch.Tensor], object]
    optimiser: Callable[[], object]


@dataclass(frozen=True)
class Rung:
    """One way of stepping, made ready by a first step."""

    work: Work
    first_step_s: float
    """Seconds, the compiler's included; with a warm cache of compiled code far fewer."""
    peak_bytes: int | None
    """Most device memory of the second step, above what lay there before the network; None on a CPU."""
    way: Way


def measure(arguments: Arguments, backbone: str, device: torch.device) -> dict[str, Any]:
    """All rungs of one backbone: rates, ratios to the reference's step, memory, utilisation, the parts of a step."""
    batch = random_batch(arguments.batch_size, arguments.size, device)
    rungs = dict(ladder(arguments, backbone, batch, device))
    rates = alternate({name: rung.work for name, rung in rungs.items()}, arguments.repeats)
    flops = flops_per_sample(backbone, arguments.size)
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return {
        "flops_per_sample": flops,
        "rungs": {
            name: {
                "samples_per_s": rates[name],
                "of_the_reference": ratio(rates[name], rates[REFERENCE]),
                "first_step_s": rung.first_step_s,
                "peak_bytes": rung.peak_bytes,
                "utilisation": rates[name].median * flops / peak if peak else None,
                "parts_ms": milliseconds(rung.way, arguments.repeats, device),
            }
            for name, rung in rungs.items()
        },
    }


def ladder(arguments: Arguments, backbone: str, batch: Batch, device: torch.device) -> Iterator[tuple[str, Rung]]:
    """The rungs, from the reference's step upwards; each keeps what the one before it gained."""
    image = Forward(torch.nn.Identity(), device, len(batch), "fp32").image(batch.rgb, batch.polyline, batch.padding)
    inputs = image.contiguous(), batch.length, batch.height

    def reference() -> Way:
        step = ReferenceStep(network(backbone, device), device)
        return Way(lambda: step(*inputs), lambda: step.loss(*inputs), step.backward, step.update)

    yield REFERENCE, ready(reference, arguments, device)

    native = choose_precision("auto", device).value
    ours = [("channels_last, fused AdamW", "fp32", "off", "default")]
    if native != "fp32":
        ours.append((f"+ {native}", native, "off", "default"))
    if arguments.compile == "on" and choose_compilation("on", device).value != "off":
        ours.append(("+ compiled by block", native, "regional", "default"))
        ours.append(("+ compiled whole", native, "whole", "default"))
        if device.type == "cuda":
            ours.append(("+ max-autotune, CUDA graphs", native, "whole", "max-autotune"))
    weight = torch.ones((), device=device)
    for name, precision, compilation, mode in ours:

        def way(precision: str = precision, compilation: str = compilation, mode: str = mode) -> Way:
            model = network(backbone, device).to(memory_format=torch.channels_last)
            forward = Forward(model, device, len(batch), precision, compilation=compilation, mode=mode)
            adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
            step = Step(forward, adamw, 5.0)
            return Way(
                lambda: step(batch, weight),
                lambda: forward.loss(batch, weight),
                lambda loss: step.scaler.scale(loss).backward(),
                step.update,
            )

        yield name, ready(way, arguments, device)


def network(backbone: str, device: torch.device) -> HeightRegressor:
    """A network with random weights and the reference's drop path."""
    torch.manual_seed(0)
    return HeightRegressor(backbone).to(device).train()


def ready(build: Callable[[], Way], arguments: Arguments, device: torch.device) -> Rung:
    """Build a way, take its first step, and keep what that cost; on a GPU, the memory of a second one."""
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    way = build()
    began = time.perf_counter()
    way.step()
    finish(device)
    seconds = time.perf_counter() - began
    peak = None
    if on_gpu:  # in the first step cuDNN tries its algorithms, whose workspaces no later one has
        torch.cuda.reset_peak_memory_stats(device)
        way.step()
        finish(device)
        peak = torch.cuda.max_memory_allocated(device) - before

    def work() -> int:
        for _ in range(arguments.steps):
            way.step()
        finish(device)
        return arguments.steps * arguments.batch_size

    return Rung(work, seconds, peak, way)


def milliseconds(way: Way, repeats: int, device: torch.device) -> dict[str, Rate]:
    """Forward, backward and optimiser of `repeats` steps, the device waited for after each part."""
    taken: dict[str, list[float]] = {"forward": [], "backward": [], "optimiser": []}
    for _ in range(repeats):
        marks = [time.perf_counter()]

        def mark(marks: list[float] = marks) -> None:
            finish(device)
            marks.append(time.perf_counter())

        loss = way.forward()
        mark()
        way.backward(loss)
        mark()
        way.optimiser()
        mark()
        for part, begin, end in zip(taken.values(), marks, marks[1:], strict=False):
            part.append(1000 * (end - begin))
    return {name: Rate.of(values) for name, values in taken.items()}


def flops_per_sample(backbone: str, size: int) -> int:
    """FLOPs of one sample: those of the forward, counted by PyTorch while a CPU computes it, and twice as many for the
    backward.  PyTorch's own count of the backward takes depthwise convolutions for dense ones."""
    model = HeightRegressor(backbone).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 5, size, size), torch.randn(1, 1))
    return 3 * int(counter.get_total_flops())


def peak_flops(gpu: str) -> float | None:
    """The published peak of a GPU by its name, None where it is not in the table."""
    if OTHERS.search(gpu):
        return None
    return next((peak for words, peak in PEAKS.items() if re.search(rf"\b{words}\b", gpu)), None)


def table_of(backbone: str, found: dict[str, Any], arguments: Arguments) -> Table:
    """One row a rung."""
    title = f"{backbone}, {arguments.size}², batch {arguments.batch_size}: samples a second, median (lowest–highest)"
    table = Table(title=title, box=None, title_justify="left", caption_justify="left")
    table.add_column("")
    columns = ("samples/s", "of the reference", "peak memory", "utilisation", "fwd / bwd / opt ms", "first step s")
    for name in columns:
        table.add_column(name, justify="right")
    for name, rung in found["rungs"].items():
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
    fastest = max(found["rungs"], key=lambda name: found["rungs"][name]["of_the_reference"].median)
    best: Rate = found["rungs"][fastest]["of_the_reference"]
    table.caption = (
        f"{found['flops_per_sample'] / 1e9:.2f} GFLOP a sample, forward and backward;"
        f" fastest: {fastest}, {best:.2f} times {REFERENCE}"
    )
    return table


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError):
        arguments = parse(Arguments, argv, module="bench.step", description=__doc__)
        device = choose_device(arguments.device)
        torch.set_float32_matmul_precision("high")  # for all rungs, the reference's, too
        torch.backends.cudnn.benchmark = True
        small = ("convnext_atto", "convnext_tiny")
        backbones = arguments.backbones or (small if device.type == "cpu" else (*small, "convnext_base"))
        found = {backbone: measure(arguments, backbone, device) for backbone in backbones}
        tables = [table_of(backbone, results, arguments) for backbone, results in found.items()]
        report(tables, {"bench": "step", **asdict(arguments), "peer": REFERENCE, "backbones": found}, device)


if __name__ == "__main__":
    main(sys.argv[1:])
