"""Evaluate a checkpoint on a release, and write the report of a run or of a checkpoint.

For example, to repeat the report of a run, or to report it on another release:

    python -m train.evaluate --checkpoint runs/one/best.pt --release DIR --out DIR
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dali_pipes import command
from dali_pipes.command import check_out_folder
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.release.paths import ALIASES, ReleasePaths
from model import BackboneError, CheckpointError

from .recipe.data import default_index_folder
from .run.console import RunConsole, score_table
from .run.lease import check_still_ours, lease
from .scores.evaluation import Evaluation
from .scores.predictions import write_predictions

if TYPE_CHECKING:
    from .engine.run import FinishedRun


@dataclass(frozen=True)
class Arguments:
    """Evaluate a checkpoint on the validation split of a release: report.html, predictions.csv and a score table."""

    checkpoint: Path
    """A run folder, its best.pt or last.pt, or a .pth file of the reference."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    out: Path
    """Folder for report.html and predictions.csv."""

    split: Literal["official", "scene"] | None = None
    """official: the release's own validation split.
    scene: the fold of whole scenes that was validation in training (fold 0 of 5 if the checkpoint stores none).
    Default: as in training."""

    pool: Literal["none", "scene"] = "scene"
    """scene: also report each height pooled over all polylines of its scene.
    none: no pooling; use it if a scene is not one acquisition."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""

    batch_size: int = 64
    """Samples per batch."""

    statistics: Path | None = None
    """Needed only for a bare state dict: a JSON file of length mean, length std, height mean and height std, or the
    release that it was trained on."""


def report(run: FinishedRun) -> None:
    """Evaluate the best epoch of `run`, write report.html and predictions.csv, and print the scores."""
    from .engine.run import evaluate_best
    from .report.figures import rmse_by_epoch

    check_still_ours(run.folder.path)
    training, config = run.training, asdict(run.training.config)
    predictions = evaluate_best(run)
    _write(
        run.folder.path,
        run.console,
        Evaluation.of(predictions, training.baselines),
        title=run.folder.path.name,
        history=training.history,
        config=config,
        environment=training.environment,
        training={
            "release": str(run.release),
            "split": training.config.data.split,
            **run.datasets.counts()["training"],
            "seconds": sum(record["seconds"] for record in training.history),
        },
    )
    scores = {f"{group.name} RMSE": group.rmse() for group in predictions}
    run.tracker.finish(config, scores, lambda: rmse_by_epoch({"this run": training.history}))


def evaluate_checkpoint(arguments: Arguments) -> None:
    """Run the command. Raises InputError, CheckpointError or BackboneError for bad input."""
    from .engine.trained import calibrate_and_pool, completed, evaluate, forward_of, load_trained
    from .machine.choices import choose_device, describe
    from .recipe.data import load_datasets

    check_out_folder(arguments.out)
    device = choose_device(arguments.device)
    trained = load_trained(arguments.checkpoint, arguments.statistics)
    division = replace(trained.division, by=arguments.split or trained.division.by)
    console = RunConsole()
    paths = arguments.paths.cached_in(default_index_folder(arguments.out))
    datasets = load_datasets(paths, division, trained.held_out, trained.select_on, console=console.console)
    trained = completed(trained, datasets.training)
    forward = forward_of(trained, device, arguments.batch_size)
    predictions = calibrate_and_pool(trained, evaluate(trained, datasets, forward), arguments.pool)
    assert trained.baselines is not None
    evaluation = Evaluation.of(predictions, trained.baselines)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        _write(
            arguments.out,
            console,
            evaluation,
            title=f"{arguments.checkpoint} on {paths.release.name}",
            history=[],
            config={"checkpoint": str(arguments.checkpoint), "size": trained.size, "precision": forward.precision},
            environment=describe(device),
            training={"release": str(paths.release), "split": division.by, **datasets.counts()["training"]},
        )
    except OSError as error:
        raise InputError(f"--out {arguments.out} cannot be written: {error.strerror}; choose another folder") from None


def _write(out: Path, console: RunConsole, evaluation: Evaluation, **page: Any) -> None:
    """Write the two files and print the scores; `page`: the other arguments of `write_report`."""
    from .report.page import write_report

    write_predictions(out / "predictions.csv", evaluation.predictions)
    write_report(out / "report.html", evaluation, **page)
    console.console.print(score_table(evaluation))
    console.note(f"report: {out / 'report.html'}")


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        arguments = command.parse(Arguments, argv, module="train.evaluate", description=__doc__, aliases=ALIASES)
        with lease(arguments.out):
            evaluate_checkpoint(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
