"""What each view costs: CPU time to make its frames, and samples per second streamed, next to the plain crop.

    python -m bench.views [--release DIR] [--repeats 5]

The views take turns in one process. `crop` and `aligned` show windows of the same size.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from bench.measure.data import whole_batches
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate, alternate, finish, ratio
from dali_pipes.batches.view import View, ViewKind
from dali_pipes.command import at_least, parse
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.paths import ALIASES

BASELINE = "crop"


@dataclass(frozen=True)
class Arguments(Output):
    """Measure what each view costs."""

    release: Path | None = None
    """Folder of a release. Default: one of 600 tiles is rendered."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    batch_size: int = 64
    """Samples per batch."""
    size: int = 224
    """Side of a frame in pixels."""
    crop: int = 160
    """Side of a window in pixels of the tile."""
    samples: int = 1280
    """Samples per repeat, at most those of the release."""
    repeats: int = 5
    """Counted turns of each view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size, repeats=self.repeats, crop=self.crop)
        at_least(32, size=self.size)
        at_least(self.batch_size, "a batch", samples=self.samples)


def measure(arguments: Arguments, release: Path) -> dict[str, dict[str, Rate]]:
    """For each clock the samples per second of all views."""
    from dali_pipes import Loader
    from train.machine.choices import choose_device

    device = choose_device(arguments.device)
    table = whole_batches(release, arguments.samples, arguments.batch_size)

    def epoch(kind: ViewKind) -> Any:
        view = View(kind, arguments.crop)
        loader = Loader(table, arguments.batch_size, device=device, shuffle=True, size=arguments.size, view=view)

        def work() -> int:
            count = sum(map(len, loader))
            finish(device)
            return count

        return work

    works = {kind: epoch(kind) for kind in get_args(ViewKind)}
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    return {name: alternate(works, arguments.repeats, clock=clock) for name, clock in clocks.items()}


def views_table(rates: dict[str, dict[str, Rate]]) -> Table:
    """Rates and CPU time of each view, and their ratios to the plain crop."""
    columns = ("samples/s", f"/ {BASELINE}", "CPU ms a sample", f"/ {BASELINE}")
    table = grid("Streaming each view: median (lowest–highest)", *columns, first="view")
    for kind, rate in rates["wall"].items():
        cpu = rates["cpu"][kind]
        spent = Rate.of([1e3 / each for each in cpu.each])
        more = ratio(rates["cpu"][BASELINE], cpu)
        table.add_row(kind, str(rate), f"{ratio(rate, rates['wall'][BASELINE]):.2f}", f"{spent:.2f}", f"{more:.2f}")
    return table


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.views", description=__doc__, aliases=ALIASES)
        from bench.render.release import given_or_rendered
        from train.machine.choices import choose_device

        with given_or_rendered(arguments.release) as release:
            rates = measure(arguments, release)
        results = {"bench": "views", **asdict(arguments), "rates": rates}
        report([views_table(rates)], results, choose_device(arguments.device), arguments.json)


if __name__ == "__main__":
    main(sys.argv[1:])
