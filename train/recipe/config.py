"""What a run is: one frozen `Config`; `presets.py` has functions that return one.

On the command line the fields of `Config` are plain flags (`--epochs 20`), those of its parts carry the part's
name (`--optimizer.learning-rate 3e-4`).  The defaults are the published reference's recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro

from dali_pipes.batches.augment import Augmentation
from dali_pipes.batches.view import View, ViewKind
from dali_pipes.errors import InputError
from dali_pipes.samples.splits import Division
from model.target import Kind

AsPlainFlag = tyro.conf.arg(prefix_name=False)
"""Marks a part's field whose flag is known without the part's name: `--split`, not `--data.split`."""


@dataclass(frozen=True)
class Data:
    """What the network is shown."""

    size: int = 224
    """Side of the letterboxed frame, in pixels."""

    view: ViewKind = "tile"
    """tile: the network is shown the whole tile; crop: a window around the polyline; both: both, at the cost of two
    pictures a sample; what the network saw in them is averaged."""

    crop: int = 256
    """Side of that window in pixels of the tile; a longer polyline gets 1.25 times its own extent."""

    holdout: float = 0.0
    """Share of the training samples that is held out by whole scenes: the development part."""

    select_on: Annotated[Literal["development", "validation"], AsPlainFlag] = "validation"
    """development: the best epoch is chosen on the held-out scenes, and the validation split is looked at once, at the
    end; validation: the reference's habit, whose validation figures are therefore optimistic."""

    split: Annotated[Literal["official", "scene"], AsPlainFlag] = "official"
    """official: validate on the release's own validation split, whose scenes training sees, too; scene: pool the
    release and validate on one of `folds` folds of whole scenes."""

    folds: int = 5
    """Folds of --split scene, of about equal size, drawn by --seed."""

    fold: int = 0
    """The fold that validates, counted from 0."""

    max_bad: Annotated[float, AsPlainFlag] = 0.01
    """Largest share of tiles that may be unusable, in whole or in part; above it training stops and says why."""

    threads: int = 0
    """DALI's threads; 0 for as many as this process may use cores, and half of that where the step computes on them."""

    cache: Annotated[Literal["auto", "none", "host", "device", "disk"], AsPlainFlag] = "auto"
    """Where letterboxed tiles are kept: after the first epoch in memory, before it on disk, in --index-cache, for later
    runs and for all ranks of a node; auto: the first of device, host and disk where they take at most half of what is
    free."""

    hflip: float = 0.0
    """Probability that a training picture is mirrored left and right, with its masks."""

    vflip: float = 0.0
    """Likewise up and down."""

    rot90: float = 0.0
    """Likewise of a quarter turn; .5 of each of the three makes the eight positions equally likely."""

    brightness: float = 0.0
    """A factor between 1 - this and 1 + this is drawn for each training picture."""

    contrast: float = 0.0
    """Likewise, about the grey level 128."""

    def __post_init__(self) -> None:
        _check(
            ("--data.size", self.size, 32, 4096),  # the backbone halves the frame five times
            ("--data.crop", self.crop, 32, 4096),
            ("--data.holdout", self.holdout, 0, 1),
            ("--max-bad", self.max_bad, 0, 1),
            ("--data.threads", self.threads, 0, 1024),
            *((f"--data.{option.name}", getattr(self, option.name), 0, 1) for option in fields(Augmentation)),
        )
        if self.select_on == "development" and not self.holdout:
            raise InputError(
                "--select-on development needs scenes that are held out of training, found none: add --data.holdout"
                " 0.1, or choose --select-on validation"
            )

    def shown(self) -> View:
        """Which parts of its tile a sample shows."""
        return View(self.view, self.crop)

    def augmentation(self) -> Augmentation:
        """How training pictures are changed."""
        return Augmentation(self.hflip, self.vflip, self.rot90, self.brightness, self.contrast)


@dataclass(frozen=True)
class Model:
    """What the network regresses, and how it starts."""

    target: Kind = "height"
    """height: the z-normalised height, as the reference does; log_scale: the logarithm of height ÷ polyline length,
    which is one constant in a scene, multiplied by the length afterwards."""

    drop_path: float = 0.1
    """Stochastic depth of the backbone."""

    layer_scale: float | None = None
    """Initial layer scale of the backbone's blocks; None for timm's 1e-6, which random weights outgrow slowly."""


@dataclass(frozen=True)
class Optimizer:
    """How the network learns: AdamW, gradient clipping, and a schedule of the learning rate."""

    learning_rate: float = 1e-4
    """AdamW's learning rate, the largest one of a cosine schedule."""

    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay."""

    clip_norm: float = 5.0
    """Largest norm of the gradient."""

    variance_warmup: int = 4
    """Epochs in which the mean alone is trained: no gradient reaches log_var."""

    schedule: Literal["plateau", "cosine"] = "plateau"
    """plateau: multiply by `plateau_factor` when validation RMSE has not fallen for `plateau_patience` epochs, as the
    reference does; cosine: rise linearly for `warmup` of the steps, then fall to zero as half a cosine."""

    plateau_factor: float = 0.5
    """See `schedule`."""

    plateau_patience: int = 3
    """See `schedule`."""

    warmup: float = 0.1
    """See `schedule`; a share of all steps."""

    beta: float = 0.0
    """β of the β-NLL: 0 is the Gaussian likelihood; 0.5 gives samples of large variance more weight in the mean."""

    ema: float = 0.0
    """Decay a step of the moving average of the weights, such as 0.999, which is then what is evaluated and saved as
    best.pt; it rises to this value from 0.  0 keeps none."""


@dataclass(frozen=True)
class Runtime:
    """How the hardware is used; changes speed, not the method."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of the backbone under autocast; auto takes bf16 where the hardware multiplies it, else fp16 on GPUs."""

    compile: Annotated[Literal["auto", "on", "off"], AsPlainFlag] = "auto"
    """Whether torch.compile compiles the step; auto does so on GPUs."""

    compile_mode: Literal["default", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """max-autotune tries several kernels for each operator, which takes minutes, and on one GPU replays the step as a
    CUDA graph."""

    reduce: Literal["fp32", "bf16"] = "fp32"
    """In which precision ranks sum their gradients; bf16 halves what travels, for networks slower than the step."""

    accumulate: Annotated[int, AsPlainFlag] = 1
    """Parts in which a rank does its share of a step, where the whole does not fit its memory; the step is the same."""

    checkpoint_every: Annotated[str, AsPlainFlag] = "10m"
    """How often last.pt is also saved within an epoch: 500 for steps, 10m for minutes, 0 for epochs' ends alone."""

    keep: Annotated[int, AsPlainFlag] = 1
    """How many epochs' ends are kept as epoch-0001.pt and so on, to go back to by copying one to last.pt."""

    log_every: int = 20
    """Steps between two looks at the loss; only there does the device wait for the host."""


@dataclass(frozen=True)
class Config:
    """A run; the defaults are the reference's."""

    epochs: int = 40
    """Passes over the training samples."""

    batch_size: int = 16
    """Samples a step, over all ranks: the recipe, and so the learning rate, is the same on any number of them."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""

    seed: int = 0
    """Seed of the weights, of the samples' order, of the folds and of the held-out scenes."""

    backbone: str = "convnext_base"
    """Any ConvNeXt of timm, convnext_atto to convnext_large."""

    weights: str = "imagenet"
    """imagenet: timm downloads them; none: random; else a local file of timm's weights for the backbone."""

    init_from: str | None = None
    """A run folder or a checkpoint, whose network's weights, and nothing else of it, are where training begins; at the
    end the command says whether to promote the new network (exit status 0) or to keep that one (3)."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        _check(
            ("--epochs", self.epochs, 1, 1e6),
            ("--batch-size", self.batch_size, 1, 1e6),
            ("--seed", self.seed, 0, 2**63),
            ("--model.drop-path", self.model.drop_path, 0, 1),
            ("--model.layer-scale", self.model.layer_scale or 0, 0, 100),
            ("--optimizer.learning-rate", self.optimizer.learning_rate, 0, 10),
            ("--optimizer.weight-decay", self.optimizer.weight_decay, 0, 10),
            ("--optimizer.beta", self.optimizer.beta, 0, 1),
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
        if self.runtime.compile_mode == "max-autotune" and self.runtime.accumulate > 1:
            raise InputError(
                "--runtime.compile-mode max-autotune replays CUDA graphs, and a replay may overwrite the gradients that"
                f" --accumulate {self.runtime.accumulate} adds up: choose max-autotune-no-cudagraphs"
            )
        self.division()  # raises where there is no such fold

    def division(self) -> Division:
        """How the release's samples are divided into training and validation."""
        return Division(self.data.split, self.data.folds, self.data.fold, self.seed)


def _check(*bounds: tuple[str, float, float, float]) -> None:
    for name, value, low, high in bounds:
        if not low <= value <= high:  # false for NaN, too
            raise InputError(f"{name} must lie between {low:g} and {high:g}, found {value}")


MAY_CHANGE = (
    *("device", "data.threads", "data.cache", "data.max_bad"),
    *("runtime.compile", "runtime.compile_mode", "runtime.log_every"),
    *("runtime.accumulate", "runtime.checkpoint_every", "runtime.keep"),
)
"""What a resumed run may do otherwise than before: it changes how fast, not what is learnt."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("optimizer.learning_rate", 0.0001) and so on, from nested values in their order."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(config: Config, before: Mapping[str, Any]) -> list[str]:
    """What makes `config` another run than the one whose `asdict` was `before`, as ["seed 1, was 0"].

    More epochs only prolong a run on a plateau; a cosine has another learning rate at every step of a longer run.  What
    `before` does not say is newer than that run, and had what is now the default.
    """
    may_change = (*MAY_CHANGE, "epochs") if config.optimizer.schedule == "plateau" else MAY_CHANGE
    old = {**flattened(Config()), **dict(flatten(before))}
    return [
        f"{name} {value}, was {old[name]}"
        for name, value in flattened(config).items()
        if name not in may_change and old[name] != value
    ]


def flattened(config: Config) -> dict[str, Any]:
    """The settings by their dotted names."""
    return dict(flatten(asdict(config)))
