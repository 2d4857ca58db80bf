"""A run from its configuration to its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from torch.distributed import is_torchelastic_launched

from dali_pipes.release.paths import ReleasePaths
from model import checkpoint
from model.calibration import Calibration

from ..machine.choices import choose_device
from ..recipe.config import Config
from ..recipe.data import Tables, beside, counts, load_tables
from ..report.page import write_report
from ..run.console import RunConsole, score_table
from ..run.folder import RunFolder, checkpoint_of, save_checkpoint
from ..run.ranks import Place, begin, begun, first_on_each_node, joined, shared
from ..run.signals import Signals, end_with_parent
from ..run.tracker import Tracker, open_tracker
from ..run.writer import Writer
from ..scores.calibrate import MIN_SCENES_TO_CALIBRATE, development_of, fit_calibration
from ..scores.evaluation import Evaluation
from ..scores.predictions import Predictions, write_predictions
from .loop import Loop
from .state import Training
from .trained import evaluate, load_trained, refine


def run(
    config: Config, release: ReleasePaths | Path, out: Path, *, resume: bool, console: RunConsole | None = None
) -> None:
    """Train on `release` into the run folder `out`, evaluate the best epoch, and write the report.

    Under torchrun every rank calls this; rank 0 alone writes, draws and reports.  Raises InputError, BackboneError or
    CheckpointError with a sentence for the user, and Stopped after a signal.
    """
    place = Place.from_environment()
    console = console or RunConsole(Console(quiet=not place.leads))
    device = choose_device(place.device(config.device))
    paths = (release if isinstance(release, ReleasePaths) else ReleasePaths(release)).cached_in(beside(out))
    assert paths.index_cache is not None
    with Signals() as signals:
        if is_torchelastic_launched():
            end_with_parent()
        with joined(place, device):
            again = resume or begun()
            folder = shared(lambda: RunFolder(out, config, resume=again))
            begin()
            with first_on_each_node(place):
                tables = _tables(config, paths, console)
            with console:
                training = Training(config, device, tables, console, paths.index_cache, place)
                _go_on(training, folder, console)
                samples = {**paths.given(), "split": str(config.division()), **counts(tables)}
                if place.leads:
                    folder.create(training.environment, samples, training.history)
                tracker = open_tracker(out) if place.leads else Tracker()
                with signals.remembered(), Writer() as writer:
                    Loop(training, folder, signals, writer, console, tracker).fit()
        if place.leads:
            _report(training, tables, folder, paths.release, console, tracker)


def _go_on(training: Training, folder: RunFolder, console: RunConsole) -> None:
    """Take up what `folder` holds, or else the weights that `--init-from` names."""
    config, state = training.config, shared(folder.load_last)
    if state:
        training.restore(state, folder.last)
        if training.place.leads:
            folder.mend_best(state)
        for record in training.history:
            console.epoch(record)
        where = f"after epoch {training.epoch} of {config.epochs}, step {training.step}"
        console.note(f"resuming {folder.path} {where}")
    elif config.init_from:
        console.note(training.start_from(checkpoint_of(Path(config.init_from))))


def _tables(config: Config, paths: ReleasePaths, console: RunConsole) -> Tables:
    return load_tables(
        paths,
        config.division(),
        config.data.holdout,
        config.data.select_on,
        max_bad=config.data.max_bad,
        console=console.console,
    )


def _report(
    training: Training, tables: Tables, folder: RunFolder, release: Path, console: RunConsole, tracker: Tracker
) -> None:
    """Evaluate the best epoch and write what was found beside it."""
    out, config = folder.path, training.config
    trained = load_trained(folder.best)
    checkpoint.load_into(training.model, trained.model.state_dict(), folder.best)
    predictions = evaluate(trained, tables, training.forward, config.data.threads)
    calibration = calibrate_checkpoint(folder.best, predictions)
    if calibration is None:
        console.note(f"not calibrated: fewer than {MIN_SCENES_TO_CALIBRATE} scenes were held out; raise --data.holdout")
    predictions = refine(replace(trained, calibration=calibration), predictions, "scene")
    write_predictions(out / "predictions.csv", predictions)
    evaluation = Evaluation.of(predictions, training.baselines)
    write_report(
        out / "report.html",
        evaluation,
        title=out.name,
        history=training.history,
        config=asdict(config),
        environment=training.environment,
        training={
            "release": str(release),
            "split": config.data.split,
            **counts(tables)["training"],
            "seconds": sum(record["seconds"] for record in training.history),
        },
    )
    tracker.finish(asdict(config), {f"{group.name} RMSE": group.rmse() for group in predictions}, training.history)
    console.console.print(score_table(evaluation))
    console.note(f"report: {out / 'report.html'}")


def calibrate_checkpoint(path: Path, predictions: Sequence[Predictions]) -> Calibration | None:
    """Fit on the development scenes among `predictions`, raw, and keep it in the checkpoint at `path`.

    None where there are too few scenes: then nothing is written.
    """
    development = development_of(predictions)
    if development is None:
        return None
    calibration = fit_calibration(development)
    save_checkpoint(path, {**checkpoint.load(path), "calib": calibration.to_dict()})
    return calibration
