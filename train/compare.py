"""Compare runs in a table, and in a figure of their RMSE by epoch.

    python -m train.compare runs/one runs/two --out comparison.svg

The scores are computed from each run's predictions.csv and metrics.jsonl. Samples are compared by name, and the table
marks groups that do not have the same samples in all runs.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from dali_pipes import command
from dali_pipes.console import cell, printable, say
from dali_pipes.errors import InputError, exits_with_one_sentence, first_line
from dali_pipes.files import read_text, write_whole
from dali_pipes.samples.csv_text import unescaped
from dali_pipes.samples.splits import VALIDATION

from .recipe.flags import is_settings
from .scores.metrics import Scores, score

LARGEST_FILE = 128 << 20  # bytes of a file of a run
HINT = "name run folders of chimney train"
OPTIMISTIC = "‡ optimistic: the run's best epoch was chosen on these samples"


@dataclass(frozen=True)
class Run:
    """A finished run. `groups`: group of samples → scores; `samples`: group → tile and polyline of each sample."""

    name: str
    config: dict[str, Any]
    history: list[dict[str, Any]]
    groups: dict[str, Scores]
    samples: dict[str, frozenset[tuple[str, str]]]

    @property
    def selected_on(self) -> str:
        """The group that selected the best epoch; "validation", as in the reference, if the settings name none."""
        return str(self.config.get("data", {}).get("select_on", VALIDATION))


def read_run(folder: Path) -> Run:
    """Read a finished run. Raises InputError if `folder` is not one."""
    readers = {"config.json": _config, "metrics.jsonl": _history, "predictions.csv": _rows}
    contents: dict[str, Any] = {}
    for name, reader in readers.items():
        try:
            contents[name] = reader(read_text(folder / name, LARGEST_FILE))
        except (OSError, ValueError, RecursionError, csv.Error) as error:  # noqa: PERF203
            why = getattr(error, "strerror", None) or first_line(error)
            raise InputError(f"{folder} holds no finished run: {name}: {why}; {HINT}") from None
    groups: dict[str, Scores] = {}
    samples = {}
    rows: list[_Row] = contents["predictions.csv"]
    for group in dict.fromkeys(row.group for row in rows):
        these = [row for row in rows if row.group == group]
        groups[group] = score(*np.array([row.metres for row in these]).T)
        samples[group] = frozenset((row.tile, row.polyline) for row in these)
    return Run(folder.resolve().name, contents["config.json"], contents["metrics.jsonl"], groups, samples)


class _Row(NamedTuple):
    """What is compared of a row of predictions.csv."""

    group: str
    tile: str
    polyline: str
    metres: tuple[float, ...]
    """True height, and mean and deviation of the predicted one; these two may be NaN."""


def _config(text: str) -> dict[str, Any]:
    """The configuration in config.json. Raises ValueError for JSON of another shape."""
    config = json.loads(text)
    if not is_settings(config) or not isinstance(config.get("data", {}), dict):
        raise ValueError("expected names with values")
    return dict(config)


def _history(text: str) -> list[dict[str, Any]]:
    """The epochs in metrics.jsonl. Raises ValueError, with the number of the line, for another shape."""
    history = []
    for i, line in enumerate(text.splitlines(), 1):
        try:
            epoch = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {i} is cut short or damaged ({error})") from None
        numbers = [epoch.get(name) for name in ("epoch", "rmse")] if isinstance(epoch, dict) else ["nothing"]
        if not all(value is None or type(value) in (int, float) for value in numbers):
            raise ValueError(f"expected an epoch with its numbers in line {i}")
        history.append(epoch)
    return history


def _rows(text: str) -> list[_Row]:
    """The rows of predictions.csv. Raises ValueError, with the number of the line, for another shape."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    for row in reader:
        try:
            metres = tuple(float(row[name]) for name in ("height_m", "mu_m", "sigma_m"))
            rows.append(_Row(row["group"], unescaped(row["tile"]), row["polyline"], metres))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(f"line {reader.line_num} lacks a column or a number") from None
        if not math.isfinite(metres[0]) or None in (row["group"], row["polyline"]):
            raise ValueError(f"line {reader.line_num} has no true height")
    if not rows:
        raise ValueError("expected rows, found none")
    return rows


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read finished runs, each once. A run is named after its folder, or after its path if two share a name.

    Raises InputError if a folder is not a finished run.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    runs = [read_run(folder) for folder in distinct]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(folder)) if names.count(run.name) > 1 else run
        for run, folder in zip(runs, distinct, strict=True)
    ]


def comparison_table(runs: list[Run]) -> Table:
    """One row for each run and group of samples.

    † marks a group that does not have the same samples in all runs, and ‡ a group that selected the run's best epoch.
    """
    groups = {group for run in runs for group in run.samples}
    same = {group for group in groups if len({run.samples.get(group) for run in runs}) == 1}
    captions = [
        *(["† not the same samples in all runs"] if same != groups else []),
        *([OPTIMISTIC] if any(run.selected_on in run.groups for run in runs) else []),
    ]
    table = Table(box=None, pad_edge=False, caption="\n".join(captions) or None, caption_justify="left")
    for name in ("run", "backbone", "epochs", "samples"):
        table.add_column(name, overflow="fold")  # a narrow terminal may wrap names, but must not cut numbers
    for name in ("n", "RMSE, m", "MAE, m", "bias, m", "NLL"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        for group, scores in run.groups.items():
            values = (scores.rmse, scores.mae, scores.bias, scores.nll)
            cells = (
                run.name,
                str(run.config.get("backbone", "–")),
                str(len(run.history)),
                group + ("" if group in same else " †") + (" ‡" if group == run.selected_on else ""),
            )
            table.add_row(*map(cell, cells), str(scores.n), *(f"{x:.2f}" if math.isfinite(x) else "–" for x in values))
    return table


@dataclass(frozen=True)
class Arguments:
    """Compare runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders of chimney train."""

    out: Path | None = None
    """Where to write a figure of RMSE by epoch: a .svg, .png or .pdf file. Without it, no figure is written."""


def compare(arguments: Arguments) -> None:
    """Run the command with `arguments`. Raises InputError on bad input."""
    from .report.figures import rmse_by_epoch

    if not arguments.runs:
        raise InputError(f"expected at least one run, found none; {HINT}")
    suffix = arguments.out.suffix.lower() if arguments.out is not None else ".svg"
    if suffix not in (".svg", ".png", ".pdf"):
        raise InputError(f"--out takes a figure that ends in .svg, .png or .pdf, found {arguments.out}")
    if arguments.out is not None:
        command.check_out(arguments.out)
    runs = read_runs(arguments.runs)
    console = Console()
    console.print(comparison_table(runs))
    if arguments.out is not None:
        image = io.BytesIO()
        histories = {printable(run.name): run.history for run in runs}
        rmse_by_epoch(histories).savefig(image, format=suffix[1:], dpi=150)
        write_whole(arguments.out, lambda file: file.write(image.getvalue()))
        say(console, f"figure: {arguments.out}")


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        compare(command.parse(Arguments, argv, module="train.compare", description=__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
