"""Seconds from a release without an index to the end of the first epoch's data, with one pass over the images or two.

    python -m bench.cold --release runs/release --tiles 8000
    python -m bench.cold --release runs/release --tiles 8000 --rate 50 --delay 5

It prints one table; bench/measure/report.py describes the JSON object with all results.

Each row is a new process on a CPU. It builds the index of the training split and takes every batch of the first epoch
into a cache, without training on it. With two passes, the index decodes each image, and the loader once more. With one
pass, the cache takes the tiles of the index. `--rate` and `--delay` slow down each read of an image, as a slow disk or
a network does: all reads share the rate, while the delays of reads by different threads overlap.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from bench.measure.data import linked_release, unpack
from bench.measure.fresh import in_new_process
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate
from dali_pipes import SampleTable
from dali_pipes.command import at_least, default_is, parse
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.find import open_split
from dali_pipes.release.members import Members, Merged
from dali_pipes.release.paths import ALIASES, ReleasePaths, Split
from dali_pipes.samples.index import open_index

PASSES = {"two passes": False, "one pass": True}
Run = dict[str, float]
"""Of one process: seconds of the "index" and of the "epoch", and "reads" of each image."""


@dataclass(frozen=True)
class Arguments(Output):
    """Measure a cold start to the end of the first epoch's data."""

    release: Annotated[Path | None, default_is("one of 600 tiles is rendered")] = None
    """Folder of a release."""
    tiles: int = 8000
    """Tiles of the release that is loaded; they are links to the tiles of --release."""
    caches: tuple[str, ...] = ("host", "disk")
    """Caches to fill: host, disk."""
    rate: float = 0.0
    """MB per second at which images are read. 0: no limit."""
    delay: float = 0.0
    """Milliseconds that each read takes in addition."""
    batch_size: int = 64
    """Samples per batch."""
    size: int = 224
    """Side of the letterboxed frame in pixels."""
    repeats: int = 3
    """Processes of each row, which take turns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size, repeats=self.repeats)
        at_least(self.batch_size, "a batch", tiles=self.tiles)


class Throttled(Merged):
    """The files of `source`, each read as if from a slow disk: `rate` in bytes/s, 0 without a limit, `delay` in s."""

    def __init__(self, source: Members, rate: float, delay: float) -> None:
        super().__init__(source)
        self.reads = 0
        self._rate, self._delay = rate, delay
        self._lock, self._free_at = threading.Lock(), 0.0

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of file `index` as (n,) uint8."""
        data = super().read(index)
        with self._lock:
            self.reads += 1
            now = time.perf_counter()
            self._free_at = max(now, self._free_at) + (len(data) / self._rate if self._rate else 0.0)
            wait = self._free_at - now + self._delay
        if wait > 0:
            time.sleep(wait)
        return data


def measure(arguments: Arguments, release: Path) -> dict[str, list[Run]]:
    """The runs of each row."""
    rows = [(f"{cache}, {passes}", cache, one) for cache in arguments.caches for passes, one in PASSES.items()]
    runs: dict[str, list[Run]] = {name: [] for name, _, _ in rows}
    for _ in range(arguments.repeats):
        for name, cache, one_pass in rows:
            runs[name].append(in_new_process(_cold_start, arguments, release, cache, one_pass))
    return runs


def _cold_start(arguments: Arguments, release: Path, cache: str, one_pass: bool) -> Run:
    began = time.perf_counter()
    from dali_pipes import CacheOptions, Loader
    from dali_pipes.batches.first_pass import FirstPass
    from dali_pipes.batches.view import WHOLE_TILE

    opened: list[Throttled] = []

    def slowly(paths: ReleasePaths, split: Split) -> tuple[Members, Members]:
        images, labels = open_split(paths, split)
        opened.append(Throttled(images, arguments.rate * 1e6, arguments.delay / 1e3))
        return opened[0], labels

    first_pass = FirstPass(WHOLE_TILE, arguments.size) if one_pass else None
    with tempfile.TemporaryDirectory(dir=release.parent) as folder:
        with patch("dali_pipes.samples.index.open_split", slowly):
            paths = ReleasePaths(release, index_cache=Path(folder))
            table = open_index(paths, "train", keeper=first_pass).table
        indexed = time.perf_counter()
        options = CacheOptions(cache, Path(folder))
        loader = Loader(
            table, arguments.batch_size, shuffle=True, size=arguments.size, cache=options, first_pass=first_pass
        )
        for batch in loader:
            del batch
        ended = time.perf_counter()
    reads = opened[0].reads / len(np.unique(table.image))
    return {"index": indexed - began, "epoch": ended - indexed, "reads": reads}


def cold_table(arguments: Arguments, runs: dict[str, list[Run]]) -> Table:
    """Seconds of each row."""
    disk = f"{arguments.rate:g} MB/s and {arguments.delay:g} ms a read" if arguments.rate else "the disk as it is"
    title = f"{arguments.tiles:,} tiles, {disk}: median (lowest–highest)"
    table = grid(title, "index, s", "first epoch, s", "both, s", "reads per image")
    for name, each in runs.items():
        both = Rate.of([run["index"] + run["epoch"] for run in each])
        index, epoch = (Rate.of([run[part] for run in each]) for part in ("index", "epoch"))
        table.add_row(name, f"{index:.1f}", f"{epoch:.1f}", f"{both:.1f}", f"{each[0]['reads']:.2f}")
    return table


def main(argv: Sequence[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(), tempfile.TemporaryDirectory() as folder:
        arguments = parse(Arguments, argv, module="bench.cold", description=__doc__, aliases=ALIASES)
        from bench.render.release import given_or_rendered
        from train.machine.choices import choose_device

        loose, many = Path(folder) / "loose", Path(folder) / "release"
        loose.mkdir()
        with given_or_rendered(arguments.release) as release:
            unpack(SampleTable.from_release(release), loose)
        linked_release(sorted(loose.iterdir()), many, arguments.tiles)
        runs = measure(arguments, many)
        results: dict[str, Any] = {"bench": "cold", **asdict(arguments), "runs": runs}
        report([cold_table(arguments, runs)], results, choose_device("cpu"), arguments.json)


if __name__ == "__main__":
    main(sys.argv[1:])
