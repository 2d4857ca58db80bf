"""The presets: recipes by name, each a function that returns a `Config`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from .config import Config, Data, Model, Optimizer


def reference() -> Config:
    """The published recipe: ConvNeXt-base at 224², ImageNet weights, AdamW 1e-4, batch 16, 40 epochs."""
    return Config()


def fast() -> Config:
    """ConvNeXt-tiny from ImageNet weights regresses the log scale, a cosine over 24 epochs.

    What each of these options is worth on rendered tiles and from random weights, `python -m bench.ablate` tells, and
    `bench.epoch` how soon it is as good as the reference's recipe.  Of ImageNet weights they know nothing.
    """
    return Config(
        epochs=24,
        backbone="convnext_tiny",
        data=Data(holdout=0.1, select_on="development"),
        model=Model(target="log_scale", layer_scale=1.0),
        optimizer=Optimizer(learning_rate=3e-4, variance_warmup=1, schedule="cosine", ema=0.99),
    )


def demo() -> Config:
    """`fast` with ConvNeXt-atto from random weights at 112², for minutes on two CPU cores: shows the way."""
    config = fast()
    return replace(
        config, epochs=4, backbone="convnext_atto", weights="none", data=replace(config.data, size=112, holdout=0.15)
    )


PRESETS: dict[str, Callable[[], Config]] = {"reference": reference, "fast": fast, "demo": demo}
Preset = Literal["reference", "fast", "demo"]
