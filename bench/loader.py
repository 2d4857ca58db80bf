"""Throughput of loading: ours streamed and cached, compared with the reference's loader and a tuned DataLoader.

    python -m bench.loader [--release DIR] [--device cpu] [--repeats 5]

It prints three tables: rates, the seconds to a first batch, and the memory that streaming takes.

All loaders load the same samples in the same process and take turns. `decode alone` is the upper limit of every
streaming loader: DALI decodes the same JPEGs and does nothing else. `plain gather and normalise` is the upper limit of
every cached loader: torch selects rows of a uint8 tensor and normalises them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from bench.measure import fresh
from bench.measure.data import linked_release, unpack, whole_batches
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate, Work, alternate, finish, ratio
from dali_pipes import SampleTable
from dali_pipes.command import at_least, default_is, parse
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.paths import ALIASES

if TYPE_CHECKING:
    import torch

    from dali_pipes import Loader

REFERENCE, TUNED, DECODE = "reference DataLoader", "tuned DataLoader", "decode alone"
NORMALISED, GATHER = "ours, cached and normalised", "plain gather and normalise"
TIMES = (1, 10, 100)
"""How often the table of the memory test repeats its rows."""


@dataclass(frozen=True)
class Arguments(Output):
    """Measure the throughput of loading."""

    release: Annotated[Path | None, default_is("one of 600 tiles is rendered")] = None
    """Folder of a release."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    batch_size: int = 64
    """Samples per batch."""
    size: int = 224
    """Side of the letterboxed frame in pixels."""
    samples: int = 2560
    """Samples per repeat, at most those of the release; take many batches, because DALI prefetches two."""
    repeats: int = 5
    """Counted turns of each loader."""
    tiles: int = 8000
    """Tiles of the release for the first-batch test; they are links to the tiles of --release."""
    batches: int = 20
    """Batches to stream before memory is measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size, repeats=self.repeats, batches=self.batches)
        at_least(32, size=self.size)
        at_least(self.batch_size, "a batch", samples=self.samples, tiles=self.tiles)


def measure(arguments: Arguments, release: Path, scratch: Path) -> dict[str, Any]:
    """The rates of all loaders, the seconds to the first batch, and memory."""
    from train.machine.choices import choose_device

    device = choose_device(arguments.device)
    loose = scratch / "loose"
    loose.mkdir()
    table = whole_batches(release, arguments.samples, arguments.batch_size)
    unpack(table, loose)
    rates = alternate(
        loaders(table, arguments, device, loose, scratch / "disk"),
        arguments.repeats,
        warm_up=2,  # a cache is full after two epochs
    )
    return {
        "rates": rates,
        "samples": len(table),
        "first_batch": first_batches(sorted(loose.iterdir()), scratch, arguments, device),
        "memory": [
            fresh.resident(release, str(device), arguments.batch_size, arguments.batches, times) for times in TIMES
        ],
    }


def loaders(table: SampleTable, arguments: Arguments, device: torch.device, loose: Path, disk: Path) -> dict[str, Work]:
    """An epoch of each loader; `loose` has the JPEGs as files, and `disk` is for the cache on disk."""

    from bench.measure.baselines import ReferenceDataset, TunedDataset, data_loader
    from dali_pipes import CacheOptions, Loader

    def ours(cache: str) -> Loader:
        batch_size, size = arguments.batch_size, arguments.size
        return Loader(table, batch_size, device=device, shuffle=True, size=size, cache=CacheOptions(cache, disk))

    cached = ours("device" if device.type == "cuda" else "host")
    reference = data_loader(ReferenceDataset(table, loose, arguments.size), arguments.batch_size, tuned=False)
    tuned = data_loader(TunedDataset(table, arguments.size), arguments.batch_size, tuned=True)
    return {
        REFERENCE: epoch(reference, device),
        TUNED: epoch(tuned, device),
        "ours, streamed": epoch(ours("none"), device),
        DECODE: decoding(table, arguments, device),
        "ours, cached": epoch(cached, device),
        "ours, cached on disk": epoch(ours("disk"), device),
        NORMALISED: normalised(cached, arguments, device),
        GATHER: gather(len(table), arguments, device),
    }


def first_batches(loose: list[Path], scratch: Path, arguments: Arguments, device: torch.device) -> dict[str, Rate]:
    """Seconds from the start of a process to its first batch: "cold" without an index, "warm" with one."""
    linked_release(loose, scratch / "grown", arguments.tiles)
    waits: dict[str, list[float]] = {"cold": [], "warm": []}
    for repeat in range(arguments.repeats):
        for seconds in waits.values():  # cold comes first and leaves the index for warm
            index = scratch / f"index-{repeat}"
            seconds.append(fresh.first_batch(scratch / "grown", index, str(device), arguments.batch_size))
    return {name: Rate.of(seconds) for name, seconds in waits.items()}


def epoch(batches: Iterable[Any], device: torch.device) -> Work:
    """One epoch of any loader, until the device has finished."""

    def work() -> int:
        count = sum(len(batch) if hasattr(batch, "sample") else len(batch[0]) for batch in batches)
        finish(device)
        return count

    return work


def normalised(loader: Loader, arguments: Arguments, device: torch.device) -> Work:
    """A cached epoch, normalised as in the training step."""
    import torch

    from train.engine.step import Forward

    forward = Forward(torch.nn.Identity(), device, arguments.batch_size, "fp32")
    return epoch(_Mapped(loader, lambda batch: forward.image(batch.rgb, batch.polyline, batch.padding)), device)


def gather(samples: int, arguments: Arguments, device: torch.device) -> Work:
    """Rows of an (N, S, S, 5) uint8 tensor in random order, normalised as in the training step."""
    # Noise, because zeros would be one page of memory, mapped many times and always in the cache of the processor.
    import torch

    from train.engine.step import Forward

    tiles = torch.randint(0, 256, (samples, arguments.size, arguments.size, 5), dtype=torch.uint8, device=device)
    forward = Forward(torch.nn.Identity(), device, arguments.batch_size, "fp32")
    order = torch.randperm(samples, device=device).split(arguments.batch_size)

    def image(rows: torch.Tensor) -> torch.Tensor:
        return forward.image(*tiles.index_select(0, rows).split((3, 1, 1), dim=-1))

    return epoch(_Mapped(order, image), device)


def decoding(table: SampleTable, arguments: Arguments, device: torch.device) -> Work:
    """DALI decodes the same JPEGs with as many threads, and does nothing else."""
    from bench.measure.baselines import decode_alone
    from dali_pipes import Loader

    source = Loader(table, arguments.batch_size, device=device, shuffle=True, size=arguments.size)

    def jpegs(call: int) -> list[Any]:
        return [table.images.read(image) for image in table.image[source.plan.ids(call)].tolist()]

    pipeline = decode_alone(jpegs, arguments.batch_size, source.threads, device)

    def work() -> int:
        for _ in range(len(source)):
            pipeline.run()
        return len(source) * arguments.batch_size

    return work


class _Mapped:
    """`function` of each batch, computed again in each epoch."""

    def __init__(self, batches: Iterable[Any], function: Callable[[Any], torch.Tensor]) -> None:
        self._batches, self._function = batches, function

    def __iter__(self) -> Any:
        return ([self._function(batch)] for batch in self._batches)


# --- Tables.


def rate_table(rates: dict[str, Rate]) -> Table:
    """Rates, and their ratios to the two baselines and to decoding alone."""
    columns = ("samples/s", "/ reference", "/ tuned", "/ decode alone")
    table = grid("Loading, samples per second: median (lowest–highest)", *columns)
    for name, rate in rates.items():
        ratios = (ratio(rate, rates[other]).median for other in (REFERENCE, TUNED, DECODE))
        table.add_row(name, str(rate), *(f"{value:.2f}" for value in ratios))
    table.caption = f"{NORMALISED} / {GATHER}: {ratio(rates[NORMALISED], rates[GATHER]):.2f}"
    return table


def first_batch_table(waits: dict[str, Rate], tiles: int) -> Table:
    """Seconds to the first batch."""
    table = grid(f"First batch of {tiles:,} tiles", "seconds from the start of the process")
    for name, rate in waits.items():
        table.add_row(f"{name} index", f"{rate:.2f}")
    return table


def memory_table(memory: Sequence[dict[str, int]]) -> Table:
    """Memory of streaming by the number of samples."""
    table = grid("Private memory of streaming", "MB", "bytes per additional sample", first="samples")
    for one in memory:
        rows = one["rows"] - memory[0]["rows"]
        more = f"{(one['bytes'] - memory[0]['bytes']) / rows:,.0f}" if rows else "–"
        table.add_row(f"{one['rows']:,}", f"{one['bytes'] / 1e6:,.0f}", more)
    return table


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(), tempfile.TemporaryDirectory() as scratch:
        arguments = parse(Arguments, argv, module="bench.loader", description=__doc__, aliases=ALIASES)
        from bench.render.release import given_or_rendered
        from train.machine.choices import choose_device

        with given_or_rendered(arguments.release) as release:
            results = measure(arguments, release, Path(scratch))
        tables = [
            rate_table(results["rates"]),
            first_batch_table(results["first_batch"], arguments.tiles),
            memory_table(results["memory"]),
        ]
        report(
            tables, {"bench": "loader", **asdict(arguments), **results}, choose_device(arguments.device), arguments.json
        )


if __name__ == "__main__":
    main(sys.argv[1:])
