"""Throughput of loading: decode alone, ours streamed and cached, the reference's way, and a tuned DataLoader.

    python -m bench.loader [--release DIR] [--device cpu] [--repeats 5]

All peers load the same samples in the same process call and take turns.  `decode` is the ceiling of everything that
streams: DALI decoding the same JPEGs and nothing else.  `gather` is the floor of everything cached: picking rows from
a uint8 tensor and normalising them in torch, with no loader around it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def, types
from rich.table import Table

from bench.reference import ReferenceDataset, TunedDataset, data_loader, unpack
from bench.render import render_release
from bench.timing import Rate, Work, alternate, report
from dali_pipes import Loader, SampleTable
from dali_pipes.command import parse
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.source import Source
from train.environment import choose_device
from train.step import Forward


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
    samples: int = 768
    """Samples a repeat, at most those of the release."""
    repeats: int = 5
    """Counted turns of each peer."""


def measure(arguments: Arguments, release: Path, scratch: Path) -> dict[str, Any]:
    """Rates of all peers, and the seconds to a first batch."""
    device = choose_device(arguments.device)
    began = time.perf_counter()
    whole = SampleTable.from_release(release)
    indexed = time.perf_counter() - began
    rows = torch.arange(min(len(whole), arguments.samples) // arguments.batch_size * arguments.batch_size).numpy()
    table = whole.select(rows)
    unpack(table, scratch)

    def loader(cache: str) -> Loader:
        return Loader(table, arguments.batch_size, device=device, shuffle=True, size=arguments.size, cache=cache)

    began = time.perf_counter()
    next(iter(loader("none")))
    first_batch = time.perf_counter() - began
    cached = loader("device" if device.type == "cuda" else "host")
    reference = data_loader(ReferenceDataset(table, scratch, arguments.size), arguments.batch_size, tuned=False)
    tuned = data_loader(TunedDataset(table, arguments.size), arguments.batch_size, tuned=True)
    peers: dict[str, Work] = {
        "reference DataLoader": epoch(reference, device),
        "tuned DataLoader": epoch(tuned, device),
        "ours, streamed": epoch(loader("none"), device),
        "decode alone": decode_alone(table, arguments, device),
        "ours, cached": epoch(cached, device),
        "ours, cached and normalised": normalised(cached, arguments, device),
        "plain gather and normalise": gather(len(table), arguments, device),
    }
    rates = alternate(peers, arguments.repeats, warm_up=2)  # a cache is full after two epochs
    return {"rates": rates, "index_s": indexed, "first_batch_s": first_batch, "samples": len(table)}


def epoch(batches: Iterable[Any], device: torch.device) -> Work:
    """One epoch of any loader, and the device's end of it."""

    def work() -> int:
        count = sum(len(batch) if hasattr(batch, "sample") else len(batch[0]) for batch in batches)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count

    return work


def normalised(loader: Loader, arguments: Arguments, device: torch.device) -> Work:
    """A cached epoch with the normalisation that the step makes of it."""
    forward = Forward(torch.nn.Identity(), device, arguments.batch_size, "fp32")
    return epoch(_Mapped(loader, lambda batch: forward.image(batch.rgb, batch.polyline, batch.padding)), device)


def gather(samples: int, arguments: Arguments, device: torch.device) -> Work:
    """Rows of one (N, S, S, 5) uint8 tensor in a random order, normalised by the step's own lines."""
    tiles = torch.zeros((samples, arguments.size, arguments.size, 5), dtype=torch.uint8, device=device)
    forward = Forward(torch.nn.Identity(), device, arguments.batch_size, "fp32")
    order = torch.randperm(samples, device=device).split(arguments.batch_size)

    def image(rows: torch.Tensor) -> torch.Tensor:
        return forward.image(*tiles.index_select(0, rows).split((3, 1, 1), dim=-1))

    return epoch(_Mapped(order, image), device)


def decode_alone(table: SampleTable, arguments: Arguments, device: torch.device) -> Work:
    """DALI decoding the same JPEGs with the same threads, and nothing else."""
    source = Loader(table, arguments.batch_size, device=device, shuffle=True, size=arguments.size)
    on_gpu = device.type == "cuda"
    images = Source(table, source.plan, arguments.size)

    def jpegs(call: int) -> list[Any]:
        return [table.images.read(image) for image in table.image[images.plan.ids(call)].tolist()]

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
    table = Table(title="Loading, samples a second: median (lowest–highest)", box=None, title_justify="left")
    table.add_column("")
    for name in ("samples/s", "of the reference", "of decode alone"):
        table.add_column(name, justify="right")
    for name, rate in rates.items():
        ratios = (rate.median / rates[peer].median for peer in ("reference DataLoader", "decode alone"))
        table.add_row(name, str(rate), *(f"{ratio:.2f}" for ratio in ratios))
    return table


def main(argv: list[str]) -> None:
    """The command."""
    with exits_with_one_sentence(), tempfile.TemporaryDirectory() as scratch:
        arguments = parse(Arguments, argv, module="bench.loader", description=__doc__)
        release = arguments.release
        if release is None:
            release = Path(scratch) / "release"
            render_release(release, train=600, val=1, scenes=20)
        loose = Path(scratch) / "loose"
        loose.mkdir()
        results = measure(arguments, release, loose)
        table = table_of(results["rates"])
        table.caption = (
            f"{results['samples']} samples; labels and headers read in {results['index_s']:.2f} s,"
            f" first batch {results['first_batch_s']:.2f} s later"
        )
        report(table, {"bench": "loader", **asdict(arguments), **results}, choose_device(arguments.device))


if __name__ == "__main__":
    main(sys.argv[1:])
