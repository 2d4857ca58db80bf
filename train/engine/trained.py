"""A trained network with all that is needed to use it, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dali_pipes import Batch, Loader, SampleTable, Statistics
from dali_pipes.batches.view import WHOLE_TILE, View
from dali_pipes.samples.splits import DEVELOPMENT, VALIDATION, Division
from model import CheckpointError, HeightRegressor, Target, checkpoint
from model.architecture import backbone_of
from model.calibration import Calibration

from ..machine.choices import choose_precision
from ..recipe.config import Config, Data, Model
from ..recipe.data import Tables
from ..run.folder import checkpoint_of
from ..run.ranks import gather
from ..scores.calibrate import calibrate, cross_calibrate, development_of
from ..scores.metrics import Baselines
from ..scores.predictions import Predictions
from .step import Forward

SELECTED = "The best epoch was selected on these samples, so their figures are optimistic."


@dataclass(frozen=True)
class Trained:
    """A network with all that is needed to use it and to speak of it honestly.

    `size` and `view`: what it is shown of a tile; `scenes`: those it was trained on, None where the checkpoint does not
    say; `held_out`: those of its release that were kept from it; `baselines`: fitted on its training samples;
    `division`: how its samples were divided; `select_on`: which of the evaluated samples the best epoch was chosen on;
    `calibration`: fitted on the scenes held out, None where there were too few.
    """

    model: HeightRegressor
    target: Target
    statistics: Statistics
    size: int
    scenes: frozenset[str] | None = None
    held_out: frozenset[str] = frozenset()
    baselines: Baselines | None = None
    division: Division = field(default_factory=Division)
    calibration: Calibration | None = None
    select_on: str = VALIDATION
    view: View = WHOLE_TILE

    def __post_init__(self) -> None:
        if self.select_on not in (VALIDATION, DEVELOPMENT):
            raise ValueError(f"its best epoch was selected on {self.select_on!r}")


def load_trained(path: Path) -> Trained:
    """Read a checkpoint of this project, a run folder's best one, or one of the reference's without `about`: 224², the
    backbone by its shapes, selected on the validation split.

    Raises CheckpointError if it does not fit.
    """
    path = checkpoint_of(path)
    contents = checkpoint.load(path)
    about = contents.get("about", {})
    try:
        model = HeightRegressor(str(about["backbone"] if "backbone" in about else backbone_of(contents["model"])))
        statistics = Statistics(*contents["stats"])
        moments = about.get("target_moments", (statistics.height_mean, statistics.height_std))
        shown = replace(
            Data(),
            size=int(about.get("size", Data.size)),
            view=about.get("view", Data.view),
            crop=int(about.get("crop", Data.crop)),
        )
        trained = Trained(
            model,
            Target(about.get("target", Model.target), *map(float, moments)),
            statistics,
            shown.size,
            frozenset(map(str, about["scenes"])) if "scenes" in about else None,
            frozenset(map(str, about.get("held_out", ()))),
            Baselines.from_dict(about["baselines"]) if "baselines" in about else None,
            Division(**about.get("division", {})),
            Calibration.from_dict(contents["calib"]) if "calib" in contents else None,
            str(about.get("select_on", VALIDATION)),
            shown.shown(),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} describes no network of this project: {error}") from None
    checkpoint.load_into(model, contents["model"], path)
    return trained


def about(config: Config, tables: Tables, target: Target, baselines: Baselines) -> dict[str, Any]:
    """What a checkpoint says of itself beside the reference's two keys, in plain values: `load`'s counterpart."""
    held_out = tables.evaluated.get(DEVELOPMENT)
    return {
        "backbone": config.backbone,
        "size": config.data.size,
        "view": config.data.view,
        "crop": config.data.crop,
        "target": target.kind,
        "target_moments": [target.mean, target.std],
        "scenes": np.unique(tables.training.scene).tolist(),
        "held_out": [] if held_out is None else np.unique(held_out.scene).tolist(),
        "baselines": baselines.to_dict(),
        "division": asdict(config.division()),
        "select_on": tables.select_on,
    }


def forward_of(trained: Trained, device: torch.device, batch_size: int, precision: str = "auto") -> Forward:
    """The network of `trained` on `device`, ready to predict; "auto" is what the hardware multiplies natively."""
    network = trained.model.to(device).to(memory_format=torch.channels_last)
    return Forward(network, device, batch_size, choose_precision(precision, device).value)


def predict(
    forward: Forward,
    loader: Loader,
    target: Target,
    shown: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of height in metres, both (N,) float64, for all rows of the loader's table.

    `shown` passes the batches on and may show how far they are.  Ranks predict a share each, and all get the whole.
    """
    forward.model.eval()
    samples, mus, log_vars = [], [], []
    for batch in shown(loader):
        mu, log_var = forward.predict(batch)
        samples.append(batch.sample)
        mus.append(mu)
        log_vars.append(log_var)
    ranks = gather([[part.cpu() for part in parts] for parts in (samples, mus, log_vars)])  # waits for the device, once
    sample, mu, log_var = (torch.cat([part for rank in ranks for part in rank[i]]) for i in range(3))
    order = sample.argsort()
    said = [values.double()[order].numpy() for values in (mu, log_var)]
    return target.decode(said[0], said[1], loader.table.length_in_sides)


def evaluate(trained: Trained, tables: Tables, forward: Forward, threads: int = 0) -> list[Predictions]:
    """Predict the tables that are not trained on; which samples they are is said in words.

    Of another release, none of whose scenes the network was trained on, no samples chose its best epoch.
    """
    scenes, results = trained.scenes, []
    chosen_here = scenes is None or not scenes.isdisjoint(tables.training.scene.tolist())
    for name, table in tables.evaluated.items():
        loader = Loader(
            table,
            forward.batch_size,
            device=forward.device,
            size=trained.size,
            view=trained.view,
            statistics=trained.statistics,
            threads=threads or None,
        )
        mu, sigma = predict(forward, loader, trained.target)
        loader.close()
        seen = np.isin(table.scene, list(scenes)) if scenes is not None else np.zeros(len(table), bool)
        selection = chosen_here and name == tables.select_on
        said = f"{tables.about[name]} {SELECTED}" if selection else tables.about[name]
        results.append(Predictions(name, said, table, mu, sigma, seen, selection))
    return results


def refine(trained: Trained, predictions: list[Predictions], pooling: Literal["none", "scene"]) -> list[Predictions]:
    """`predictions` with what the calibration and the pooling by scene make of them.

    The development scenes, which the calibration was fitted on, are each calibrated by the others, if there are enough
    of them.  Without a calibration σ is pooled as if all errors were common to a scene: it becomes no surer.
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


def completed(trained: Trained, training: SampleTable) -> Trained:
    """`trained` with what its checkpoint left unsaid: it is taken to have seen all of `training`."""
    return replace(
        trained,
        scenes=frozenset(np.unique(training.scene).tolist()) if trained.scenes is None else trained.scenes,
        baselines=trained.baselines or Baselines.fit(training.length, training.height),
    )
