"""How fast a release is indexed, against decoding alone, and how time and memory grow with the number of labels.

    python -m bench.index runs/release --repeats 5 --records 1000000

Three tables, and one JSON object as the last line:

1. Cold: the index of the training split (labels, checksums, headers, one full decode, the cache written) against
   decoders that only decode the same tiles with as many threads.  The peer is DALI, which decodes in training;
   OpenCV and the index's own decoder stand beside it, with what each makes of a JPEG whose data end halfway.  The
   contestants take turns within each repeat; the share is the median over repeats of index ÷ DALI.  The files are in
   the page cache for all.  Where others use the machine, trust the CPU time rather than the rates.
2. Warm: the same for 10,000 tiles from the cache.  Pictures are not read then, so these are small.
3. Growth: tables of 10³ … `--records` rendered labels without pictures, each in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from rich.table import Table
from simplejpeg import decode_jpeg

from bench.measure.timing import at_least, report
from dali_pipes import SampleTable
from dali_pipes.command import parse
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.find import open_split
from dali_pipes.release.members import Members
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.index import open_index
from train.machine.choices import choose_device

from .measure.fresh import LABEL

BATCH = 64
WARM_TILES = 10_000
FEWEST_RECORDS = 1_000

Jpegs = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Arguments:
    """Measure the index of a release."""

    release: tyro.conf.Positional[Path]
    """A release; `python -m bench.render` writes one."""
    repeats: int = 5
    """Times that each is measured, after one run that is not counted."""
    records: int = 1_000_000
    """Labels of the largest table of the third part."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: only named beside the results, since the index is the processor's work."""

    def __post_init__(self) -> None:
        at_least(1, repeats=self.repeats)
        at_least(FEWEST_RECORDS, records=self.records)


def measure(arguments: Arguments) -> tuple[list[Table], dict[str, Any]]:
    """Run all three parts → their tables and the figures.  Raises InputError without a release."""
    threads = len(os.sched_getaffinity(0))
    cold, of_cold = _cold(arguments, threads)
    warm, of_warm = _warm(arguments.repeats)
    growth, of_growth = _growth(arguments)
    return [cold, warm, growth], {"cores": threads, "cold": of_cold, "warm": of_warm, "growth": of_growth}


# --- Cold: the index against decoding alone.


def _cold(arguments: Arguments, threads: int) -> tuple[Table, dict[str, Any]]:
    archive = open_split(ReleasePaths(arguments.release), "train")[0]
    jpegs = [archive.read(i) for i in range(len(archive.names))]
    pipeline = _decode_only(jpegs, batch_size=BATCH, num_threads=threads, device_id=None, exec_dynamic=True)
    steps = -(-len(jpegs) // BATCH)
    contestants: dict[str, tuple[Callable[[], object], str]] = {
        "DALI decode alone": (lambda: [pipeline.run() for _ in range(steps)], _verdict(_dali, jpegs[0])),
        "OpenCV decode alone": (partial(_in_threads, _opencv, jpegs, threads), _verdict(_opencv, jpegs[0])),
        "simplejpeg decode alone": (partial(_in_threads, _simplejpeg, jpegs, threads), _verdict(_simplejpeg, jpegs[0])),
        "the index, cold": (lambda: _index(arguments.release, threads), "names it, and goes on"),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    costs: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(arguments.repeats + 1):
        for name, (work, _) in contestants.items():
            before = time.process_time()
            seconds = _seconds(work)
            if repeat:
                rates[name].append(len(jpegs) / seconds)
                costs[name].append((time.process_time() - before) / len(jpegs) * 1e6)
    shares = [mine / peer for mine, peer in zip(rates["the index, cold"], rates["DALI decode alone"], strict=True)]

    grid = Table("", title=f"{len(jpegs)} tiles, {threads} threads", title_justify="left")
    for heading in ("tiles/s, median", "least", "most", "CPU-µs a tile"):
        grid.add_column(heading, justify="right")
    grid.add_column("a JPEG whose data end halfway")
    for name, (_, verdict) in contestants.items():
        found = rates[name]
        figures = (median(found), min(found), max(found), median(costs[name]))
        grid.add_row(name, *(f"{value:,.0f}" for value in figures), verdict)
    grid.caption = f"index ÷ DALI: {median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
    return grid, {
        "tiles": len(jpegs),
        "tiles_per_s": rates,
        "cpu_us_per_tile": costs,
        "index_over_dali": shares,
        "median": median(shares),
    }


@pipeline_def
def _decode_only(jpegs: Jpegs) -> Any:
    def batch(step: int) -> Jpegs:
        first = step * BATCH % len(jpegs)
        return jpegs[first : first + BATCH]

    encoded = fn.external_source(batch, batch=True, no_copy=True, dtype=types.UINT8, ndim=1)
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)


def _dali(jpegs: Jpegs) -> None:
    _decode_only(jpegs, batch_size=BATCH, num_threads=1, device_id=None, exec_dynamic=True).run()


def _opencv(jpegs: Jpegs) -> None:
    for jpeg in jpegs:
        if cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB) is None:
            raise ValueError


def _simplejpeg(jpegs: Jpegs) -> None:
    buffer = np.empty(3 * 512 * 512, np.uint8)
    for jpeg in jpegs:
        decode_jpeg(jpeg, "RGB", buffer=buffer, strict=True)


def _in_threads(decode: Callable[[Jpegs], None], jpegs: Jpegs, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, [jpegs[i : i + BATCH] for i in range(0, len(jpegs), BATCH)]))


def _verdict(decode: Callable[[Jpegs], None], good: NDArray[np.uint8]) -> str:
    """What `decode` makes of a JPEG that lost half of its data but not its end marker."""
    bad = np.concatenate([good[: len(good) // 2], good[-2:]])
    try:
        decode([bad])
    except (RuntimeError, ValueError):
        return "refused"
    return "taken for an image"


def _index(release: Path, threads: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        open_index(ReleasePaths(release, index_cache=Path(cache)), "train", threads=threads)


# --- Warm: from the cache.


def _warm(repeats: int) -> tuple[Table, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder)
        tile = cv2.imencode(".jpg", np.zeros((512, 512, 3), np.uint8))[1].tobytes()
        names = [f"K3_CHN_{20210518050720 + i // 40}_{i % 40}" for i in range(WARM_TILES)]
        with (
            zipfile.ZipFile(release / "TS_KS.zip", "w") as images,
            zipfile.ZipFile(release / "TL_KS_LINE.zip", "w", zipfile.ZIP_DEFLATED) as labels,
        ):
            for name in names:
                images.writestr(f"{name}.jpg", tile)
                labels.writestr(f"{name}.json", LABEL.replace(b"NAME", name.encode()))
        paths = ReleasePaths(release, index_cache=release / "cache")
        cold = _seconds(lambda: open_index(paths, "train"))
        warm = [_seconds(lambda: open_index(paths, "train")) for _ in range(repeats)]
    grid = Table("", "seconds", title=f"{WARM_TILES:,} tiles of 512 × 512, all black", title_justify="left")
    grid.add_row("cold", f"{cold:.2f}")
    grid.add_row("warm, median (least to most)", f"{median(warm):.3f} ({min(warm):.3f} to {max(warm):.3f})")
    return grid, {"tiles": WARM_TILES, "cold_s": cold, "warm_s": warm}


# --- Growth: a table of many labels.


class _Labels(Members):
    """So many VIA labels, written when they are read."""

    def __init__(self, count: int) -> None:
        self.names = [f"K3_CHN_{i // 40:014d}_{i % 40}.json" for i in range(count)]

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.frombuffer(LABEL.replace(b"NAME", self.names[index][:-5].encode()), np.uint8)


class _Heads(Members):
    """The images of these labels, as far as their headers go."""

    def __init__(self, count: int) -> None:
        self.names = [f"K3_CHN_{i // 40:014d}_{i % 40}.jpg" for i in range(count)]
        self._jpeg = cv2.imencode(".jpg", np.zeros((512, 512, 3), np.uint8))[1]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._jpeg


def _growth(arguments: Arguments) -> tuple[Table, list[dict[str, float]]]:
    sizes = [size for size in (10**power for power in range(3, 10)) if size < arguments.records] + [arguments.records]
    grid = Table(
        "labels", "s", "µs a label", "MB above the names", "bytes a label", title="growth", title_justify="left"
    )
    found = []
    for size in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            seconds, peak = process.submit(_build, size).result()
        found.append({"labels": size, "seconds": seconds, "bytes": peak})
        cells = (
            f"{size:,}",
            f"{seconds:.2f}",
            f"{seconds / size * 1e6:.0f}",
            f"{peak / 1e6:.0f}",
            f"{peak / size:.0f}",
        )
        grid.add_row(*cells)
    return grid, found


def _build(size: int) -> tuple[float, int]:
    """Seconds and bytes at the peak of building one table, above what this process took before."""
    labels, heads = _Labels(size), _Heads(size)
    before = _peak()
    seconds = _seconds(lambda: SampleTable.from_labels(labels, heads))
    return seconds, _peak() - before


def _peak() -> int:
    """Bytes of memory that this process ever had; unlike getrusage's, without those of the process it came from."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(argv: Sequence[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.index", description=__doc__)
        device = choose_device(arguments.device)
        tables, figures = measure(arguments)
        report(tables, {"bench": "index", **asdict(arguments), **figures}, device)


if __name__ == "__main__":
    main(sys.argv[1:])
