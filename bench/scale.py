"""Cost per sample as the release grows from 10³ to 10⁶ samples, and as the ranks grow from 1 to 1,024.

    python -m bench.scale --release runs/release --figure runs/scale.svg

It prints two tables; bench/measure/report.py describes the JSON object. All costs are CPU time per sample of one rank
on a host, which other programs do not change.

1. Samples: one rank on tables of 10³ … `--samples` rows. `plan` is every step of a whole epoch. `source` is a few
   batches of bytes and masks, as DALI requests them. `bench.loader` measures the memory of streaming.
2. Ranks: the largest table and `--batch-size` samples per rank. The cost is that of the last rank for its own samples.
   The other ranks do not run: a plan needs no communication.

The baseline, `sorted epoch`, is what most samplers do: in each epoch each rank sorts (or permutes) all samples and
takes its part. Its cost per sample of one rank grows in proportion to the number of ranks.

The tables repeat the rows of one release. Images are read from the same places again, so this measures how the code
scales, not the disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from rich.table import Table

from bench.measure.data import repeated
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate, Work, alternate
from dali_pipes import SampleTable
from dali_pipes.batches.view import WHOLE_TILE
from dali_pipes.command import at_least, default_is, parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_whole
from dali_pipes.release.paths import ALIASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dali_pipes.batches.plan import TrainingPlan
    from dali_pipes.batches.source import Source

PLAN, SOURCE, SORTED = "plan", "source", "sorted epoch"
FEWEST = 1_000  # samples of the smallest table
BATCHES = 8  # read per call


@dataclass(frozen=True)
class Arguments(Output):
    """Measure how the cost per sample grows."""

    release: Annotated[Path | None, default_is("one of 600 tiles is rendered")] = None
    """Folder of a release."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: only reported with the results, because all of this runs on the host."""
    samples: int = 1_000_000
    """Rows of the largest table."""
    ranks: int = 1_024
    """Largest number of ranks."""
    batch_size: int = 16
    """Samples per step of one rank."""
    size: int = 224
    """Side of the letterboxed frame in pixels."""
    repeats: int = 5
    """Counted turns of each measurement."""
    figure: Path | None = None
    """File for a figure, .svg, .png or .pdf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, ranks=self.ranks, batch_size=self.batch_size, repeats=self.repeats)
        at_least(32, size=self.size)
        at_least(FEWEST, samples=self.samples)
        at_least(self.ranks * self.batch_size, "a batch of each rank", samples=self.samples)
        if self.figure and self.figure.suffix not in (".svg", ".png", ".pdf"):
            raise InputError(f"--figure takes a name that ends in .svg, .png or .pdf, found {self.figure}")


class Growth(NamedTuple):
    """CPU-µs per sample, by the kind of work and by the number of samples or ranks."""

    by_samples: dict[str, dict[int, Rate]]
    by_ranks: dict[str, dict[int, Rate]]


def measure(arguments: Arguments, release: Path) -> Growth:
    """Measure the growth with samples and with ranks."""
    small = SampleTable.from_release(release)
    sizes = _powers(FEWEST, arguments.samples, 10)
    worlds = _powers(1, arguments.ranks, 4)
    tables = {size: repeated(small, size) for size in sizes}
    return Growth(
        _costs(arguments, {size: (table, 1) for size, table in tables.items()}),
        _costs(arguments, {world: (tables[arguments.samples], world) for world in worlds}),
    )


def _powers(first: int, last: int, base: int) -> list[int]:
    """`first`, `first`·base, … below `last`, and `last`."""
    powers = [first]
    while powers[-1] * base < last:
        powers.append(powers[-1] * base)
    return powers if powers[-1] == last else [*powers, last]


# --- Measurements.


def _costs(arguments: Arguments, cases: Mapping[int, tuple[SampleTable, int]]) -> dict[str, dict[int, Rate]]:
    """CPU-µs per sample of plan, source and baseline, for each case of a table and a number of ranks."""
    from dali_pipes import Shard
    from dali_pipes.batches.plan import TrainingPlan
    from dali_pipes.batches.source import Source

    works: dict[str, Work] = {}
    for case, (table, world) in cases.items():
        # Different seeds, because in one process the ranks would find their epochs in the cache of the plan.
        plan = TrainingPlan(len(table), world * arguments.batch_size, Shard(world - 1, world, seed=world))
        works[f"{PLAN} {case}"] = _plan_epochs(plan)
        works[f"{SOURCE} {case}"] = _read_batches(Source(WHOLE_TILE.frames(table, arguments.size), plan))
        works[f"{SORTED} {case}"] = partial(_sort_an_epoch, plan)
    rates = alternate(works, arguments.repeats, clock=time.process_time)
    return {
        work: {case: Rate.of([1e6 / rate for rate in rates[f"{work} {case}"].each]) for case in cases}
        for work in (PLAN, SOURCE, SORTED)
    }


def _plan_epochs(plan: TrainingPlan) -> Work:
    """Each call plans a whole new epoch, so that work done once per epoch is counted."""
    epochs = count()

    def work() -> int:
        steps, epoch = plan.steps_per_epoch, next(epochs)
        for step in range(epoch * steps, (epoch + 1) * steps):
            plan.ids(step)
        return steps * plan.largest_batch

    return work


def _read_batches(source: Source) -> Work:
    """Each call reads a few batches; their rows are chosen before, because the plan is measured separately."""
    rows = [source.plan.ids(step) for step in range(min(BATCHES, source.plan.steps_per_epoch))]

    def work() -> int:
        for of_batch in rows:
            source.batch(of_batch)
        return sum(map(len, rows))

    return work


def _sort_an_epoch(plan: TrainingPlan) -> int:
    np.argsort(np.random.PCG64(plan.shard.seed).random_raw(plan.samples), kind="stable")
    return plan.steps_per_epoch * plan.largest_batch


# --- Output.


def tables_of(growth: Growth) -> list[Table]:
    """A table by samples, and a table by ranks."""
    largest = max(growth.by_samples[PLAN])
    return [
        _table("samples", growth.by_samples, "of one rank"),
        _table("ranks", growth.by_ranks, f"of one of the ranks that share {largest:,} samples"),
    ]


def _table(cases: str, costs: dict[str, dict[int, Rate]], of_ranks: str) -> Table:
    table = grid(f"CPU-µs per sample {of_ranks}: median (lowest–highest)", *costs, first=cases)
    for case in costs[PLAN]:
        table.add_row(f"{case:,}", *(f"{by_case[case]:,.2f}" for by_case in costs.values()))
    spreads = (f"{name} {spread(by_case):.2f}" for name, by_case in costs.items())
    table.caption = f"highest / lowest cost: {', '.join(spreads)}"
    return table


def spread(by_case: Mapping[int, Rate]) -> float:
    """The highest median cost divided by the lowest: 1 if the cost does not grow."""
    medians = [rate.median for rate in by_case.values()]
    return max(medians) / min(medians)


def draw(growth: Growth, path: Path) -> None:
    """Draw both tables on log axes with their spread. Raises InputError if `path` cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, growth.by_samples, "samples of the release, one rank")
    _draw(right, growth.by_ranks, f"ranks that share {max(growth.by_samples[PLAN]):,} samples")
    left.set_ylabel("CPU-µs per sample of one rank")
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
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.scale", description=__doc__, aliases=ALIASES)
        from bench.render.release import given_or_rendered
        from train.machine.choices import choose_device

        device = choose_device(arguments.device)
        with given_or_rendered(arguments.release) as release:
            growth = measure(arguments, release)
        if arguments.figure:
            draw(growth, arguments.figure)
        flatness = {
            growing: {name: spread(by_case) for name, by_case in costs.items()}
            for growing, costs in (("samples", growth.by_samples), ("ranks", growth.by_ranks))
        }
        results = {"bench": "scale", **asdict(arguments), **growth._asdict(), "dearest_over_cheapest": flatness}
        report(tables_of(growth), results, device, arguments.json)


if __name__ == "__main__":
    main(sys.argv[1:])
