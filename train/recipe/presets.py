"""The presets: named recipes, each a function that returns a `Config`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from .config import MAY_CHANGE, Config, Data, Model, Optimizer, Runtime, flattened


def reference() -> Config:
    """The published recipe: ConvNeXt-base at 224², ImageNet weights, AdamW 1e-4, batch 16, 40 epochs."""
    return Config()


def fast() -> Config:
    """ConvNeXt-tiny with ImageNet weights, the log-scale target, an aligned window, and a cosine over 24 epochs.

    The window and its mirror image keep the network from learning the training scenes by heart. `python -m
    bench.ablate` measures each of these options, and `python -m bench.epoch` the time to reach the RMSE of the
    reference's recipe, both on rendered tiles from random weights.
    """
    return Config(
        epochs=24,
        backbone="convnext_tiny",
        data=Data(view="aligned", crop=160, hflip=0.5, holdout=0.1, select_on="development"),
        model=Model(target="log_scale", layer_scale=1.0, mirror=True),
        optimizer=Optimizer(learning_rate=3e-4, variance_warmup=1, schedule="cosine", ema=0.99),
    )


def gpu() -> Config:
    """`fast` in batches of 64, which a large GPU needs to be busy: the same epochs in a quarter of the steps.

    Adam's learning rate grows with the square root of the batch (Malladi et al., 2022, arXiv:2205.10287); the moving
    average keeps its length in samples, .99⁴ = .96.
    """
    config = fast()
    return replace(
        config,
        batch_size=64,
        optimizer=replace(config.optimizer, learning_rate=6e-4, ema=0.96),
        runtime=Runtime(log_every=100),
    )


def demo() -> Config:
    """`fast` with ConvNeXt-atto from random weights at 112²: minutes on two CPU cores, to try the commands.

    It shows the whole tile, because in so few epochs a network learns more from it than from the window.
    """
    config = fast()
    return replace(
        config,
        epochs=4,
        backbone="convnext_atto",
        weights="none",
        data=Data(size=112, holdout=0.15, select_on="development"),
        model=replace(config.model, mirror=False),
    )


PRESETS: dict[str, Callable[[], Config]] = {"reference": reference, "fast": fast, "gpu": gpu, "demo": demo}
Preset = Literal["reference", "fast", "gpu", "demo"]

MOST_NAMED = 4
"""Settings that `described` names; more would not be read."""


def described(config: Config) -> str:
    """The preset nearest to `config`, and what differs from it, such as "fast, with epochs 3 and seed 1".

    Settings that do not change the result, such as the device, are not named.
    """
    settings = flattened(config)

    def differences(preset: str) -> list[str]:
        usual = flattened(PRESETS[preset]())
        return [name for name in settings if name not in MAY_CHANGE and settings[name] != usual[name]]

    nearest = min(PRESETS, key=lambda preset: len(differences(preset)))
    changed = [f"{name.rpartition('.')[2]} {settings[name]}" for name in differences(nearest)]
    named = changed[:MOST_NAMED] + [f"{len(changed) - MOST_NAMED} more"] * (len(changed) > MOST_NAMED)
    return f"{nearest}, with {', '.join(named)}" if named else nearest
