"""The cost of several ranks: a training step on one process and on many, and how long a checkpoint stops the training.

    python -m bench.ranks --ranks 2 --backbone convnext_tiny

It prints two tables; bench/measure/report.py describes the JSON object with all results.

1. Steps of the same network on a random batch per rank, first on one process alone, then on `--ranks` processes of this
   machine under DDP as in training. Efficiency is the step time alone, divided by the step time of all ranks.
2. The state of a run: weights, moments of AdamW and the average of the weights. The step waits until it is copied. Then
   a thread writes it to `--folder` with fsync and rename, while training continues. That thread needs Python's lock
   (GIL) only to list the tensors, not for their bytes: the last row says how long it holds up another thread.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from bench.measure.data import random_batch
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate, alternate, seconds_of
from dali_pipes.command import at_least, default_is, parse
from dali_pipes.errors import exits_with_one_sentence

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Arguments(Output):
    """Measure steps on several ranks, and saving a checkpoint."""

    device: str = "auto"
    """cpu, cuda, or auto."""
    backbone: str = "convnext_tiny"
    """Any ConvNeXt of timm."""
    size: int = 64
    """Side of the frame in pixels."""
    batch: int = 4
    """Samples per rank and step."""
    ranks: int = 2
    """Processes on this machine, each with its own GPU or its share of the cores; 0 skips part 1."""
    steps: int = 3
    """Steps per turn."""
    repeats: int = 5
    """Counted turns, after one that does not count."""
    folder: Annotated[Path | None, default_is("the folder for temporary files")] = None
    """Folder to write the checkpoint to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, ranks=self.ranks)
        at_least(1, batch=self.batch, steps=self.steps, repeats=self.repeats)
        at_least(32, size=self.size)


# --- Part 1: steps.


def steps_per_second(arguments: Arguments, ranks: int) -> Rate:
    """The rate of steps on `ranks` processes under DDP, or on one process without it."""
    import torch
    from torch.multiprocessing.spawn import spawn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile() as out:
        spawn(_rank, (ranks, arguments, port, out.name), nprocs=ranks)
        return Rate.of(torch.load(out.name, weights_only=True))


def _rank(rank: int, ranks: int, arguments: Arguments, port: int, out: str) -> None:
    import torch

    from model import HeightRegressor
    from train.engine.adamw import AdamW
    from train.engine.step import Forward, Step
    from train.machine.choices import choose_device, choose_precision
    from train.run.ranks import Place, data_parallel, process_group

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place = Place(rank, ranks, rank, ranks)
    device = choose_device(place.device(arguments.device))
    with process_group(place, device):
        torch.manual_seed(0)
        model = HeightRegressor(arguments.backbone).to(device).to(memory_format=torch.channels_last)
        network = data_parallel(model, device, compress=False)
        forward = Forward(model, device, arguments.batch, choose_precision("auto", device).value, network=network)
        step = Step(forward, AdamW(model.parameters(), lr=1e-4), 5.0)
        batch, weight = random_batch(arguments.batch, arguments.size, device), torch.ones((), device=device)

        def work() -> int:
            for _ in range(arguments.steps):
                loss = step(batch, weight)
            float(loss)  # waits for the device
            return arguments.steps

        rate = alternate({"steps": work}, arguments.repeats)["steps"]
    if place.is_rank_zero:
        torch.save(rate.each, out)


def step_table(rates: dict[int, Rate], arguments: Arguments) -> Table:
    """Step time, throughput and efficiency by the number of ranks."""
    columns = ("ms per step", "samples/s", "efficiency")
    table = grid(f"{arguments.backbone}, {arguments.batch} samples per rank", *columns, first="ranks")
    for ranks, rate in rates.items():
        milliseconds = Rate.of([1000 / each for each in rate.each])
        samples, efficiency = ranks * arguments.batch * rate.median, rate.median / rates[1].median
        table.add_row(str(ranks), f"{milliseconds:.1f}", f"{samples:,.1f}", f"{efficiency:.0%}")
    return table


# --- Part 2: saving.


def saving(arguments: Arguments, device: torch.device) -> dict[str, Any]:
    """The size of the state in MB, and the seconds to copy it, to write it, and to wait for Python meanwhile."""
    from model import HeightRegressor
    from train.run.folder import save_checkpoint
    from train.run.writer import Snapshot

    weights = HeightRegressor(arguments.backbone).to(device).state_dict()
    state: dict[str, Any] = {"stats": (0.0, 1.0, 0.0, 1.0), "model": weights}
    for name in ("average", "first moment", "second moment"):
        state[name] = {key: value.clone() for key, value in weights.items()}
    snapshot = Snapshot()
    copied = snapshot.of(state)  # the first copy allocates the memory
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "last.pt"
        copy = [seconds_of(lambda: snapshot.of(state)) for _ in range(arguments.repeats)]
        write = [seconds_of(lambda: save_checkpoint(path, copied)) for _ in range(arguments.repeats)]
        stalls = [_stalls(lambda: save_checkpoint(path, copied)) for _ in range(arguments.repeats)]
        size = path.stat().st_size / 1e6
    return {"MB": size, "copy": Rate.of(copy), "write": Rate.of(write), "stalls": Rate.of(stalls)}


def _stalls(job: Callable[[], object]) -> float:
    """Seconds for which this thread stands still while another one does `job`, in stalls of more than a millisecond."""
    gc.collect()
    gc.freeze()  # as training does
    thread = threading.Thread(target=job)
    thread.start()
    stalled, last = 0.0, time.perf_counter()
    while thread.is_alive():
        now = time.perf_counter()
        stalled += now - last if now - last > 1e-3 else 0.0
        last = now
    return stalled


def saving_table(saved: dict[str, Any], arguments: Arguments) -> Table:
    """Seconds to copy and to write the state."""
    table = grid(f"last.pt of {arguments.backbone} with an average, {saved['MB']:.0f} MB", "seconds")
    table.add_row("copied, while the step waits", f"{saved['copy']:.3f}")
    table.add_row("written, while training continues", f"{saved['write']:.3f}")
    table.add_row("of it, Python stands still", f"{saved['stalls']:.3f}")
    return table


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.ranks", description=__doc__)
        from train.machine.choices import choose_device

        device = choose_device(arguments.device)
        worlds = sorted({1, arguments.ranks}) if arguments.ranks else []
        rates = {ranks: steps_per_second(arguments, ranks) for ranks in worlds}
        saved = saving(arguments, device)
        tables = [saving_table(saved, arguments)]
        if rates:
            tables.insert(0, step_table(rates, arguments))
        report(
            tables,
            {"bench": "ranks", **asdict(arguments), "steps_per_s": rates, "saving": saved},
            device,
            arguments.json,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
