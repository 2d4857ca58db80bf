"""The recipes of the ablation: the reference's, ours (preset fast), and each option of ours alone.

The rows of its table, in order: the reference's recipe; the reference plus one of our options; ours; ours without one
of its options; ours, and ours with the whole tile, plus an option that was tried and not adopted; ours in a third of
the epochs. Backbone, size, weights and epochs are scaled down equally for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from train.recipe.config import Config, Data, flattened
from train.recipe.presets import fast

Settings = Mapping[str, Any]
"""Values by the dotted names of their fields, such as {"optimizer.learning_rate": 1e-3}."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "log-scale target": ("model.target",),
    "layer scale 1": ("model.layer_scale",),
    "warm-up and cosine, 3e-4": ("optimizer.schedule", "optimizer.learning_rate"),
    "EMA .99": ("optimizer.ema",),
    "mirrored window": ("data.view", "data.crop", "data.hflip", "model.mirror"),
}
"""How preset fast differs from preset reference, except for backbone and epochs: the fields of each option."""

TILE = "ours − mirrored window"
"""Ours with the whole tile."""

SCENES: Settings = {"data.scene_group": 4, "optimizer.scene_loss": 1.0}
ONE_SIDED: Settings = {"data.hflip": 0.0, "model.mirror": False}
BOTH: Settings = {"data.view": "tile+aligned"}

TRIED: dict[str, Settings] = {
    "batch 64 of preset gpu": {"batch_size": 64, "optimizer.learning_rate": 6e-4, "optimizer.ema": 0.96},
    "scenes": SCENES,
    "window not mirrored": ONE_SIDED,
    "window mirrored in training only": {"model.mirror": False},
    "window of 256, not mirrored": {**ONE_SIDED, "data.crop": 256},
    "window not mirrored, scenes": {**ONE_SIDED, **SCENES},
    "tile next to the window": BOTH,
    "tile next to the window, not mirrored": {**BOTH, **ONE_SIDED},
    "tile next to the window, not mirrored, scenes": {**BOTH, **ONE_SIDED, **SCENES},
}
"""Options that were tried and are not part of ours. Batch 64 is how preset gpu differs from preset fast."""

TRIED_ON_TILE: dict[str, Settings] = {
    "flips and quarter turns": {"data.hflip": 0.5, "data.vflip": 0.5, "data.rot90": 0.5},
    "brightness and contrast": {"data.brightness": 0.2, "data.contrast": 0.2},
    "crop for the tile": {"data.view": "crop"},
    "crop next to the tile": {"data.view": "both"},
    "β-NLL .5": {"optimizer.beta": 0.5},
    "batch 64": TRIED["batch 64 of preset gpu"],
    "weight decay .05": {"optimizer.weight_decay": 0.05},
    "drop path .3": {"model.drop_path": 0.3},
    "EMA .999": {"optimizer.ema": 0.999},
    "scenes": SCENES,
}
"""Options that were tried with the whole tile. Some may keep a network from fitting its scenes over many epochs."""

REFERENCE, OURS, THIRD = "reference", "ours", "ours, a third of the epochs"


def recipes() -> dict[str, Settings]:
    """The rows of the table in order: name → how the recipe differs from the reference's."""
    preset = flattened(fast())
    ours = {name: preset[name] for option in OPTIONS.values() for name in option}
    rows: dict[str, Settings] = {REFERENCE: {}}
    rows |= {f"reference + {name}": {k: ours[k] for k in option} for name, option in OPTIONS.items()}
    rows[OURS] = ours
    rows |= {f"ours − {name}": {k: v for k, v in ours.items() if k not in option} for name, option in OPTIONS.items()}
    rows |= {f"ours + {name}": {**ours, **option} for name, option in TRIED.items()}
    rows |= {f"{TILE} + {name}": {**rows[TILE], **option} for name, option in TRIED_ON_TILE.items()}
    rows[THIRD] = ours
    return rows


def configuration(
    recipe: str, *, split: Any, seed: int, epochs: int, size: int, backbone: str = "convnext_atto"
) -> Config:
    """The configuration of a recipe, scaled down: a small backbone from random weights at `size`²."""
    if recipe == THIRD:
        epochs = max(1, epochs // 3)
    config = Config(
        epochs=epochs,
        seed=seed,
        backbone=backbone,
        weights="none",
        data=Data(size=size, split=split, holdout=0.15, select_on="development", cache="disk"),
    )
    # The reference trains only the mean in the first 4 of its 40 epochs, fast in the first of its 24.
    return changed(config, {"optimizer.variance_warmup": max(1, epochs // 10), **recipes()[recipe]})


def changed(config: Any, settings: Settings) -> Any:
    """A copy of the dataclass `config` with these settings."""
    for name, value in settings.items():
        field, _, rest = name.partition(".")
        inner = getattr(config, field)
        config = replace(config, **{field: changed(inner, {rest: value}) if is_dataclass(inner) else value})
    return config
