"""Evaluate a checkpoint on a release, and write the report of a run or of a checkpoint.

For example, to repeat the report of a run, or to report it on another release:

    python -m train.evaluate --checkpoint runs/one/best.pt --release DIR --out DIR
"""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from dali_pipes import command
from dali_pipes.command import check_out_folder, default_is, other_program, this_python
from dali_pipes.console import ProgressStyle, activity, open_console
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.release.find import open_split
from dali_pipes.release.paths import ALIASES, ReleasePaths
from model import BackboneError, CheckpointError

from .recipe.data import default_index_folder
from .run.console import RunConsole
from .run.lease import check_still_ours, lease
from .scores.evaluation import Evaluation
from .scores.predictions import write_predictions

if TYPE_CHECKING:
    from .engine.run import FinishedRun
    from .engine.step import Forward
    from .engine.trained import Trained
    from .report.tiles import Looks


@dataclass(frozen=True)
class Arguments:
    """Evaluate a checkpoint on the validation split of a release: report.html, predictions.csv and a score table."""

    checkpoint: Path
    """A run folder, its best.pt or last.pt, or a .pth file of the reference."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    out: Path
    """Folder for report.html and predictions.csv."""

    split: Annotated[Literal["official", "scene"] | None, default_is("as in training")] = None
    """official: the release's own validation split.
    scene: the fold of whole scenes that was validation in training (fold 0 of 5 if the checkpoint stores none)."""

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

    progress: ProgressStyle = "auto"
    """How to show progress. bar: a bar that moves. plain: at most one line in ten seconds.
    auto: bar on a terminal; plain elsewhere, and in notebooks and CI."""


def report(run: FinishedRun) -> None:
    """Evaluate the best epoch of `run`, write report.html and predictions.csv, and print the scores."""
    from .engine.run import evaluate_best
    from .engine.trained import load_trained
    from .report.figures import rmse_by_epoch

    check_still_ours(run.folder.path)
    training, config = run.training, asdict(run.training.config)
    run.console.stage("evaluating the best epoch")
    predictions = evaluate_best(run)
    evaluation = Evaluation.of(predictions, training.baselines)
    then = next_commands(run.folder.best, run.folder.path, run.paths)
    _write(
        run.folder.path,
        run.console,
        evaluation,
        then,
        _looks(evaluation, load_trained(run.folder.best), training.forward, run.console),
        title=run.folder.path.name,
        history=training.history,
        config=config,
        environment=training.environment,
        training={
            "release": str(run.paths.release),
            "audit": run.verdict.sentence,
            "split": training.config.data.split,
            **run.datasets.counts()["training"],
            "seconds": sum(record["seconds"] for record in training.history),
        },
        commands=commands_of_page(then, run.folder.best, None),
    )
    scores = {f"{group.name} RMSE, m": group.rmse() for group in predictions}
    run.tracker.finish(config, scores, lambda: rmse_by_epoch({"this run": training.history}))


def evaluate_checkpoint(arguments: Arguments, console: RunConsole) -> None:
    """Run the command. Raises InputError, CheckpointError or BackboneError for bad input."""
    console.stage("loading PyTorch and DALI")
    from .engine.trained import calibrate_and_pool, completed, evaluate, forward_of, load_trained
    from .machine.choices import choose_device, describe
    from .recipe.data import load_datasets

    check_out_folder(arguments.out)
    device = choose_device(arguments.device)
    trained = load_trained(arguments.checkpoint, arguments.statistics)
    division = replace(trained.division, by=arguments.split or trained.division.by)
    paths = arguments.paths.cached_in(default_index_folder(arguments.out))
    datasets = load_datasets(paths, division, trained.held_out, trained.select_on, console=console.console)
    trained = completed(trained, datasets.training)
    forward = forward_of(trained, device, arguments.batch_size)
    raw = evaluate(trained, datasets, forward, console=console.console)
    predictions = calibrate_and_pool(trained, raw, arguments.pool)
    assert trained.baselines is not None
    evaluation = Evaluation.of(predictions, trained.baselines)
    then = next_commands(arguments.checkpoint, arguments.out, paths, arguments.statistics)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        _write(
            arguments.out,
            console,
            evaluation,
            then,
            _looks(evaluation, trained, forward, console),
            title=f"{arguments.checkpoint} on {paths.release.name}",
            history=[],
            config={"checkpoint": str(arguments.checkpoint), "size": trained.size, "precision": forward.precision},
            environment=describe(device),
            training={"release": str(paths.release), "split": division.by, **datasets.counts()["training"]},
            commands=commands_of_page(then, arguments.checkpoint, arguments.statistics),
        )
    except OSError as error:
        raise InputError(f"--out {arguments.out} cannot be written: {error.strerror}; choose another folder") from None


def next_commands(checkpoint: Path, out: Path, paths: ReleasePaths, statistics: Path | None = None) -> dict[str, str]:
    """What to do with a network, each with a command for the shell: open the report, predict and export.

    The example of predict uses the validation tiles and labels, if they are files of their own.
    """
    images, labels = "IMAGES", "POLYLINES"
    with suppress(InputError):
        archives = [archive.where for archive in open_split(paths, "validation")]
        if all(Path(archive).exists() for archive in archives):
            images, labels = archives
    opener = next(filter(shutil.which, ("xdg-open", "open")), None)
    network = ["--checkpoint", str(checkpoint), *(["--statistics", str(statistics)] if statistics else [])]
    predict = [*network, "--images", images, "--polylines", labels, "--out", str(out / "heights.csv")]
    given = {field.name.replace("_", "-"): getattr(paths, field.name) for field in fields(paths)}
    release = [word for flag, path in given.items() if path is not None for word in (f"--{flag}", str(path))]
    export = [*network, *release, "--format", "torch", "--out", str(out / "model.pt2")]
    return {
        "open the report": f"{opener or f'{this_python()} -m webbrowser'} {shlex.quote(str(out / 'report.html'))}",
        "predict heights": f"{other_program('predict', 'train.predict')} {shlex.join(predict)}",
        "export the network": f"{other_program('export', 'train.export')} {shlex.join(export)}",
    }


def commands_of_page(then: dict[str, str], checkpoint: Path, statistics: Path | None) -> dict[str, str]:
    """The commands of the report: those of `next_commands` but to open it, and what else to do with the network."""
    others = {name: command for name, command in then.items() if name != "open the report"}
    own = f", statistics={str(statistics)!r}" if statistics else ""
    network = shlex.join(["--checkpoint", str(checkpoint), *(["--statistics", str(statistics)] if statistics else [])])
    # A page takes no statistics.
    page = {"draw chimneys on a page": f"{other_program('measure', 'train.measure')} {network}"} if not own else {}
    return {
        **others,
        "predict heights in Python": (
            "from train.predict import load\n\n"
            f"model = load({str(checkpoint)!r}{own})\n"
            "heights = model.predict('IMAGES', 'VIA.json')\n"
            "print(heights.mu, heights.low, heights.high)  # metres"
        ),
        "evaluate it on another release": (
            f"{other_program('evaluate', 'train.evaluate')} {network} --release DIR --out OUT"
        ),
        **page,
    }


def _write(
    out: Path,
    console: RunConsole,
    evaluation: Evaluation,
    then: dict[str, str],
    looks: Looks | None,
    **page: Any,
) -> None:
    """Write the two files and print the scores and `then`; `page`: the other arguments of `write_report`."""
    console.stage("writing the report")
    from .report.page import write_report

    write_predictions(out / "predictions.csv", evaluation.predictions)
    write_report(out / "report.html", evaluation, looks=looks, **page)
    console.note(f"report: {out / 'report.html'}")
    console.result(evaluation, then)


def _looks(evaluation: Evaluation, trained: Trained, forward: Forward, console: RunConsole) -> Looks | None:
    """Where the network looks on the typical tiles of the report; None without finite predictions."""
    from dali_pipes import Loader

    from .engine.sensitivity import sensitivity
    from .report.tiles import Looks, chosen

    part = evaluation.leading
    if part is None or not part.uncertainty:
        return None
    table = part.predictions.table.select(np.array(chosen(part.predictions)["typical"]))
    loader = Loader(
        table, len(table), device=forward.device, size=trained.size, view=trained.view, statistics=trained.statistics
    )
    with activity(console.console, "finding where the network looks", len(table)) as shown:
        heat = sensitivity(forward, loader, shown.track)
    loader.close()
    return Looks(loader.frames, heat)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        arguments = command.parse(Arguments, argv, module="train.evaluate", description=__doc__, aliases=ALIASES)
        with lease(arguments.out), RunConsole(open_console(arguments.progress)) as console:
            evaluate_checkpoint(arguments, console)


if __name__ == "__main__":
    main(sys.argv[1:])
