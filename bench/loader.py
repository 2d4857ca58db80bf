"""Throughput of loading: decode alone, ours streamed and cached, the reference's way, and a tuned DataLoader.

    python -m bench.loader [--release DIR] [--device cpu] [--repeats 5]

Three tables: rates, the seconds to a first batch, and the memory that streaming takes (see fresh.py for both).

All peers load the same samples in the same process call and take turns.  `decode` is the ceiling of everything that
streams: DALI decoding the same JPEGs and nothing else.  `gather` is the floor of everything cached: picking rows from
a uint8 tensor and normalising them in torch, with no loader around it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from rich.table import Table

from bench.measure import fresh
from bench.measure.baselines import ReferenceDataset, TunedDataset, data_loader, unpack
from bench.measure.fresh import resident
from bench.measure.timing import Rate, Work, alternate, at_least, finish, ratio, report
from bench.render.release import given_or_rendered
from dali_pipes import CacheOptions, Loader, SampleTable
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from train.engine.step import Forward
from train.machine.choices import choose_device

REFERENCE, TUNED, CEILING = "reference DataLoader", "tuned DataLoader", "decode alone"
NORMALISED, FLOOR = "ours, cached and normalised", "plain gather and normalise"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    release: Path | None = None
    """Folder of a release; if not given, one of 600 tiles is rendered."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    batch_size: int = 64
    """Samples a batch."""
    size: int = 224
    """Side of the letterboxed frame, in pixels."""
    samples: int = 2560
    """Samples a repeat, at most those of the release; many batches, since DALI has two ready when its turn begins."""
    repeats: int = 5
    """Counted turns of each peer."""
    tiles: int = 8000
    """Tiles of the release whose first batch is waited for: links to those of `release`."""
    batches: int = 20
    """Batches that are streamed before memory is looked at."""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, repeats=self.repeats, batches=self.batches)
        at_least(32, size=self.size)
        at_least(self.batch_size, "a batch", samples=self.samples, tiles=self.tiles)


def measure(arguments: Arguments, release: Path, scratch: Path) -> dict[str, Any]:
    """Rates of all peers, seconds to the first batch, and memory."""
    device = choose_device(arguments.device)
    loose, disk = scratch / "loose", scratch / "disk"
    loose.mkdir()
    whole = SampleTable.from_release(release)
    rows = np.arange(min(len(whole), arguments.samples) // arguments.batch_size * arguments.batch_size)
    if not len(rows):
        raise InputError(f"expected at least {arguments.batch_size} samples in {release}, found {len(whole)}")
    table = whole.select(rows)
    unpack(table, loose)

    def loader(cache: str) -> Loader:
        batch_size, size = arguments.batch_size, arguments.size
        return Loader(table, batch_size, device=device, shuffle=True, size=size, cache=CacheOptions(cache, disk))

    cached = loader("device" if device.type == "cuda" else "host")
    reference = data_loader(ReferenceDataset(table, loose, arguments.size), arguments.batch_size, tuned=False)
    tuned = data_loader(TunedDataset(table, arguments.size), arguments.batch_size, tuned=True)
    peers: dict[str, Work] = {
        REFERENCE: epoch(reference, device),
        TUNED: epoch(tuned, device),
        "ours, streamed": epoch(loader("none"), device),
        CEILING: decode_alone(table, arguments, device),
        "ours, cached": epoch(cached, device),
        "ours, cached on disk": epoch(loader("disk"), device),
        NORMALISED: normalised(cached, arguments, device),
        FLOOR: gather(len(table), arguments, device),
    }
    rates = alternate(peers, arguments.repeats, warm_up=2)  # a cache is full after two epochs
    return {
        "rates": rates,
        "samples": len(table),
        "first_batch": first_batches(sorted(loose.iterdir()), scratch, arguments, device),
        "memory": [
            resident(release, str(device), arguments.batch_size, arguments.batches, times) for times in fresh.TIMES
        ],
    }


def first_batches(loose: list[Path], scratch: Path, arguments: Arguments, device: torch.device) -> dict[str, Rate]:
    """Seconds from the start of a process to its first batch, with a new index and with one that is kept."""
    fresh.grow(loose, scratch / "grown", arguments.tiles)
    waited: dict[str, list[float]] = {"cold": [], "warm": []}
    for repeat in range(arguments.repeats):
        for seconds in waited.values():  # cold first, which leaves the index for warm
            cache = scratch / f"index-{repeat}"
            seconds.append(fresh.first_batch(scratch / "grown", cache, str(device), arguments.batch_size))
    return {name: Rate.of(seconds) for name, seconds in waited.items()}


def epoch(batches: Iterable[Any], device: torch.device) -> Work:
    """One epoch of any loader, and the device's end of it."""

    def work() -> int:
        count = sum(len(batch) if hasattr(batch, "sample") else len(batch[0]) for batch in batches)
        finish(device)
        return count

    return work


def normalised(loader: Loader, arguments: Arguments, device: torch.device) -> Work:
    """A cached epoch with the normalisation that the step makes of it."""
    forward = Forward(torch.nn.Identity(), device, arguments.batch_size, "fp32")
    return epoch(_Mapped(loader, lambda batch: forward.image(batch.rgb, batch.polyline, batch.padding)), device)


def gather(samples: int, arguments: Arguments, device: torch.device) -> Work:
    """Rows of one (N, S, S, 5) uint8 tensor in a random order, normalised by the step's own lines."""
    # Noise, since zeros would be one page of memory, mapped many times, and so always in the processor's cache.
    tiles = torch.randint(0, 256, (samples, arguments.size, arguments.size, 5), dtype=torch.uint8, device=device)
    forward = Forward(torch.nn.Identity(), device, arguments.batch_size, "fp32")
    order = torch.randperm(samples, device=device).split(arguments.batch_size)

    def image(rows: torch.Tensor) -> torch.Tensor:
        return forward.image(*tiles.index_select(0, rows).split((3, 1, 1), dim=-1))

    return epoch(_Mapped(order, image), device)


def decode_alone(table: SampleTable, arguments: Arguments, device: torch.device) -> Work:
    """DALI decoding the same JPEGs with the same threads, and nothing else."""
    source = Loader(table, arguments.batch_size, device=device, shuffle=True, size=arguments.size)
    on_gpu = device.type == "cuda"

    def jpegs(call: int) -> list[Any]:
        return [table.images.read(image) for image in table.image[source.plan.ids(call)].tolist()]

    @pipeline_def(
        batch_size=arguments.batch_size,
        num_threads=source.threads,
        device_id=(device.index or 0) if on_gpu else None,
        exec_dynamic=True,
    )
    def decoded() -> Any:
        encoded = fn.external_source(jpegs, batch=True, dtype=types.UINT8, ndim=1)
        return fn.decoders.image(
            encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB, adjust_orientation=False
        )

    pipeline = decoded()

    def work() -> int:
        for _ in range(len(source)):
            pipeline.run()
        return len(source) * arguments.batch_size

    return work


class _Mapped:
    """`function` of each batch, of every epoch anew."""

    def __init__(self, batches: Iterable[Any], function: Callable[[Any], torch.Tensor]) -> None:
        self._batches, self._function = batches, function

    def __iter__(self) -> Any:
        return ([self._function(batch)] for batch in self._batches)


def table_of(rates: dict[str, Rate]) -> Table:
    """Rates, and their ratios to the reference loader and to the ceiling."""
    title = "Loading, samples a second: median (lowest–highest)"
    table = Table("", title=title, box=None, title_justify="left", caption_justify="left")
    for name in ("samples/s", "of the reference", "of the tuned", "of decode alone"):
        table.add_column(name, justify="right")
    for name, rate in rates.items():
        ratios = (ratio(rate, rates[peer]) for peer in (REFERENCE, TUNED, CEILING))
        table.add_row(name, str(rate), *(f"{found.median:.2f}" for found in ratios))
    table.caption = f"{NORMALISED}: {ratio(rates[NORMALISED], rates[FLOOR]):.2f} of a {FLOOR}"
    return table


def table_of_waits(waits: dict[str, Rate], tiles: int) -> Table:
    """Seconds to the first batch."""
    table = Table("", title=f"First batch of {tiles:,} tiles", box=None, title_justify="left")
    table.add_column("seconds from the start of the process", justify="right")
    for name, rate in waits.items():
        table.add_row(f"{name} index", f"{rate:.2f}")
    return table


def table_of_memory(found: list[dict[str, Any]]) -> Table:
    """What streaming takes, by the size of the release."""
    table = Table("samples", title="Private memory that streaming takes", box=None, title_justify="left")
    for name in ("MB", "bytes a sample more"):
        table.add_column(name, justify="right")
    for one in found:
        rows = one["rows"] - found[0]["rows"]
        more = f"{(one['bytes'] - found[0]['bytes']) / rows:,.0f}" if rows else "–"
        table.add_row(f"{one['rows']:,}", f"{one['bytes'] / 1e6:,.0f}", more)
    return table


def main(argv: list[str]) -> None:
    """The command."""
    with exits_with_one_sentence(), tempfile.TemporaryDirectory() as scratch:
        arguments = parse(Arguments, argv, module="bench.loader", description=__doc__)
        with given_or_rendered(arguments.release) as release:
            results = measure(arguments, release, Path(scratch))
        tables = [
            table_of(results["rates"]),
            table_of_waits(results["first_batch"], arguments.tiles),
            table_of_memory(results["memory"]),
        ]
        report(tables, {"bench": "loader", **asdict(arguments), **results}, choose_device(arguments.device))


if __name__ == "__main__":
    main(sys.argv[1:])
