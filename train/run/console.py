"""The console of a run: what is trained, how far it is, one line for each epoch, and what to do with the result.

`dali_pipes/console.py` draws the bar on a terminal, and prints lines elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from dali_pipes.console import activity, cell, open_console, say
from dali_pipes.units import count

from ..scores.evaluation import Evaluation, headline_rows
from ..scores.metrics import NETWORK

EPOCH = "{:>5} {:>8} {:>11} {:>9} {:>7} {:>8} {:>9} {:>6} {:>8}"
COLUMNS = ("epoch", "loss", "RMSE", "MAE", "NLL", "rate", "samples/s", "wait", "time")


@dataclass(frozen=True)
class StepStatus:
    """The progress of a run at a log step."""

    epoch: int
    """From 1."""
    step: int
    """Completed steps of the epoch."""
    loss: float
    samples_per_s: float
    data_wait: float
    """Share of the epoch's time so far that was spent waiting for data, 0 to 1."""
    seconds_left: float
    """An estimate for all remaining epochs."""


class RunConsole:
    """Shows a run. Within `with`, the current stage is shown, too: as a bar, or as a line every ten seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or open_console()
        self._activity = activity(self.console, "starting")
        self._best = math.inf
        self._has_epochs = False

    def __enter__(self) -> RunConsole:
        self._activity.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._activity.__exit__(*exception)

    def note(self, text: str) -> None:
        """Print one line, such as a choice and its reason."""
        say(self.console, text)

    def header(self, facts: Mapping[str, str]) -> None:
        """Print what is trained, one fact per row."""
        table = Table.grid("", "", padding=(0, 2))
        table.columns[0].style = "dim"
        table.columns[0].no_wrap = True
        table.columns[1].overflow = "fold"
        for name, value in facts.items():
            table.add_row(cell(name), cell(value))
        self.console.print(table)

    def stage(self, title: str, total: int | None = None, figures: str = "") -> None:
        """Begin the next part of the run, of `total` steps if their number is known."""
        self._activity.begin(title, total)
        self._activity.figures = figures

    def advance(self, done: int) -> None:
        """Set how many steps of the stage are done. It only stores the number: a thread shows it."""
        self._activity.done = done

    def log_step(self, now: StepStatus) -> None:
        """Show a log step."""
        facts = [f"loss {now.loss:.4f}", f"{now.samples_per_s:.0f} samples/s", f"{now.data_wait:.1%} waiting for data"]
        if math.isfinite(self._best):
            facts.append(f"best RMSE {_metres(self._best)}")
        self._activity.figures = ", ".join(facts)
        self._activity.left = now.seconds_left

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Print one line for an epoch, from its record in metrics.jsonl."""
        is_best = record["rmse"] < self._best
        self._best = min(self._best, record["rmse"])
        cells = (
            str(record["epoch"]),
            f"{record['train_loss']:.4f}",
            _metres(record["rmse"]) + (" *" if is_best else "  "),
            _metres(record["mae"]),
            f"{record['nll']:.3f}",
            f"{record['learning_rate']:.1e}",
            f"{record['samples_per_s']:.0f}",
            f"{record['data_wait']:.1%}",
            str(timedelta(seconds=round(record["seconds"]))),  # narrower than `duration`: 80 columns are enough
        )
        if not self.console.is_interactive:
            self.note(
                f"epoch {cells[0]} done in {cells[8]}: train loss {cells[1]}, {record['measured_on']} RMSE"
                f" {cells[2].strip()}, MAE {cells[3]}, NLL {cells[4]}"
            )
            return
        if not self._has_epochs:
            self.note(f"scores of the {record['measured_on']} samples; * is the best epoch so far")
            self.note(EPOCH.format(*COLUMNS))
            self._has_epochs = True
        self.note(EPOCH.format(*cells))

    def result(self, evaluation: Evaluation, next_commands: Mapping[str, str]) -> None:
        """Print the scores of the headline, and what to do with the network: purpose → command."""
        self.console.print(score_table(evaluation))
        self.console.print()
        for purpose, command in next_commands.items():
            self.note(f"{purpose}:")
            self.note(f"  {command}")


def score_table(evaluation: Evaluation) -> Group:
    """The scores of the headline for a terminal, below a line that names their samples."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")  # a narrow terminal may wrap names, but must not cut numbers
    for name in ("RMSE", "MAE", "bias", "NLL"):
        table.add_column(name, justify="right", no_wrap=True)
    rows, part = headline_rows(evaluation), evaluation.leading
    for row in rows:
        table.add_row(cell(row.title), *row.figures, style="bold cyan" if row.predictor == NETWORK else None)
    if part is None:
        return Group("no samples were evaluated")
    samples = f"{count(len(part), 'sample')} in {count(part.scenes, 'scene')}"
    line = f"Heights in metres: {part.title}, {samples}; scenes seen in training: {rows[0].seen}"
    optimistic = ["optimistic: the best epoch was chosen on these samples"] if part.optimistic else []
    return Group("", cell(line), table, *optimistic)


def _metres(value: float) -> str:
    return f"{value:.2f} m" if math.isfinite(value) else "–"
