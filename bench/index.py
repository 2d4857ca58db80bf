"""Speed of indexing a release, compared with decoding alone, and its growth with the number of labels.

    python -m bench.index runs/release --repeats 5 --records 1000000

It prints three tables; bench/measure/report.py describes the JSON object with all results.

1. Cold: the index of the training split is built (labels, checksums, headers, a full decode of each image, cache
   written). The baselines only decode the same tiles with as many threads: DALI, which decodes in training; OpenCV; and
   simplejpeg, which the index uses. The table also shows how each treats a JPEG whose data end halfway. All take turns;
   the files are in the page cache. On a busy machine CPU time is more reliable than the rates.
2. Warm: 10,000 tiles from a cached index. Images are not read, so they are small.
3. Growth: tables of 10³ … `--records` labels without images, each built in a new process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.table import Table
from simplejpeg import decode_jpeg

from bench.measure.data import label_of, tile_names
from bench.measure.fresh import in_new_process, memory_of
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate, seconds_of
from dali_pipes import SampleTable
from dali_pipes.command import at_least, parse
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.find import open_split
from dali_pipes.release.members import Members
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.index import open_index

BATCH = 64
WARM_TILES = 10_000
FEWEST_LABELS = 1_000
DALI, INDEX = "DALI decode alone", "the index, cold"

Jpegs = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Arguments(Output):
    """Measure the index of a release."""

    release: tyro.conf.Positional[Path]
    """A release; `python -m bench.render` writes one."""
    repeats: int = 5
    """Counted repeats, after one that does not count."""
    records: int = 1_000_000
    """Labels of the largest table in part 3."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: only reported with the results, because the index uses the CPU alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, repeats=self.repeats)
        at_least(FEWEST_LABELS, records=self.records)


# --- Part 1: the cold index and decoding alone.


def _cold(arguments: Arguments, threads: int) -> tuple[Table, dict[str, Any]]:
    archive = open_split(ReleasePaths(arguments.release), "train")[0]
    jpegs = [archive.read(i) for i in range(len(archive.names))]
    pipeline = _pipeline(jpegs, threads)
    batches = -(-len(jpegs) // BATCH)
    works: dict[str, tuple[Callable[[], object], str]] = {
        DALI: (lambda: [pipeline.run() for _ in range(batches)], _verdict(_dali, jpegs[0])),
        "OpenCV decode alone": (partial(_in_threads, _opencv, jpegs, threads), _verdict(_opencv, jpegs[0])),
        "simplejpeg decode alone": (partial(_in_threads, _simplejpeg, jpegs, threads), _verdict(_simplejpeg, jpegs[0])),
        INDEX: (lambda: _index(arguments.release, threads), "reported and skipped"),
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    costs: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(arguments.repeats + 1):
        for name, (work, _) in works.items():
            before = time.process_time()
            seconds = seconds_of(work)
            if repeat:
                rates[name].append(len(jpegs) / seconds)
                costs[name].append((time.process_time() - before) / len(jpegs) * 1e6)
    share = Rate.of([index / dali for index, dali in zip(rates[INDEX], rates[DALI], strict=True)])

    table = grid(f"{len(jpegs)} tiles, {threads} threads: median (lowest–highest)", "tiles/s", "CPU-µs per tile")
    table.add_column("a JPEG whose data end halfway")
    for name, (_, verdict) in works.items():
        table.add_row(name, str(Rate.of(rates[name])), str(Rate.of(costs[name])), verdict)
    table.caption = f"index / DALI: {share:.0%}"
    return table, {
        "tiles": len(jpegs),
        "tiles_per_s": rates,
        "cpu_us_per_tile": costs,
        "index_over_dali": share.each,
        "median": share.median,
    }


def _pipeline(jpegs: Jpegs, threads: int) -> Any:
    import torch

    from bench.measure.baselines import decode_alone

    def batch(step: int) -> Jpegs:
        first = step * BATCH % len(jpegs)
        return jpegs[first : first + BATCH]

    return decode_alone(batch, BATCH, threads, torch.device("cpu"))


def _dali(jpegs: Jpegs) -> None:
    _pipeline(jpegs, 1).run()


def _opencv(jpegs: Jpegs) -> None:
    import cv2

    for jpeg in jpegs:
        if cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB) is None:
            raise ValueError


def _simplejpeg(jpegs: Jpegs) -> None:
    buffer = np.empty(3 * 512 * 512, np.uint8)
    for jpeg in jpegs:
        decode_jpeg(jpeg, "RGB", buffer=buffer, strict=True)


def _in_threads(decode: Callable[[Jpegs], None], jpegs: Jpegs, threads: int) -> None:
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(decode, [jpegs[i : i + BATCH] for i in range(0, len(jpegs), BATCH)]))


def _verdict(decode: Callable[[Jpegs], None], good: NDArray[np.uint8]) -> str:
    """How `decode` treats a JPEG that lost half of its data but not its end marker."""
    bad = np.concatenate([good[: len(good) // 2], good[-2:]])
    try:
        decode([bad])
    except (RuntimeError, ValueError):
        return "refused"
    return "accepted"


def _index(release: Path, threads: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        open_index(ReleasePaths(release, index_cache=Path(cache)), "train", threads=threads)


# --- Part 2: the warm index.


def _warm(repeats: int) -> tuple[Table, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        release, tile = Path(folder), _black_jpeg().tobytes()
        with (
            zipfile.ZipFile(release / "TS_KS.zip", "w") as images,
            zipfile.ZipFile(release / "TL_KS_LINE.zip", "w", zipfile.ZIP_DEFLATED) as labels,
        ):
            for name in tile_names(WARM_TILES):
                images.writestr(f"{name}.jpg", tile)
                labels.writestr(f"{name}.json", label_of(name))
        paths = ReleasePaths(release, index_cache=release / "cache")
        cold, *warm = [seconds_of(lambda: open_index(paths, "train")) for _ in range(1 + repeats)]
    table = grid(f"{WARM_TILES:,} tiles of 512 × 512, all black", "seconds: median (lowest–highest)")
    table.add_row("cold", f"{cold:.2f}")
    table.add_row("warm", f"{Rate.of(warm):.3f}")
    return table, {"tiles": WARM_TILES, "cold_s": cold, "warm_s": warm}


def _black_jpeg() -> NDArray[np.uint8]:
    import cv2

    return cv2.imencode(".jpg", np.zeros((512, 512, 3), np.uint8))[1]


# --- Part 3: growth with the number of labels.


class _Made(Members):
    """`count` VIA labels, or as many equal images, that are generated on access, so that they take no memory."""

    def __init__(self, count: int, suffix: str) -> None:
        self.names = [f"{name}{suffix}" for name in tile_names(count)]
        self._jpeg = _black_jpeg() if suffix == ".jpg" else None

    def read(self, index: int) -> NDArray[np.uint8]:
        label = label_of(self.names[index].removesuffix(".json"))
        return np.frombuffer(label, np.uint8) if self._jpeg is None else self._jpeg


def _growth(largest: int) -> tuple[Table, list[dict[str, float]]]:
    sizes = [size for size in (10**power for power in range(3, 10)) if size < largest] + [largest]
    columns = ("s", "µs per label", "MB above the names", "bytes per label")
    table = grid("Growth with the number of labels", *columns, first="labels")
    results = []
    for size in sizes:
        seconds, peak = in_new_process(_build, size)
        results.append({"labels": size, "seconds": seconds, "bytes": peak})
        figures = (f"{seconds:.2f}", f"{seconds / size * 1e6:.0f}", f"{peak / 1e6:.0f}", f"{peak / size:.0f}")
        table.add_row(f"{size:,}", *figures)
    return table, results


def _build(size: int) -> tuple[float, int]:
    """Seconds to build a table of `size` labels, and the growth of peak memory in bytes."""
    labels, images = _Made(size, ".json"), _Made(size, ".jpg")
    before = memory_of("VmHWM")
    seconds = seconds_of(lambda: SampleTable.from_labels(labels, images))
    return seconds, memory_of("VmHWM") - before


def main(argv: Sequence[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.index", description=__doc__)
        from train.machine.choices import choose_device

        device, threads = choose_device(arguments.device), len(os.sched_getaffinity(0))
        cold, of_cold = _cold(arguments, threads)
        warm, of_warm = _warm(arguments.repeats)
        growth, of_growth = _growth(arguments.records)
        results = {"bench": "index", **asdict(arguments), "cores": threads}
        results |= {"cold": of_cold, "warm": of_warm, "growth": of_growth}
        report([cold, warm, growth], results, device, arguments.json)


if __name__ == "__main__":
    main(sys.argv[1:])
