"""What a sample costs as the release grows from 10³ to 10⁶ samples, and as the ranks grow from 1 to 1,024.

    python -m bench.scale --release runs/release --figure runs/scale.svg

Two tables, one figure, and one JSON object as the last line.  All costs are CPU time for one sample of one rank, on
a host; other programs do not change it.

1.  Samples: one rank on tables of 10³ … `--samples` rows.  `plan` is every step of a whole epoch, `source` a few of
    its batches: bytes and masks, as DALI asks for them.  Memory is that of a process of its own, which builds the
    table and then streams a few batches through DALI: only what the table takes may grow.
2.  Ranks: the largest table and `--batch-size` samples a rank; what the last rank pays for its own samples.  The other
    ranks are not there: a plan asks nobody.

The peer, `sorted epoch`, is what most samplers do: each rank sorts (or permutes) all samples each epoch and takes its
part.  Its cost a sample of one rank grows as fast as the ranks.

The tables are one release's, its rows repeated: pictures are read from the same places again, so this tells how the
code grows, not how a disk does.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bench.measure.fresh import private_memory
from bench.measure.timing import Rate, Work, alternate, at_least, report
from bench.render.release import given_or_rendered
from dali_pipes import Loader, SampleTable, Shard
from dali_pipes.batches.plan import TrainingPlan
from dali_pipes.batches.source import Source
from dali_pipes.batches.view import WHOLE_TILE
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_whole
from train.machine.choices import choose_device

PLAN, SOURCE, PEER = "plan", "source", "sorted epoch"
FEWEST = 1_000  # samples of the smallest table
STREAMED = 8  # batches


@dataclass(frozen=True)
class Arguments:
    """Measure how costs grow."""

    release: Path | None = None
    """Folder of a release; if not given, one of 600 tiles is rendered."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: where the memory test's batches go; all else is the host's."""
    samples: int = 1_000_000
    """Rows of the largest table."""
    ranks: int = 1_024
    """The most ranks."""
    batch_size: int = 16
    """Samples a step of one rank."""
    size: int = 224
    """Side of the letterboxed frame, in pixels."""
    repeats: int = 5
    """Counted turns of each."""
    figure: Path | None = None
    """Where the figure goes, .svg, .png or .pdf; if not given, none is drawn."""

    def __post_init__(self) -> None:
        at_least(1, ranks=self.ranks, batch_size=self.batch_size, repeats=self.repeats)
        at_least(32, size=self.size)
        at_least(FEWEST, samples=self.samples)
        at_least(self.ranks * self.batch_size, "a batch of each rank", samples=self.samples)
        if self.figure and self.figure.suffix not in (".svg", ".png", ".pdf"):
            raise InputError(f"--figure takes a name that ends in .svg, .png or .pdf, found {self.figure}")


class Growth(NamedTuple):
    """CPU-µs a sample, by what is done and by how many samples or ranks there are."""

    by_samples: dict[str, dict[int, Rate]]
    by_ranks: dict[str, dict[int, Rate]]
    memory: dict[int, dict[str, float]]
    """By samples: MB of "table" and of "streaming" above it."""


def measure(arguments: Arguments, release: Path) -> Growth:
    """Measure both ways of growing."""
    small = SampleTable.from_release(release)
    sizes = _powers(FEWEST, arguments.samples, 10)
    worlds = _powers(1, arguments.ranks, 4)
    tables = {size: grown(small, size) for size in sizes}
    return Growth(
        _costs(arguments, {size: (table, 1) for size, table in tables.items()}),
        _costs(arguments, {world: (tables[arguments.samples], world) for world in worlds}),
        {size: _in_own_process(_memory, arguments, release, size) for size in sizes},
    )


def grown(table: SampleTable, samples: int) -> SampleTable:
    """A table of so many rows: those of `table`, over and over."""
    return table.select(np.arange(samples) % len(table))


def _powers(first: int, last: int, base: int) -> list[int]:
    """`first`, `first`·base, … below `last`, and `last`."""
    found = [first]
    while found[-1] * base < last:
        found.append(found[-1] * base)
    return found if found[-1] == last else [*found, last]


# --- Time.


def _costs(arguments: Arguments, cases: Mapping[int, tuple[SampleTable, int]]) -> dict[str, dict[int, Rate]]:
    """CPU-µs a sample of plan, source and peer, for each case of a table and a number of ranks."""
    peers: dict[str, Work] = {}
    for case, (table, world) in cases.items():
        # A seed of its own: in one process the ranks would find each other's epochs in the plan's cache.
        plan = TrainingPlan(len(table), world * arguments.batch_size, Shard(world - 1, world, seed=world))
        peers[f"{PLAN} {case}"] = _Plan(plan)
        peers[f"{SOURCE} {case}"] = _Source(Source(WHOLE_TILE.frames(table, arguments.size), plan))
        peers[f"{PEER} {case}"] = partial(_sort_an_epoch, plan)
    rates = alternate(peers, arguments.repeats, clock=time.process_time)
    return {
        work: {case: Rate.of([1e6 / rate for rate in rates[f"{work} {case}"].each]) for case in cases}
        for work in (PLAN, SOURCE, PEER)
    }


class _Plan:
    """Each turn is a whole epoch that was not seen before, so that what a plan does once an epoch is counted."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan, self._epoch = plan, 0

    def __call__(self) -> int:
        steps = self._plan.steps_per_epoch
        for step in range(self._epoch * steps, (self._epoch + 1) * steps):
            self._plan.ids(step)
        self._epoch += 1
        return steps * self._plan.largest_batch


class _Source:
    """Each turn is a few batches; their rows are chosen beforehand, since the plan is measured apart."""

    def __init__(self, source: Source) -> None:
        plan = source.plan
        self._source = source
        self._rows = [plan.ids(step) for step in range(min(STREAMED, plan.steps_per_epoch))]

    def __call__(self) -> int:
        for rows in self._rows:
            self._source.batch(rows)
        return sum(map(len, self._rows))


def _sort_an_epoch(plan: TrainingPlan) -> int:
    np.argsort(np.random.PCG64(plan.shard.seed).random_raw(plan.samples), kind="stable")
    return plan.steps_per_epoch * plan.largest_batch


# --- Memory.


def _in_own_process(function: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _memory(arguments: Arguments, release: Path, samples: int) -> dict[str, float]:
    small = SampleTable.from_release(release)
    before = private_memory()
    table = grown(small, samples)
    built = private_memory()
    device, size = choose_device(arguments.device), arguments.size
    loader = Loader(table, arguments.batch_size, device=device, size=size, shuffle=True)
    batches = loader.epoch(0)
    for _ in range(min(STREAMED, len(loader))):
        next(batches)
    return {"table": (built - before) / 1e6, "streaming": (private_memory() - built) / 1e6}


# --- What was found.


def tables_of(growth: Growth) -> list[Table]:
    """A table by samples, with memory, and one by ranks."""
    by_samples = _table("samples", growth.by_samples, "of one rank")
    for name in ("table, MB", "streaming, MB above it"):
        by_samples.add_column(name, justify="right")
    for size in growth.by_samples[PLAN]:
        megabytes = [f"{growth.memory[size][name]:,.0f}" for name in ("table", "streaming")]
        by_samples.add_row(*_row(growth.by_samples, size), *megabytes)
    largest = max(growth.by_samples[PLAN])
    by_ranks = _table("ranks", growth.by_ranks, f"of one of the ranks that share {largest:,}")
    for world in growth.by_ranks[PLAN]:
        by_ranks.add_row(*_row(growth.by_ranks, world))
    return [by_samples, by_ranks]


def _table(what: str, costs: dict[str, dict[int, Rate]], whose: str) -> Table:
    table = Table(title=f"CPU-µs a sample {whose}: median (lowest–highest)", box=None, title_justify="left")
    for name in (what, *costs):
        table.add_column(name, justify="right")
    changes = (f"{name} {spread(by_case):.2f}" for name, by_case in costs.items())
    table.caption = f"dearest ÷ cheapest: {', '.join(changes)}"
    return table


def _row(costs: dict[str, dict[int, Rate]], case: int) -> list[str]:
    return [f"{case:,}", *(f"{by_case[case]:,.2f}" for by_case in costs.values())]


def spread(by_case: Mapping[int, Rate]) -> float:
    """The dearest case over the cheapest, by their medians: 1 is flat."""
    medians = [rate.median for rate in by_case.values()]
    return max(medians) / min(medians)


def draw(growth: Growth, path: Path) -> None:
    """Draw both tables, log over log, each cost with its spread.  Raises InputError if `path` cannot be written."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, growth.by_samples, "samples of the release, one rank")
    _draw(right, growth.by_ranks, f"ranks that share {max(growth.by_samples[PLAN]):,} samples")
    left.set_ylabel("CPU-µs for a sample of one rank")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    try:
        write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:]))
    except OSError as error:
        raise InputError(f"--figure {path} cannot be written: {error.strerror}; choose another file") from None


def _draw(axes: Axes, costs: dict[str, dict[int, Rate]], label: str) -> None:
    for (name, by_case), style in zip(costs.items(), ("o-", "s-", "x--"), strict=True):
        medians = np.array([rate.median for rate in by_case.values()])
        ends = np.array([(rate.low, rate.high) for rate in by_case.values()]).T
        axes.errorbar(list(by_case), medians, np.abs(ends - medians), fmt=style, capsize=2, label=name)
    axes.set(xscale="log", yscale="log", xlabel=label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.scale", description=__doc__)
        device = choose_device(arguments.device)
        with given_or_rendered(arguments.release) as release:
            growth = measure(arguments, release)
        if arguments.figure:
            draw(growth, arguments.figure)
        flatness = {
            way: {name: spread(by_case) for name, by_case in costs.items()}
            for way, costs in (("samples", growth.by_samples), ("ranks", growth.by_ranks))
        }
        results = {"bench": "scale", **asdict(arguments), **growth._asdict(), "dearest_over_cheapest": flatness}
        report(tables_of(growth), results, device)


if __name__ == "__main__":
    main(sys.argv[1:])
