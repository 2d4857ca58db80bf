"""Training: epochs, selection of the best one, and when to save.

The method, top to bottom: `run` prepares and reports, `Training.fit` goes through the epochs, `_train_epoch` through
the steps.  The step itself is in step.py; where the run is kept, in checkpointing.py.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3

from dali_pipes import Batch, Loader, SampleTable
from dali_pipes.cache import CacheChoice, bytes_needed
from dali_pipes.cache import choose as choose_cache
from dali_pipes.errors import InputError
from model import HeightRegressor, Target, checkpoint

from .calibrate import FEWEST_SCENES, calibrate_checkpoint
from .checkpointing import History, RunFolder
from .config import Config
from .console import Moment, RunConsole, score_table
from .environment import Choice, choose_compilation, choose_compile_mode, choose_device, choose_precision, describe
from .evaluate import about, evaluate, load, predict, refine
from .metrics import Baselines, Scores, score
from .report import score_rows, write_predictions, write_report
from .schedule import Schedule
from .step import Forward, Step
from .tables import Tables, beside, counts, load_tables


def run(config: Config, release: Path, out: Path, *, resume: bool, console: RunConsole | None = None) -> None:
    """Train on `release` into the run folder `out`, evaluate the best epoch, and write the report.

    Raises InputError, BackboneError or CheckpointError with a sentence for the user.
    """
    console = console or RunConsole()
    folder = RunFolder(out, config, resume=resume)
    device = choose_device(config.device)
    kept = Path(config.data.index_cache) if config.data.index_cache else beside(out)
    tables = load_tables(
        release,
        config.division(),
        config.data.holdout,
        config.data.select_on,
        cache=kept,
        images=Path(config.data.images) if config.data.images else None,
        labels=Path(config.data.labels) if config.data.labels else None,
        max_bad=config.data.max_bad,
        console=console.console,
    )

    with console:
        fitting = Training(config, device, tables, console, kept)
        state = folder.load_last()
        if state:
            checkpoint.load(folder.best)  # if it is gone, better known now than after the last epoch
            fitting.restore(state, folder.last)
            console.note(f"resuming {out} after epoch {fitting.epoch} of {config.epochs}")
        samples = {"release": str(release), "split": str(config.division()), **counts(tables)}
        folder.create(fitting.environment, samples)
        fitting.fit(folder)

    trained = load(folder.best)
    checkpoint.load_into(fitting.model, trained.model.state_dict(), folder.best)
    predictions = evaluate(trained, tables, fitting.forward, config.data.threads)
    calibration = calibrate_checkpoint(folder.best, predictions)
    if calibration is None:
        console.note(f"not calibrated: fewer than {FEWEST_SCENES} scenes were held out; raise --data.holdout")
    predictions = refine(replace(trained, calibration=calibration), predictions, "scene")
    write_predictions(out / "predictions.csv", predictions)
    write_report(
        out / "report.html",
        title=out.name,
        predictions=predictions,
        baselines=fitting.baselines,
        history=fitting.history,
        config=asdict(config),
        environment=fitting.environment,
        training={
            "release": str(release),
            "split": config.data.split,
            **counts(tables)["training"],
            "seconds": sum(record["seconds"] for record in fitting.history),
        },
    )
    console.console.print(score_table(score_rows(predictions, fitting.baselines), tables.select_on))
    console.note(f"report: {out / 'report.html'}")


RESUMED = frozenset(
    {"average", "optimizer", "scaler", "schedule", "epoch", "best_rmse", "random", "random_cuda", "history"}
)
"""What last.pt holds beside the network and its statistics."""


class Training:
    """A network on its way: what changes from step to step, and what a checkpoint must hold of it.

    `kept`: the folder of the index, where a disk cache is kept, too.
    """

    def __init__(self, config: Config, device: torch.device, tables: Tables, console: RunConsole, kept: Path) -> None:
        training, selection = tables.training, tables.selection
        self.config, self.device, self.console = config, device, console
        self.statistics = training.statistics()
        self.baselines = Baselines.fit(training.length, training.height)
        self.target = Target.fit(config.model.target, training.height, training.length_in_sides)
        self.about = about(config, tables, self.target, self.baselines)
        self.selected_on = tables.select_on

        torch.manual_seed(config.seed)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        self.model = HeightRegressor(
            config.backbone,
            drop_path=config.model.drop_path,
            layer_scale=config.model.layer_scale,
            weights=None if config.weights == "none" else config.weights,
        )
        self.model.to(device).to(memory_format=torch.channels_last)
        precision = choose_precision(config.runtime.precision, device)
        compilation = choose_compilation(config.runtime.compile, device)
        mode = choose_compile_mode(config.runtime.compile_mode, compilation.value)

        def forward(model: torch.nn.Module) -> Forward:
            return Forward(
                model,
                device,
                config.batch_size,
                precision.value,
                compilation=compilation.value,
                mode=mode.value,
                beta=config.optimizer.beta,
            )

        # The average is a copy of the network: it is what is evaluated and saved as the best.
        decay = config.optimizer.ema
        self.average = ModelEmaV3(self.model, decay, use_warmup=True) if decay else None
        self.forward = forward(self.model)
        self.evaluated = forward(self.average.module) if self.average else self.forward
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self.step = Step(self.forward, optimizer, config.optimizer.clip_norm)

        needed = sum(bytes_needed(table, config.data.size) for table in (training, selection))
        cache = choose_cache(config.data.cache, needed, device, folder=kept)
        choices: dict[str, Choice | CacheChoice] = {"precision": precision, "compilation": compilation, "cache": cache}
        if compilation.value != "off" and mode.value != "default":
            choices["compile mode"] = mode
        told = {name: f"{choice.value}: {choice.reason}" for name, choice in choices.items()}
        for name, choice in told.items():
            console.note(f"{name} {choice}")
        self.environment = {"device": str(device), **told, **describe(device)}

        def loader(table: SampleTable, shuffle: bool) -> Loader:
            return Loader(
                table,
                config.batch_size,
                device=device,
                shuffle=shuffle,
                seed=config.seed,
                size=config.data.size,
                statistics=self.statistics,
                target=self.target.encode(table.height, table.length_in_sides),
                threads=config.data.threads or None,
                cache=cache.value,
                folder=kept,
                augmentation=config.data.augmentation() if shuffle else None,
            )

        self.train_loader, self.selection_loader = loader(training, True), loader(selection, False)
        self.schedule = Schedule(config, optimizer, len(self.train_loader))
        self.epoch = 0
        self.best_rmse = math.inf
        self.history: History = []

    def fit(self, folder: RunFolder) -> None:
        """Train the epochs that are left; after each one save the network, and as the best one if it is."""
        gc.collect()
        gc.freeze()  # else each full collection walks over all that was imported: 0.6 s in the middle of a step
        for epoch in range(self.epoch, self.config.epochs):
            began = time.perf_counter()
            record = self._train_epoch(epoch)
            scores = self._select()
            if not math.isfinite(scores.rmse):
                raise _diverged(scores.rmse, f"{self.selected_on} after epoch {epoch + 1}")
            self.schedule.after_epoch(scores.rmse)
            record |= {
                "measured_on": self.selected_on,
                "rmse": scores.rmse,
                "mae": scores.mae,
                "bias": scores.bias,
                "nll": scores.nll,
            }
            record |= {"seconds": time.perf_counter() - began}
            self.history.append(record)
            self.epoch = epoch + 1
            is_best = scores.rmse < self.best_rmse
            self.best_rmse = min(self.best_rmse, scores.rmse)
            folder.save(self.state(), self.history, self.weights() if is_best else None)
            self.console.epoch(record)

    def weights(self) -> dict[str, Any]:
        """The network to be used, in the reference's layout, and what it says of itself."""
        model = self.evaluated.model.state_dict()
        return {"model": model, "stats": tuple(self.statistics), "about": self.about}

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            **self.weights(),
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else None,
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "best_rmse": self.best_rmse,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on from `state`, read from `path`.  Raises InputError if it was trained on other data."""
        if tuple(state["stats"]) != tuple(self.statistics):
            raise InputError(
                f"{path} was trained on samples with statistics {tuple(state['stats'])}, but this release gives"
                f" {tuple(self.statistics)}: the release has changed; train into another --out"
            )
        missing = RESUMED - set(state)
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}: it is no last.pt; choose another --out")
        checkpoint.load_into(self.model, state["model"], path)
        if self.average:
            checkpoint.load_into(self.average.module, state["average"], path)
        self.step.optimizer.load_state_dict(state["optimizer"])
        self.step.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.best_rmse, self.history = state["epoch"], state["best_rmse"], list(state["history"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        for record in self.history:
            self.console.epoch(record)

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        self.model.train()
        steps = len(self.train_loader)
        warming_up = epoch < self.config.optimizer.variance_warmup
        variance_weight = torch.tensor(0.0 if warming_up else 1.0, device=self.device)
        learning_rate = self.schedule.learning_rate
        loss = torch.zeros((), device=self.device)
        began = time.perf_counter()
        batches = _Timed(self.train_loader.epoch(epoch))
        for i, batch in enumerate(batches, start=1):
            loss += self.step(batch, variance_weight)
            if self.average:
                self.average.update(self.model, step=epoch * steps + i)
            self.schedule.after_step()
            if i % self.config.runtime.log_every == 0 or i == steps:
                self._log(epoch, i, float(loss) / i, time.perf_counter() - began, batches.waited)
        elapsed = time.perf_counter() - began
        return {
            "epoch": epoch + 1,
            "train_loss": float(loss) / steps,
            "learning_rate": learning_rate,
            "samples_per_s": steps * self.config.batch_size / elapsed,
            "data_wait": batches.waited / elapsed,
        }

    def _log(self, epoch: int, step: int, loss: float, elapsed: float, waited: float) -> None:
        if not math.isfinite(loss):
            raise _diverged(loss, f"step {step} of epoch {epoch + 1}")
        steps, epochs = len(self.train_loader), self.config.epochs
        if self.history:
            an_epoch = self.history[-1]["seconds"]
            left = (epochs - epoch - step / steps) * an_epoch
        else:
            left = elapsed / step * (steps * (epochs - epoch) - step)
        self.console.moment(
            Moment(
                epoch=epoch + 1,
                epochs=epochs,
                step=step,
                steps=steps,
                loss=loss,
                learning_rate=self.schedule.learning_rate,
                samples_per_s=step * self.config.batch_size / elapsed,
                data_wait=waited / elapsed,
                seconds_left=left,
            )
        )

    def _select(self) -> Scores:
        """How good the network is on the samples that choose the best epoch."""
        mu, sigma = predict(self.evaluated, self.selection_loader, self.target)
        return score(self.selection_loader.table.height, mu, sigma)


def _diverged(value: float, where: str) -> InputError:
    return InputError(
        f"the loss is {value} at {where}: the training diverged; lower --optimizer.learning-rate, or use"
        " --runtime.precision fp32"
    )


class _Timed:
    """Batches, and the seconds that their consumer waited for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        began = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.waited += time.perf_counter() - began
