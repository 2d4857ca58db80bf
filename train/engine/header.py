"""The header of a run: what is trained, on what, and where, as one fact per row."""

from __future__ import annotations

import numpy as np

from dali_pipes import SampleTable
from dali_pipes.samples.splits import DEVELOPMENT
from dali_pipes.units import count

from ..recipe.data import Datasets
from ..recipe.presets import described
from ..run.folder import RunFolder
from ..scores.calibrate import MIN_SCENES_TO_CALIBRATE
from .state import Training


def header(training: Training, datasets: Datasets, folder: RunFolder) -> dict[str, str]:
    """The facts about a run that is about to start or to resume, by their names."""
    config, environment = training.config, training.environment
    processor = environment["GPU"] if training.device.type == "cuda" else environment["processor"]
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    steps = count(len(training.train_loader), "step")

    def chosen(*names: str) -> dict[str, str]:
        return {name: environment[name] for name in names if name in environment}

    return {
        "run": str(folder.path),
        "device": f"{training.device}, {processor}",
        **chosen("ranks", "precision"),
        "preset": described(config),
        "network": f"{config.backbone}, {parameters / 1e6:.1f} million parameters, {_origin(training)}",
        "input": f"{config.data.size} × {config.data.size} pixels, view {config.data.view}",
        "training": f"{_samples(datasets.training)}; {steps} an epoch, {count(config.epochs, 'epoch')}",
        **{name: "; ".join([_samples(table), *_uses(name, datasets)]) for name, table in datasets.evaluated.items()},
        **chosen("cache", "compilation", "compile mode"),
        **({} if config.runtime.time_limit == "0" else {"time limit": config.runtime.time_limit}),
    }


def _origin(training: Training) -> str:
    config = training.config
    if config.init_from:
        return f"weights of {config.init_from}"
    return {"none": "random weights", "imagenet": "ImageNet weights"}.get(
        config.weights, f"weights of {config.weights}"
    )


def _samples(table: SampleTable) -> str:
    return f"{count(len(table), 'sample')} in {count(_scenes(table), 'scene')}"


def _scenes(table: SampleTable) -> int:
    return len(np.unique(table.scene))


def _uses(name: str, datasets: Datasets) -> list[str]:
    """What the evaluated table `name` is used for, apart from the report."""
    calibrates = name == DEVELOPMENT and _scenes(datasets.evaluated[name]) >= MIN_SCENES_TO_CALIBRATE
    return ["selects the best epoch"] * (name == datasets.select_on) + ["fits the calibration"] * calibrates
