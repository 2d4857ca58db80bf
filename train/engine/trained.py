"""A trained network with its metadata: read from a checkpoint, used to predict tables, calibrated and pooled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from dali_pipes import Batch, Loader, SampleTable, Statistics
from dali_pipes.batches.view import WHOLE_TILE, View
from dali_pipes.console import activity
from dali_pipes.errors import InputError
from dali_pipes.files import read_text
from dali_pipes.samples.splits import DEVELOPMENT, VALIDATION, Division
from model import CheckpointError, HeightRegressor, Target, checkpoint
from model.architecture import backbone_of
from model.calibration import Calibration

from ..machine.choices import choose_precision
from ..recipe.config import Config, Data, Model
from ..recipe.data import Datasets
from ..run.folder import checkpoint_of
from ..run.ranks import all_gather
from ..scores.calibrate import calibrate, cross_calibrate, development_of
from ..scores.metrics import Baselines
from ..scores.predictions import Predictions
from .step import Forward

SELECTED = "The best epoch was selected on these samples, so their figures are optimistic."


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a checkpoint stores about its network under the key "about".

    The defaults are those of the reference: its checkpoints store no metadata. Raises ValueError for an unknown
    `select_on`.
    """

    target: Target
    backbone: str = Config.backbone
    """The name in timm."""
    size: int = Data.size
    """Side of the letterboxed frame, in pixels."""
    view: View = WHOLE_TILE
    """Which part of the tile the network sees."""
    mirror: bool = Model.mirror
    """Whether it predicts the mean for a frame and its mirror image."""
    scenes: frozenset[str] | None = None
    """Scenes of the training samples; None if the checkpoint does not store them."""
    held_out: frozenset[str] = frozenset()
    """Scenes of the same release that were held out of training."""
    baselines: Baselines | None = None
    """Fitted on the training samples."""
    division: Division = field(default_factory=Division)
    """How the release was divided into training and validation."""
    select_on: str = VALIDATION
    """The samples that selected the best epoch: "validation" or "development"."""

    def __post_init__(self) -> None:
        if self.select_on not in (VALIDATION, DEVELOPMENT):
            raise ValueError(f"its best epoch was selected on {self.select_on!r}")

    @classmethod
    def of_run(cls, config: Config, datasets: Datasets, target: Target, baselines: Baselines) -> Metadata:
        """The metadata of a network that is trained by `config` on `datasets`."""
        held_out = datasets.evaluated.get(DEVELOPMENT)
        return cls(
            target=target,
            backbone=config.backbone,
            size=config.data.size,
            view=config.data.shown(),
            mirror=config.model.mirror,
            scenes=_scenes(datasets.training),
            held_out=frozenset() if held_out is None else _scenes(held_out),
            baselines=baselines,
            division=config.division(),
            select_on=datasets.select_on,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, which `torch.load` reads with `weights_only`."""
        return {
            "backbone": self.backbone,
            "size": self.size,
            "view": self.view.kind,
            "crop": self.view.crop,
            "mirror": self.mirror,
            "target": self.target.kind,
            "target_moments": [self.target.mean, self.target.std],
            "held_out": sorted(self.held_out),
            "division": asdict(self.division),
            "select_on": self.select_on,
            **({} if self.scenes is None else {"scenes": sorted(self.scenes)}),
            **({} if self.baselines is None else {"baselines": self.baselines.to_dict()}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], statistics: Statistics, weights: Mapping[str, object]) -> Metadata:
        """Inverse of `to_dict`.

        If `values` have no target moments, those of the heights in `statistics` are used; if they have no backbone, it
        is found by the shapes of `weights`. Raises ValueError, TypeError, KeyError or AttributeError for bad values.
        """
        moments = values.get("target_moments", (statistics.height_mean, statistics.height_std))
        data = Data(  # which checks the ranges
            size=int(values.get("size", Data.size)),
            view=values.get("view", Data.view),
            crop=int(values.get("crop", Data.crop)),
        )
        return cls(
            target=Target(values.get("target", Model.target), *map(float, moments)),
            backbone=str(values["backbone"]) if "backbone" in values else backbone_of(weights),
            size=data.size,
            view=data.shown(),
            mirror=bool(values.get("mirror", Model.mirror)),
            scenes=frozenset(map(str, values["scenes"])) if "scenes" in values else None,
            held_out=frozenset(map(str, values.get("held_out", ()))),
            baselines=Baselines.from_dict(values["baselines"]) if "baselines" in values else None,
            division=Division(**values.get("division", {})),
            select_on=str(values.get("select_on", VALIDATION)),
        )


@dataclass(frozen=True)
class Trained(Metadata):
    """A trained network and everything that is needed to use it."""

    model: HeightRegressor
    statistics: Statistics
    """Means and deviations of the training samples' lengths and heights."""
    calibration: Calibration | None = None
    """Fitted on the held-out scenes; None if there were too few."""


def load_trained(path: Path, statistics_from: Path | None = None) -> Trained:
    """Read a checkpoint of this project or of the reference; `path` may be a run folder, for its best one.

    `statistics_from`: the source of those that a bare state dict lacks; see `read_statistics`. Raises CheckpointError
    if the file is not such a checkpoint, or its backbone is unknown.
    """
    path = checkpoint_of(path)
    contents = checkpoint.load(path, None if statistics_from is None else read_statistics(statistics_from))
    for entry in ("about", "calib"):
        if not isinstance(contents.get(entry, {}), dict):
            raise CheckpointError(f"{path}: expected a dict in {entry}, found a {type(contents[entry]).__name__}")
        checkpoint.check_numbers(contents.get(entry, {}), path, entry)
    try:
        statistics = Statistics(*contents["stats"])
        metadata = Metadata.from_dict(contents.get("about", {}), statistics, contents["model"])
        model = HeightRegressor(metadata.backbone, views=len(metadata.view), mirror=metadata.mirror)
        calibration = Calibration.from_dict(contents["calib"]) if "calib" in contents else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        detail = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} describes no network of this project: {detail}") from None
    # Checkpoints from before `merge` averaged the features of their views, as it does at first.
    merge = {f"merge.{name}": value for name, value in getattr(model, "merge", torch.nn.Module()).state_dict().items()}
    checkpoint.load_into(model, merge | contents["model"], path)
    return Trained(model, statistics, calibration, **vars(metadata))


def read_statistics(source: Path) -> Statistics:
    """Means and deviations of the training samples' lengths and heights, for a checkpoint that lacks them.

    `source`: a JSON file of four numbers (length mean, length std, height mean, height std), or a release, from whose
    training samples they are computed. Raises InputError if it is neither.
    """
    if source.is_dir():
        return SampleTable.from_release(source).statistics()
    try:
        a, b, c, d = (float(number) for number in json.loads(read_text(source, 4096)))
    except (OSError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(
            f"--statistics takes a release, or a JSON file like [0.2, 0.1, 109.0, 49.0] with length mean, length std,"
            f" height mean and height std; {source} is neither ({type(error).__name__})"
        ) from None
    return Statistics(a, b, c, d)


def completed(trained: Trained, training: SampleTable) -> Trained:
    """Fill in what the checkpoint does not store, assuming that it was trained on all of `training`."""
    return replace(
        trained,
        scenes=_scenes(training) if trained.scenes is None else trained.scenes,
        baselines=trained.baselines or Baselines.fit(training.length, training.height),
    )


def forward_of(trained: Trained, device: torch.device, batch_size: int, precision: str = "auto") -> Forward:
    """The network on `device`, ready to predict; for precision "auto" see `choose_precision`."""
    network = trained.model.to(device).to(memory_format=torch.channels_last)
    return Forward(network, device, batch_size, choose_precision(precision, device).value)


def predict(
    forward: Forward,
    loader: Loader,
    target: Target,
    watch: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict all rows of the loader's table → mean and σ of the heights in metres, both (N,) float64.

    `watch` wraps the iteration over batches, for example to show progress. Each rank predicts its shard; every rank
    gets the predictions of all.
    """
    forward.model.eval()
    samples, mus, log_vars = [], [], []
    for batch in watch(loader):
        mu, log_var = forward.predict(batch)
        samples.append(batch.sample)
        mus.append(mu)
        log_vars.append(log_var)
    shards = all_gather([[part.cpu() for part in parts] for parts in (samples, mus, log_vars)])  # the only device sync
    sample, mu, log_var = (torch.cat([part for shard in shards for part in shard[i]]) for i in range(3))
    order = sample.argsort()
    return target.decode(mu.double()[order].numpy(), log_var.double()[order].numpy(), loader.table.length_in_sides)


def finite(
    forward: Forward,
    loader: Loader,
    target: Target,
    watch: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
) -> tuple[np.ndarray, np.ndarray]:
    """`predict`, for a network that is no longer trained. Raises InputError if a height or its σ is not finite.

    The weights of a checkpoint are finite, but so large ones overflow within the network.
    """
    mu, sigma = predict(forward, loader, target, watch)
    overflowed = np.flatnonzero(~(np.isfinite(mu) & np.isfinite(sigma)))
    if len(overflowed):
        raise InputError(
            f"the network gives no finite height for {len(overflowed)} of {len(mu)} polylines, such as on"
            f" {loader.table.tile[overflowed[0]]}: its weights overflow in {forward.precision}; use another checkpoint"
        )
    return mu, sigma


def evaluate(
    trained: Trained, datasets: Datasets, forward: Forward, threads: int = 0, console: Console | None = None
) -> list[Predictions]:
    """Predict the evaluation tables, neither calibrated nor pooled.

    `threads`: DALI's, 0 for its default. `console`: shows the progress; by default nothing is shown. Predictions on the
    samples that selected the best epoch are marked, except on another release, which shares no scene with the network's
    training samples.
    """
    scenes, results = trained.scenes, []
    same_release = scenes is None or not scenes.isdisjoint(datasets.training.scene.tolist())
    for name, table in datasets.evaluated.items():
        loader = Loader(
            table,
            forward.batch_size,
            device=forward.device,
            size=trained.size,
            view=trained.view,
            statistics=trained.statistics,
            threads=threads or None,
        )
        with activity(console or Console(quiet=True), f"predicting {name}", len(loader)) as shown:
            mu, sigma = finite(forward, loader, trained.target, shown.track)
        loader.close()
        seen = np.isin(table.scene, list(scenes)) if scenes is not None else np.zeros(len(table), bool)
        selection = same_release and name == datasets.select_on
        description = f"{datasets.descriptions[name]} {SELECTED}" if selection else datasets.descriptions[name]
        results.append(Predictions(name, description, table, mu, sigma, seen, selection))
    return results


def calibrate_and_pool(
    trained: Trained, predictions: list[Predictions], pooling: Literal["none", "scene"]
) -> list[Predictions]:
    """Add the calibrated heights and, with pooling "scene", the heights pooled by scene.

    The calibration was fitted on the development scenes; each of these is calibrated by the others if there are
    enough. Without a calibration, pooling treats all errors of a scene as one error, so that σ does not shrink.
    """
    by_scene = pooling == "scene"
    if trained.calibration is None:
        return [replace(calibrate(Calibration(), group, by_scene=by_scene), calibrated=None) for group in predictions]
    calibration, development = trained.calibration, development_of(predictions)
    return [
        cross_calibrate(group, by_scene=by_scene)
        if group is development
        else calibrate(calibration, group, by_scene=by_scene)
        for group in predictions
    ]


def _scenes(table: SampleTable) -> frozenset[str]:
    return frozenset(np.unique(table.scene).tolist())
