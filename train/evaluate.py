"""Predict a table with a network, and report a checkpoint on a release.

python -m train.evaluate --checkpoint runs/one/best.pt --release DIR --out DIR
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from dali_pipes import command
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.release.paths import ReleasePaths
from model import BackboneError, CheckpointError

from .engine.trained import completed, evaluate, forward_of, load_trained, refine
from .machine.choices import choose_device, describe
from .recipe.data import beside, counts, load_tables
from .report.page import write_report
from .run.console import score_table
from .scores.evaluation import Evaluation
from .scores.predictions import write_predictions


@dataclass(frozen=True)
class Arguments:
    """Evaluate a checkpoint on a release's validation split: report.html, predictions.csv and a table of scores."""

    checkpoint: Path
    """A run folder, a best.pt or last.pt of one, or a .pth in the reference's layout."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    out: Path
    """Folder for report.html and predictions.csv."""

    split: Literal["official", "scene"] | None = None
    """official: the release's own validation split; scene: the fold that validated in training (fold 0 of 5 where the
    checkpoint knows none); if not given, as in training."""

    pool: Literal["none", "scene"] = "scene"
    """scene: report beside each polyline's own height the one that all polylines of its scene together tell; none:
    where scenes are not one acquisition each."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""

    batch_size: int = 64
    """Samples a step."""


def report(arguments: Arguments) -> None:
    """Evaluate as the command line says.  Raises InputError, CheckpointError or BackboneError on bad input."""
    device = choose_device(arguments.device)
    trained = load_trained(arguments.checkpoint)
    division = replace(trained.division, by=arguments.split or trained.division.by)
    console = Console()
    paths = arguments.paths.cached_in(beside(arguments.out))
    tables = load_tables(paths, division, trained.held_out, trained.select_on, console=console)
    trained = completed(trained, tables.training)
    forward = forward_of(trained, device, arguments.batch_size)
    predictions = refine(trained, evaluate(trained, tables, forward), arguments.pool)
    assert trained.baselines is not None
    evaluation = Evaluation.of(predictions, trained.baselines)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_predictions(arguments.out / "predictions.csv", predictions)
        write_report(
            arguments.out / "report.html",
            evaluation,
            title=f"{arguments.checkpoint} on {paths.release.name}",
            history=[],
            config={"checkpoint": str(arguments.checkpoint), "size": trained.size, "precision": forward.precision},
            environment=describe(device),
            training={"release": str(paths.release), "split": division.by, **counts(tables)["training"]},
        )
    except OSError as error:
        raise InputError(f"--out {arguments.out} cannot be written: {error.strerror}; choose another folder") from None
    console.print(score_table(evaluation))
    console.print(f"report: {arguments.out / 'report.html'}")


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        report(command.parse(Arguments, argv, module="train.evaluate", description=__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
