"""The console of a run: a live view on a terminal, plain lines elsewhere, and tables at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dali_pipes.console import cell, say
from dali_pipes.units import duration

from ..scores.evaluation import Evaluation
from ..scores.metrics import NETWORK


@dataclass(frozen=True)
class StepStatus:
    """The progress of a run at a log step."""

    epoch: int
    """From 1."""
    epochs: int
    step: int
    """From 1, in the epoch."""
    steps: int
    loss: float
    learning_rate: float
    samples_per_s: float
    data_wait: float
    """Share of the epoch's time so far that was spent waiting for data, 0 to 1."""
    seconds_left: float
    """An estimate for all remaining epochs."""


class RunConsole:
    """Shows a run; a context manager. On a terminal it redraws one view; elsewhere it prints lines."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live: Live | None = None
        self._epochs = _epoch_table()
        self._best = math.inf

    def __enter__(self) -> RunConsole:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.update(self._epochs)
            self._live.stop()

    def note(self, text: str) -> None:
        """Print one line, such as a choice and its reason."""
        say(self.console, text)

    def log_step(self, now: StepStatus) -> None:
        """Show a log step."""
        if self._live:
            self._live.update(Group(self._epochs, _view(now, self._best)))
        else:
            facts = ", ".join(f"{name} {value}" for name, value in _facts(now, self._best).items())
            self.note(f"epoch {now.epoch}/{now.epochs} step {now.step}/{now.steps}: {facts}")

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Show the end of an epoch, from its record in metrics.jsonl."""
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
        self._epochs.caption = f"{record['measured_on']}; * is the best so far"
        self._epochs.add_row(*cells)
        if self._live:
            self._live.update(self._epochs)
        else:
            self.note(
                f"epoch {cells[0]} done in {cells[8]}: train loss {cells[1]}, {record['measured_on']} RMSE"
                f" {cells[2].strip()}, MAE {cells[3]}, NLL {cells[4]}"
            )


def _epoch_table() -> Table:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    for name in ("epoch", "train\nloss", "RMSE", "MAE", "NLL", "learning\nrate", "samples/s", "data\nwait", "time"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    return table


def _view(now: StepStatus, best: float) -> Table:
    facts = {"epoch": f"{now.epoch} of {now.epochs}", "step": f"{now.step} of {now.steps}", **_facts(now, best)}
    view = Table.grid(padding=(0, 3))
    view.add_row(*(Text(name, style="dim") for name in facts))
    view.add_row(*facts.values())
    whole = Table.grid()
    whole.add_row("")
    whole.add_row(view)
    done = (now.epoch - 1) * now.steps + now.step
    whole.add_row(ProgressBar(total=now.epochs * now.steps, completed=done, width=60))
    return whole


def _facts(now: StepStatus, best: float) -> dict[str, str]:
    return {
        "loss": f"{now.loss:.4f}",
        "samples/s": f"{now.samples_per_s:.0f}",
        "waiting for data": f"{now.data_wait:.1%}",
        "learning rate": f"{now.learning_rate:.2e}",
        "best RMSE": _metres(best),
        "time left": duration(now.seconds_left),
    }


def score_table(evaluation: Evaluation) -> Table:
    """The score table of the report for a terminal. Groups on which the best epoch was selected are marked."""
    table = Table(title="Heights in metres", title_justify="left", box=None, pad_edge=False, caption_justify="left")
    if any(part.optimistic for part in evaluation.parts):
        table.caption = "optimistic: the best epoch was chosen on these samples"
    table.add_column("", overflow="fold")  # a narrow terminal may wrap names, but must not cut numbers
    for name in ("samples", "scenes seen", "RMSE", "MAE", "bias", "NLL"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in evaluation.parts:
        table.add_row(cell(part.title), style="bold")
        for row in part.rows.values():
            cells = (str(row.scores.n), row.seen, *row.figures)
            table.add_row(cell(f"  {row.title}"), *cells, style="bold cyan" if row.predictor == NETWORK else None)
    return table


def _metres(value: float) -> str:
    return f"{value:.2f} m" if math.isfinite(value) else "–"
