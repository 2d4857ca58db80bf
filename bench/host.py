"""Host time of a training step: how fast Python can queue the work of a step, whatever the device.

    python -m bench.host --release DIR [--backbones convnext_tiny convnext_base] [--repeats 5]

A GPU that is faster than this waits for the host. The work itself is made so small that it hardly counts: forward and
backward run on one image of 32 × 32 pixels, all layers eight channels wide; in the other rows every parameter has one
element, and a frame 4 × 4 pixels. A compiled step, or one captured as a CUDA graph, queues less than this eager one.
The `meta` device would be no better: there torch takes lists of tensors apart in Python, which no real device does.
Times are CPU times of one thread.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from bench.measure.report import grid, report
from bench.measure.timing import Rate
from dali_pipes.command import at_least, parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from model import BackboneError

if TYPE_CHECKING:
    import torch

    from model import HeightRegressor

FRAME = 4
"""Side of the cached frames in pixels."""
SAMPLES = 512
"""In the cache, at most."""


@dataclass(frozen=True)
class Arguments:
    """Measure the host time of a training step."""

    release: Path
    """Folder with a release; its first samples fill a cache."""
    backbones: tuple[str, ...] = ("convnext_tiny", "convnext_base")
    """Names in timm."""
    batch_size: int = 16
    """Samples per step."""
    steps: int = 10
    """Steps per turn."""
    repeats: int = 5
    """Counted turns."""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, steps=self.steps, repeats=self.repeats)


def measure(arguments: Arguments, backbone: str) -> dict[str, Rate]:
    """CPU milliseconds of each part of a step, by name."""
    parts = {**network_parts(backbone), **update_parts(backbone)}
    parts["cached batch"] = batches(arguments.release, arguments.batch_size, augmented=False)
    parts["cached batch, augmented"] = batches(arguments.release, arguments.batch_size, augmented=True)
    times: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(arguments.repeats + 1):
        for name, work in parts.items():
            began = time.thread_time()
            for _ in range(arguments.steps):
                work()
            if turn:  # the first turn warms up
                times[name].append(1e3 * (time.thread_time() - began) / arguments.steps)
    return {name: Rate.of(values) for name, values in times.items()}


def network_parts(backbone: str) -> dict[str, Callable[[], object]]:
    """Forward and backward of an eager backbone that has all its layers, eight channels wide, on one small image."""
    import timm
    import torch

    network = timm.create_model(backbone, in_chans=5, num_classes=0, dims=(8, 8, 8, 8))
    network.to(memory_format=torch.channels_last)
    image = torch.zeros(1, 5, 32, 32).to(memory_format=torch.channels_last)
    losses: list[torch.Tensor] = []
    return {
        "forward": lambda: losses.append(network(image).mean()),
        "backward": lambda: losses.pop().backward(),
    }


def update_parts(backbone: str) -> dict[str, Callable[[], object]]:
    """Clipping with AdamW, and the moving average, on one element per parameter: ours, and torch's and timm's own."""
    import torch
    from timm.utils.model_ema import ModelEmaV3

    from train.engine.adamw import AdamW
    from train.engine.average import MovingAverage
    from train.engine.step import Forward, Step

    cpu, model = torch.device("cpu"), shrunk(backbone)
    optimizer = AdamW(model.parameters(), lr=1e-4)
    step = Step(Forward(model, cpu, 1, "fp32"), optimizer, clip_norm=5.0)
    gradients = [(parameter, torch.ones_like(parameter)) for parameter in model.parameters()]

    def update() -> None:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        step.update()

    plain = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def plain_update() -> None:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        plain.step()
        plain.zero_grad(set_to_none=True)

    average, plain_average = MovingAverage(model, 0.99), ModelEmaV3(model, 0.99, use_warmup=True)
    return {
        "clip and AdamW": update,
        "the same by torch": plain_update,
        "moving average": partial(average.update_after, 1000),
        "the same by timm": partial(plain_average.update, model, step=1000),
    }


def shrunk(backbone: str) -> HeightRegressor:
    """The network with all its modules and names, but one element per parameter."""
    from model import HeightRegressor

    model = HeightRegressor(backbone)
    for parameter in model.parameters():
        parameter.data = parameter.data.flatten()[:1].clone()
    return model


def batches(release: Path, count: int, *, augmented: bool) -> Callable[[], object]:
    """The next batch of a loader whose cache is complete."""
    from bench.measure.data import whole_batches
    from dali_pipes import CacheOptions, Loader
    from dali_pipes.batches.augment import Augmentation

    changes = Augmentation(hflip=0.5, vflip=0.5, rot90=0.5, brightness=0.2, contrast=0.2) if augmented else None
    loader = Loader(
        whole_batches(release, SAMPLES, count),
        count,
        shuffle=True,
        size=FRAME,
        cache=CacheOptions("host"),
        augmentation=changes,
    )
    for _ in (*loader, *loader):  # the second epoch completes the cache
        pass
    return partial(next, (batch for _ in itertools.count() for batch in loader))


def table(results: dict[str, dict[str, Rate]]) -> Table:
    """One column per backbone."""
    rows = grid("Host time, CPU ms a step: median (lowest–highest)", *results, first="part")
    for part in next(iter(results.values())):
        rows.add_row(part, *(f"{times[part]:.2f}" for times in results.values()))
    return rows


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(InputError, BackboneError):
        arguments = parse(Arguments, argv, module="bench.host", description=__doc__)
        import torch

        torch.set_num_threads(1)
        results = {backbone: measure(arguments, backbone) for backbone in arguments.backbones}
        report([table(results)], {"bench": "host", **asdict(arguments), "ms": results}, torch.device("cpu"))


if __name__ == "__main__":
    main(sys.argv[1:])
