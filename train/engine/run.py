"""A training run: from its configuration to the last epoch, and the evaluation of its best epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dali_pipes.batches.first_pass import FirstPass
from dali_pipes.batches.wheel import check_dali
from dali_pipes.console import open_console
from dali_pipes.errors import InputError
from dali_pipes.inspect.verdict import Verdict, judge
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.splits import DEVELOPMENT
from model import checkpoint
from model.backbone import check_backbone

from ..machine.choices import choose_device
from ..recipe.config import Config
from ..recipe.data import Datasets, default_index_folder, load_datasets, refuse_few_held_out_scenes
from ..run.console import RunConsole
from ..run.folder import Deadline, RunFolder, checkpoint_of, save_checkpoint
from ..run.parent import end_with_torchrun
from ..run.ranks import Place, from_rank_zero, is_restart, local_rank_zero_first, mark_started, process_group
from ..run.signals import Signals
from ..run.tracker import Tracker, open_tracker
from ..run.writer import CheckpointWriter
from ..scores.calibrate import MIN_SCENES_TO_CALIBRATE, development_of, fit_calibration
from ..scores.predictions import Predictions
from .header import header
from .loop import Loop
from .state import Training
from .trained import calibrate_and_pool, evaluate, load_trained


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, with everything that its report needs."""

    paths: ReleasePaths
    folder: RunFolder
    datasets: Datasets
    verdict: Verdict
    training: Training
    console: RunConsole
    tracker: Tracker


def train(
    config: Config, release: ReleasePaths | Path, out: Path, *, resume: bool, console: RunConsole | None = None
) -> FinishedRun:
    """Train on `release` into the run folder `out`.

    Under torchrun every rank calls this; only rank 0 writes files and prints. Raises InputError, BackboneError or
    CheckpointError with a sentence for the user, and Stopped after a signal.
    """
    end_with_torchrun()
    deadline = Deadline(config.runtime.time_limit)
    place = Place.from_environment()
    console = console or RunConsole(open_console(quiet=not place.is_rank_zero))
    device = choose_device(place.device(config.device))
    paths = (release if isinstance(release, ReleasePaths) else ReleasePaths(release)).cached_in(
        default_index_folder(out)
    )
    assert paths.index_cache is not None
    _check_before_reading(config, place, paths, out)
    with Signals() as signals, process_group(place, device):
        resume = resume or is_restart()
        folder = from_rank_zero(lambda: RunFolder(out, config, resume=resume))
        mark_started()
        first_pass = _first_pass(config, device, place)
        with local_rank_zero_first(place):
            datasets = _load_datasets(config, paths, console, first_pass)
        verdict = judge(datasets.by_name())
        _report_labels(verdict, paths, console, accept=config.data.accept_labels)
        for name, table in datasets.by_name().items():
            if warning := config.data.shown().upside_down(table):
                console.note(f"{name}: {warning}")
        _warn_of_few_scenes(datasets, console)
        console.stage(f"building {config.backbone}")
        weights = config.pretrained(out)
        training = Training(config, device, datasets, console, paths.index_cache, place, weights, first_pass)
        del first_pass  # the loaders have the tiles that they need
        console.header(header(training, datasets, folder))
        _restore(training, folder, console)
        if place.is_rank_zero:
            samples = {**paths.given(), "split": str(config.division()), **datasets.counts(), "audit": verdict.sentence}
            folder.create(training.environment, samples, training.history)
        tracker = open_tracker(out) if place.is_rank_zero else Tracker()
        with signals.remembered(), CheckpointWriter() as writer:
            Loop(training, folder, signals, writer, console, tracker, deadline).fit()
    return FinishedRun(paths, folder, datasets, verdict, training, console, tracker)


def _check_before_reading(config: Config, place: Place, paths: ReleasePaths, out: Path) -> None:
    """Check what needs no labels and images. Raises InputError, BackboneError or CheckpointError.

    A resumed run no longer needs the checkpoint that it started from, and goes on with the scenes that it has.
    """
    ranks, parts, group = place.world_size, config.runtime.accumulate, config.data.scene_group
    if config.batch_size % (ranks * parts * group):
        raise InputError(
            f"--batch-size counts the samples of a step over all ranks: expected a multiple of {ranks} ranks"
            f" × {parts} of --accumulate × {group} of --data.scene-group, found {config.batch_size}"
        )
    check_dali()
    check_backbone(config.backbone, config.pretrained(out))
    if (out / "last.pt").exists():
        return
    if config.init_from:
        checkpoint.check_exists(checkpoint_of(Path(config.init_from)))
    if place.is_rank_zero:  # one rank lists the files, and torchrun ends the others
        refuse_few_held_out_scenes(paths, config.division(), config.data.holdout, MIN_SCENES_TO_CALIBRATE)


def _report_labels(verdict: Verdict, paths: ReleasePaths, console: RunConsole, *, accept: bool) -> None:
    """Print what the audit of the labels finds. Raises InputError if it is more than chance explains."""
    if verdict.beyond_chance and not accept:
        raise InputError(
            f"{verdict.sentence}: more than chance explains; chimney inspect {paths.release} shows them; correct them,"
            " or train on them with --accept-labels"
        )
    console.note(verdict.sentence)


def _warn_of_few_scenes(datasets: Datasets, console: RunConsole) -> None:
    """Warn before training if too few scenes are held out for a calibration."""
    development = datasets.evaluated.get(DEVELOPMENT)
    scenes = 0 if development is None else len(np.unique(development.scene))
    if 0 < scenes < MIN_SCENES_TO_CALIBRATE:
        console.note(
            f"the run will not be calibrated: that needs {MIN_SCENES_TO_CALIBRATE} held-out scenes, and there"
            f" {'is' if scenes == 1 else 'are'} {scenes}"
        )


def _first_pass(config: Config, device: torch.device, place: Place) -> FirstPass | None:
    """What keeps the tiles of the index for the cache, where the loaders can use them."""
    if device.type != "cpu" or place.world_size > 1 or config.data.cache == "none":
        return None
    return FirstPass(config.data.shown(), config.data.size)


def _load_datasets(config: Config, paths: ReleasePaths, console: RunConsole, first_pass: FirstPass | None) -> Datasets:
    return load_datasets(
        paths,
        config.division(),
        config.data.holdout,
        config.data.select_on,
        max_bad=config.data.max_bad,
        console=console.console,
        keeper=first_pass,
    )


def _restore(training: Training, folder: RunFolder, console: RunConsole) -> None:
    """Resume from last.pt in `folder`; in a new run, load the weights of `--init-from`."""
    config, state = training.config, from_rank_zero(folder.load_last)
    if state:
        training.restore(state, folder.last)
        if training.place.is_rank_zero:
            folder.repair_best(state)
        where = f"after epoch {training.progress.epoch} of {config.epochs}, step {training.progress.step}"
        console.note(f"resuming {folder.path} {where}")
        for record in training.history:
            console.log_epoch(record)
        if training.progress.epoch >= config.epochs:
            console.note("all epochs are done; --epochs N trains more of them")
        if (before := state["config"]["epochs"]) < config.epochs:
            console.note(f"{config.epochs} epochs instead of {before}: {training.schedule.goes_on()}")
    elif config.init_from:
        console.note(training.start_from(checkpoint_of(Path(config.init_from))))


def evaluate_best(run: FinishedRun) -> list[Predictions]:
    """Predict the evaluation tables with the best epoch, calibrated and pooled by scene.

    The calibration is fitted on the development scenes and added to best.pt, unless there are too few scenes.
    """
    training, best = run.training, run.folder.best
    trained = load_trained(best)
    checkpoint.load_into(training.model, trained.model.state_dict(), best)
    threads = training.config.data.threads
    predictions = evaluate(trained, run.datasets, training.forward, threads, run.console.console)
    development = development_of(predictions)
    if development is None:
        minimum = MIN_SCENES_TO_CALIBRATE
        run.console.note(f"not calibrated: fewer than {minimum} scenes were held out")
    else:
        trained = replace(trained, calibration=(calibration := fit_calibration(development)))
        save_checkpoint(best, {**checkpoint.load(best), "calib": calibration.to_dict()})
    return calibrate_and_pool(trained, predictions, "scene")
