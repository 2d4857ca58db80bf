"""What DDP's knobs change in a step of several ranks, and what saving a checkpoint takes from the step.

    python -m bench.ranks --ranks 2 --backbone convnext_tiny

Two tables, and one JSON object as the last line.

1.  Steps of the same network on the same random batch under DDP with one knob turned, on ranks of this machine that
    take turns together: milliseconds of a step, and the ratio to the knobs as training has them.
2.  The state of a run of the backbone, weights, AdamW's moments and the average: how long a step waits until it is
    copied, and how long the thread beside the training then takes to write, fsync and rename it into `--folder`.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from bench.measure.baselines import random_batch
from bench.measure.timing import Rate, Work, alternate, ratio, report
from dali_pipes.command import parse
from dali_pipes.errors import exits_with_one_sentence
from model import HeightRegressor
from train.engine.step import Forward, Step
from train.machine.choices import choose_device
from train.run.folder import save_checkpoint
from train.run.ranks import Place, process_group
from train.run.writer import Snapshot

AS_TRAINED = "as in training"
KNOBS: dict[str, dict[str, Any]] = {
    AS_TRAINED: {},
    "without gradient_as_bucket_view": {"gradient_as_bucket_view": False},
    "static_graph": {"static_graph": True},
    "bf16 hook": {"hook": bf16_compress_hook},
}


@dataclass(frozen=True)
class Arguments:
    """Measure the knobs of DDP, and a checkpoint."""

    device: str = "auto"
    """cpu, cuda, or auto."""
    backbone: str = "convnext_tiny"
    """Any ConvNeXt of timm."""
    size: int = 64
    """Side of the frame in pixels."""
    batch: int = 4
    """Samples a rank and step."""
    ranks: int = 2
    """Processes on this machine, each with its own GPU or its share of the cores; 0 leaves the first table out."""
    steps: int = 3
    """Steps a turn."""
    repeats: int = 5
    """Turns, after one that does not count."""
    folder: Path | None = None
    """Where the checkpoint is written; if not given, where this machine keeps temporary files."""


def step_of(arguments: Arguments, device: torch.device, hook: Any = None, **turned: bool) -> Work:
    """A peer: some steps, and the device waited for."""
    torch.manual_seed(0)
    model = HeightRegressor(arguments.backbone, drop_path=0.0).to(device).to(memory_format=torch.channels_last)
    options: dict[str, Any] = {"gradient_as_bucket_view": True, "forward_sync_buffers": False, **turned}
    network = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None, **options)
    if hook:
        network.register_comm_hook(None, hook)
    forward = Forward(model, device, arguments.batch, "bf16" if device.type == "cuda" else "fp32", network=network)
    step = Step(forward, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), 5.0)
    batch, weight = random_batch(arguments.batch, arguments.size, device), torch.ones((), device=device)

    def work() -> int:
        for _ in range(arguments.steps):
            loss = step(batch, weight)
        float(loss)  # waits for the device
        return arguments.steps

    return work


def _rank(rank: int, arguments: Arguments, port: int, out: str) -> None:
    told = {"RANK": rank, "WORLD_SIZE": arguments.ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": arguments.ranks}
    os.environ |= {
        name: str(value) for name, value in {**told, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()
    }
    place = Place.from_environment()
    device = choose_device(place.device(arguments.device))
    with process_group(place, device):
        peers = {name: step_of(arguments, device, **turned) for name, turned in KNOBS.items()}
        rates = alternate(peers, arguments.repeats)
    if place.is_rank_zero:
        torch.save({name: rate.each for name, rate in rates.items()}, out)


def knobs(arguments: Arguments) -> dict[str, Rate]:
    """Steps a second of each variant."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile() as out:
        spawn(_rank, (arguments, port, out.name), nprocs=arguments.ranks)
        return {name: Rate.of(each) for name, each in torch.load(out.name, weights_only=True).items()}


def saving(arguments: Arguments) -> dict[str, Any]:
    """MB of the state, and seconds to copy and to write it."""
    device = choose_device(arguments.device)
    model = HeightRegressor(arguments.backbone).to(device)
    weights = model.state_dict()
    state = {"stats": (0.0, 1.0, 0.0, 1.0), "model": weights}
    for name in ("average", "first moment", "second moment"):
        state[name] = {key: value.clone() for key, value in weights.items()}
    snapshot, copied = Snapshot(), dict[str, Any]()

    def copy() -> None:
        copied.update(snapshot.of(state))

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "last.pt"
        seconds = {"copy": [_seconds(copy) for _ in range(arguments.repeats + 1)][1:]}  # the first makes room
        seconds["write"] = [_seconds(lambda: save_checkpoint(path, copied)) for _ in range(arguments.repeats)]
        size = path.stat().st_size / 1e6
    return {"MB": size, **{name: Rate.of(each) for name, each in seconds.items()}}


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(argv: list[str]) -> None:
    """Measure, and print the tables and one JSON line."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.ranks", description=__doc__)
        device = choose_device(arguments.device)
        rates, saved = knobs(arguments) if arguments.ranks else {}, saving(arguments)
    turned = Table("DDP", "ms a step", "steps/s relative", title=f"{arguments.ranks} ranks, {arguments.backbone}")
    for name, rate in rates.items():
        milliseconds = Rate.of([1000 / each for each in rate.each])
        turned.add_row(name, f"{milliseconds:.1f}", f"{ratio(rate, rates[AS_TRAINED]):.2f}")
    save = Table(
        "checkpoint", "seconds", title=f"last.pt of {arguments.backbone} with an average, {saved['MB']:.0f} MB"
    )
    save.add_row("copied, while the step waits", f"{saved['copy']:.3f}")
    save.add_row("written beside the next steps", f"{saved['write']:.3f}")
    report([turned, save], {"arguments": asdict(arguments), "knobs": rates, "saving": saved}, device)


if __name__ == "__main__":
    main(sys.argv[1:])
