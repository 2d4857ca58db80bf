"""The configuration of a run: one frozen `Config`. presets.py has functions that return one.

On the command line, fields of `Config` are plain flags (`--epochs 20`), and fields of its parts are prefixed with the
part's name (`--optimizer.learning-rate 3e-4`). The docstrings of fields are the texts of `--help`. The defaults are
the recipe of the published reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dali_pipes.batches.augment import Augmentation
from dali_pipes.batches.view import View, ViewKind
from dali_pipes.errors import InputError
from dali_pipes.samples.splits import Division
from model.target import TargetKind

AsPlainFlag = tyro.conf.arg(prefix_name=False)
"""Marks a field of a part whose flag has no prefix: `--split`, not `--data.split`."""


ALIASES = {
    "--model": "--backbone",
    "--lr": "--optimizer.learning-rate",
    "--precision": "--runtime.precision",
    "--workers": "--data.threads",
    "--imgsz": "--data.size",
    "--img-size": "--data.size",
}
"""Names of other trainers → our flags."""


@dataclass(frozen=True)
class Data:
    """The samples, and how the network sees them."""

    size: int = 224
    """Side of the letterboxed input image, in pixels. Also --imgsz and --img-size."""

    view: ViewKind = "tile"
    """tile: the network sees the whole tile. crop: a window around the polyline.
    aligned: a window that is turned so that the polyline points up, as everything vertical in the scene then does.
    both, tile+aligned: the tile and a window, at twice the cost."""

    crop: int = 256
    """Side of the window, in pixels of the tile.
    It grows to 1.25 times the polyline's extent if that is larger."""

    holdout: float = 0.0
    """Share of the training samples, 0 to 1, to hold out as development samples, by whole scenes.
    They fit the calibration."""

    select_on: Annotated[Literal["development", "validation"], AsPlainFlag] = "validation"
    """Samples that select the best epoch.
    development: the held-out scenes, so validation is evaluated only once, at the end.
    validation: as the reference does, which makes the validation scores optimistic."""

    split: Annotated[Literal["official", "scene"], AsPlainFlag] = "official"
    """Validation samples. official: the release's own split, which shares scenes with training.
    scene: one of --data.folds folds of whole scenes of the entire release."""

    folds: int = 5
    """Number of folds of --split scene, of about equal size, drawn with --seed."""

    fold: int = 0
    """Validation fold of --split scene, from 0."""

    max_bad: Annotated[float, AsPlainFlag] = 0.01
    """Largest share of tiles that are unusable, wholly or in part, 0 to 1. With more, training does not start."""

    accept_labels: Annotated[bool, AsPlainFlag] = False
    """Train even if the audit finds more suspicious labels than chance explains."""

    threads: int = 0
    """Threads of DALI. 0: one per core available to this process, or half of that when training on the CPU.
    Also --workers."""

    cache: Annotated[Literal["auto", "none", "host", "device", "disk"], AsPlainFlag] = "auto"
    """Where to cache letterboxed tiles. host, device: in memory, filled during the first epoch.
    disk: in --index-cache, written before training and shared by later runs and by all ranks of a node.
    On a CPU, a single process that builds the index fills its cache with the same pass over the images.
    auto: the first of device, host and disk that needs at most half of its free space (device: a quarter)."""

    scene_group: int = 1
    """Samples of one scene that stay together in a training batch, from different tiles if possible.
    The share of a batch of each rank must be a multiple of it. 1: samples are shuffled alone."""

    hflip: float = 0.0
    """Chance of a left-right flip of a training image, 0 to 1."""

    vflip: float = 0.0
    """Chance of an up-down flip, 0 to 1."""

    rot90: float = 0.0
    """Chance of a 90° rotation, 0 to 1. With 0.5 for both flips and this, all eight orientations are equally likely."""

    brightness: float = 0.0
    """Range of the brightness factor of a training image: it is drawn between 1 - this and 1 + this."""

    contrast: float = 0.0
    """Range of the contrast factor around the grey level 128: it is drawn between 1 - this and 1 + this."""

    def __post_init__(self) -> None:
        _check(
            ("--data.size", self.size, 32, 4096),  # the backbone halves the frame five times
            ("--data.crop", self.crop, 32, 4096),
            ("--data.holdout", self.holdout, 0, 1),
            ("--data.scene-group", self.scene_group, 1, 1024),
            ("--max-bad", self.max_bad, 0, 1),
            ("--data.threads", self.threads, 0, 1024),
            *((f"--data.{option.name}", getattr(self, option.name), 0, 1) for option in fields(Augmentation)),
        )
        if self.shown().turned and (self.vflip or self.rot90):
            raise InputError(
                f"--data.view {self.view} shows polylines that point up, so only --data.hflip keeps what it shows; set"
                " --data.vflip and --data.rot90 to 0, or use --data.view tile"
            )
        if self.select_on == "development" and not self.holdout:
            raise InputError(
                "--select-on development needs scenes that are held out of training, found none; add --data.holdout"
                " 0.1, or use --select-on validation"
            )

    def shown(self) -> View:
        """The part of its tile that a sample shows."""
        return View(self.view, self.crop)

    def augmentation(self) -> Augmentation:
        """The augmentation of training images."""
        return Augmentation(self.hflip, self.vflip, self.rot90, self.brightness, self.contrast)


@dataclass(frozen=True)
class Model:
    """What the network predicts, and how it is initialised."""

    target: TargetKind = "height"
    """What the network predicts. height: the z-normalised height, as the reference does.
    log_scale: the logarithm of height / polyline length, which is constant within a scene."""

    drop_path: float = 0.1
    """Stochastic depth rate of the backbone, 0 to 1."""

    layer_scale: float | None = None
    """Initial layer scale of the backbone's blocks. none: timm's 1e-6, with which random weights learn slowly."""

    mirror: bool = False
    """Predict the mean for an image and its mirror image, in twice the time. Training steps stay the same."""


@dataclass(frozen=True)
class Optimizer:
    """AdamW, gradient clipping, the learning rate schedule and the loss."""

    learning_rate: float = 1e-4
    """Learning rate of AdamW; with the cosine schedule, its peak. Also --lr."""

    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW."""

    clip_norm: float = 5.0
    """Largest norm of the gradient; larger gradients are scaled down to it."""

    variance_warmup: int = 4
    """First epochs that train only the mean: no gradient reaches the variance."""

    schedule: Literal["plateau", "cosine"] = "plateau"
    """Learning rate schedule. plateau: lower it when the RMSE of --select-on stops falling, as the reference does.
    cosine: a linear warm-up, then half a cosine down to zero."""

    plateau_factor: float = 0.5
    """Factor by which the plateau schedule lowers the learning rate."""

    plateau_patience: int = 3
    """Epochs without a lower RMSE that the plateau schedule tolerates before it lowers the learning rate."""

    warmup: float = 0.1
    """Share of all steps that is the warm-up of the cosine schedule, 0 to 1."""

    beta: float = 0.0
    """Beta of the beta-NLL loss, 0 to 1. 0: the Gaussian likelihood.
    0.5: samples with a large predicted variance get more weight in the loss."""

    scene_loss: float = 0.0
    """Weight of the loss of pooled predictions: those of each --data.scene-group are pooled into one of the scene.
    The loss of each sample has weight 1. It needs --model.target log_scale. 0: no such loss."""

    ema: float = 0.0
    """Decay per step of an exponential moving average of the weights, such as 0.999, which is reached gradually.
    The average is evaluated and saved as best.pt. 0: no average."""


@dataclass(frozen=True)
class Runtime:
    """How to use the hardware: speed and logging, not the method."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of the backbone under autocast. Also --precision.
    auto: bf16 if the hardware supports it, else fp16 on a GPU and fp32 on a CPU."""

    compile: Annotated[Literal["auto", "on", "off"], AsPlainFlag] = "auto"
    """Whether to compile the step with torch.compile. auto: on GPUs only."""

    compile_mode: Literal["auto", "default", "max-autotune", "max-autotune-no-cudagraphs", "cudagraph"] = "auto"
    """Mode of torch.compile.
    max-autotune: try several kernels for each operator, which takes minutes, and on a single GPU use CUDA graphs.
    cudagraph: the whole step, with optimizer and average, as one CUDA graph on a single GPU.
    auto: cudagraph where it is possible, else default."""

    reduce: Literal["fp32", "bf16"] = "fp32"
    """Precision in which ranks sum their gradients.
    bf16 halves the traffic; use it if the network between nodes is the bottleneck."""

    accumulate: Annotated[int, AsPlainFlag] = 1
    """Number of parts into which each rank splits its share of a batch, to save memory.
    The result of a step is the same."""

    checkpoint_every: Annotated[str, AsPlainFlag] = "10m"
    """How often to save last.pt within an epoch: 500 for every 500 steps, 10m for every 10 minutes, 0 for never.
    It is also saved at the end of an epoch, unless the last save is less than a minute ago, and at the end of the run.
    A kill loses what was trained since the last save. A signal loses nothing, an error only its epoch."""

    time_limit: Annotated[str, AsPlainFlag] = "0"
    """Time after which the run saves its state and ends with exit status 0, to be resumed later: 55m, 3h or 90s.
    0: no limit. It is checked between steps; leave some minutes for the last save."""

    keep: Annotated[int, AsPlainFlag] = 1
    """Number of latest saved epochs to keep as epoch-0001.pt and so on. Copy one to last.pt to go back to it."""

    log_every: int = 20
    """Steps between two log lines. On a GPU a line shows the loss of the line before, so that the host never waits."""


@dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    epochs: int = 40
    """Passes over the training samples."""

    patience: int = 0
    """Epochs without a lower RMSE after which training ends early, and the report is written. 0: never."""

    batch_size: int = 16
    """Samples per step over all ranks, so the recipe does not depend on their number."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""

    seed: int = 0
    """Seed of the weights, the order of samples, the folds and the held-out scenes."""

    backbone: str = "convnext_base"
    """Any ConvNeXt of timm, such as convnext_atto or convnext_large. Also --model."""

    weights: str = "imagenet"
    """Initial weights of the backbone. imagenet: timm downloads them. none: random.
    Otherwise a local file with timm's weights of the backbone."""

    init_from: str | None = None
    """Run folder or checkpoint to start from; only its weights are used.
    At the end the command compares both networks: exit status 0 to promote the new one, 3 to keep the old one."""

    statistics: str | None = None
    """Needed only if --init-from is a bare state dict: a JSON file of length mean, length std, height mean and height
    std, or the release that it was trained on."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        _check(
            ("--epochs", self.epochs, 1, 1e6),
            ("--patience", self.patience, 0, 1e6),
            ("--batch-size", self.batch_size, 1, 1e6),
            ("--seed", self.seed, 0, 2**63),
            ("--model.drop-path", self.model.drop_path, 0, 1),
            ("--model.layer-scale", self.model.layer_scale or 0, 0, 100),
            ("--optimizer.learning-rate", self.optimizer.learning_rate, 0, 10),
            ("--optimizer.weight-decay", self.optimizer.weight_decay, 0, 10),
            ("--optimizer.beta", self.optimizer.beta, 0, 1),
            ("--optimizer.scene-loss", self.optimizer.scene_loss, 0, 100),
            ("--optimizer.ema", self.optimizer.ema, 0, 0.999999),
            ("--optimizer.clip-norm", self.optimizer.clip_norm, 0, 1e6),
            ("--optimizer.warmup", self.optimizer.warmup, 0, 1),
            ("--optimizer.variance-warmup", self.optimizer.variance_warmup, 0, 1e6),
            ("--optimizer.plateau-factor", self.optimizer.plateau_factor, 0, 0.999),
            ("--optimizer.plateau-patience", self.optimizer.plateau_patience, 0, 1e6),
            ("--runtime.log-every", self.runtime.log_every, 1, 1e6),
            ("--accumulate", self.runtime.accumulate, 1, 1e6),
            ("--keep", self.runtime.keep, 0, 9999),
        )
        every = self.runtime.checkpoint_every
        if not re.fullmatch(r"\d{1,9}|\d{1,6}(\.\d{1,3})?m", every):
            raise InputError(f"--checkpoint-every takes steps like 500 or minutes like 10m, found {every!r}")
        if not re.fullmatch(r"0|\d{1,6}(\.\d{1,3})?[smh]", self.runtime.time_limit):
            raise InputError(f"--time-limit takes a time like 90s, 55m or 3h, found {self.runtime.time_limit!r}")
        if self.runtime.compile_mode == "max-autotune" and self.runtime.accumulate > 1:
            raise InputError(
                "--runtime.compile-mode max-autotune replays CUDA graphs, and a replay may overwrite the gradients that"
                f" --accumulate {self.runtime.accumulate} adds up; use max-autotune-no-cudagraphs"
            )
        if self.optimizer.scene_loss and (self.data.scene_group < 2 or self.model.target != "log_scale"):
            raise InputError(
                "--optimizer.scene-loss pools the log scales of samples of a scene: expected --model.target log_scale"
                f" and --data.scene-group 2 or more, found {self.model.target} and {self.data.scene_group}"
            )
        self.division()  # raises InputError for a fold that does not exist

    def pretrained(self, out: Path) -> str | None:
        """What the backbone of the run in `out` is built from: "imagenet", a file, or None for random weights.

        A run that resumes needs neither a download nor the file: last.pt has its weights.
        """
        replaced = self.init_from or (out / "last.pt").exists()
        return None if self.weights == "none" or replaced else self.weights

    def division(self) -> Division:
        """How to divide the release into training and validation samples."""
        return Division(self.data.split, self.data.folds, self.data.fold, self.seed)


def _check(*bounds: tuple[str, float, float, float]) -> None:
    for name, value, low, high in bounds:
        if not low <= value <= high:  # also refuses NaN
            raise InputError(f"{name} must lie between {low:,.10g} and {high:,.10g}, found {value}")


MAY_CHANGE = (
    *("patience", "device", "data.threads", "data.cache", "data.max_bad", "data.accept_labels"),
    *("runtime.compile", "runtime.compile_mode", "runtime.log_every"),
    *("runtime.accumulate", "runtime.checkpoint_every", "runtime.time_limit", "runtime.keep"),
)
"""Settings that a resumed run may change: they affect the speed and the end of a run, not its steps."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the nested values with dotted names, such as ("optimizer.learning_rate", 0.0001)."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(config: Config, before: Mapping[str, Any]) -> list[str]:
    """The differences that make `config` a different run from `before`, as ["seed 1, was 0"].

    `before` is the `asdict` of a configuration. A run may get more epochs, but fewer only with the plateau schedule: a
    cosine would end above 0. A setting that is missing in `before` was added later, and its value then was today's
    default.
    """
    old = {**flattened(Config()), **dict(flatten(before))}
    is_longer = isinstance(old["epochs"], int) and config.epochs > old["epochs"]
    may_change = (*MAY_CHANGE, "epochs") if is_longer or config.optimizer.schedule == "plateau" else MAY_CHANGE
    return [
        f"{name} {value}, was {old[name]}"
        for name, value in flattened(config).items()
        if name not in may_change and old[name] != value
    ]


def flattened(config: Config) -> dict[str, Any]:
    """All settings by their dotted names."""
    return dict(flatten(asdict(config)))
