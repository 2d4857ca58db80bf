"""A network on its way: what changes from step to step, and what `last.pt` must hold so that nothing of it is lost.

`Training` is built, then perhaps restored; loop.py moves it on.  Between any two steps `state` is complete: a run that
goes on from it on the CPU is to the bit the run that was not interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from dali_pipes import Batch, CacheOptions, Loader, SampleTable, Shard
from dali_pipes.batches.tile_cache import bytes_needed, choose_cache
from dali_pipes.errors import InputError
from model import HeightRegressor, Target, checkpoint

from ..machine.choices import (
    Choice,
    choose_compilation,
    choose_compile_mode,
    choose_precision,
    choose_threads,
    describe,
)
from ..recipe.config import Config
from ..recipe.data import Tables
from ..recipe.fingerprint import changes, fingerprint
from ..run.console import RunConsole
from ..run.folder import History
from ..run.ranks import Place, data_parallel, gather, shared
from ..scores.metrics import Baselines
from .schedule import Schedule
from .step import Forward, Step
from .trained import about, load_trained

PROGRESS = ("epoch", "step", "learning_rate", "seconds", "waited", "best_rmse")
"""Fields of `Training` that tell how far it is: plain numbers."""


class Stateful(Protocol):
    """What a checkpoint asks for its state, and gives it back to."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Inverse of `state_dict`."""


class Training:
    """The network, its optimiser, its loaders, and how far they are.

    `kept`: the folder of the index, where a disk cache is kept, too.
    `epoch`: epochs that are over; `step`: steps of the present one that are over; `loss`: the sum of their losses on
    this rank, 0-dim; `learning_rate`: of its first step; `seconds`, `waited`: what they took, and how much of it was
    waiting for data.
    """

    def __init__(
        self, config: Config, device: torch.device, tables: Tables, console: RunConsole, kept: Path, place: Place
    ) -> None:
        training, selection = tables.training, tables.selection
        self.config, self.device, self.place = config, device, place
        self.statistics = shared(training.statistics)
        self.fingerprint = _same_on_all_ranks(fingerprint(tables))
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
            weights=None if config.weights == "none" or config.init_from else config.weights,
        )
        self.model.to(device).to(memory_format=torch.channels_last)
        if self.place.rank:  # each rank drops paths of its own; rank 0 as it would alone
            torch.manual_seed(config.seed + (self.place.rank << 32))

        ranks, parts = self.place.world_size, config.runtime.accumulate
        if config.batch_size % (ranks * parts):
            raise InputError(
                f"--batch-size counts the samples of a step over all ranks: expected a multiple of {ranks} ranks"
                f" × {parts} of --accumulate, found {config.batch_size}"
            )
        precision = choose_precision(config.runtime.precision, device)
        compilation = choose_compilation(config.runtime.compile, device, ranks)

        mode = choose_compile_mode(config.runtime.compile_mode, compilation.value)

        def forward(model: nn.Module, network: nn.Module | None = None) -> Forward:
            return Forward(
                model,
                device,
                config.batch_size // (ranks * parts),
                precision.value,
                compilation=compilation.value,
                mode=mode.value,
                network=network,
                beta=config.optimizer.beta,
            )

        # The average is a copy of the network: it is what is evaluated and saved as the best.
        decay = config.optimizer.ema
        self.average = ModelEmaV3(self.model, decay, use_warmup=True) if decay else None
        compress = config.runtime.reduce == "bf16"
        self.forward = forward(self.model, data_parallel(self.model, device, compress=compress))
        self.evaluated = forward(self.average.module) if self.average else self.forward
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self.step_of = Step(self.forward, optimizer, config.optimizer.clip_norm, accumulate=parts)

        view = config.data.shown()
        needed = sum(bytes_needed(view.frames(table, config.data.size)) for table in (training, selection))
        cache = choose_cache(config.data.cache, needed, device, folder=kept, ranks=self.place.local_world_size)
        cache = gather(cache)[self.place.rank - self.place.local_rank]  # what is free may differ from rank to rank
        choices: dict[str, Choice] = {"precision": precision, "compilation": compilation, "cache": cache}
        if compilation.value != "off" and mode.value != "default":
            choices["compile mode"] = mode
        told = {name: f"{choice.value}: {choice.reason}" for name, choice in choices.items()}
        if ranks > 1:
            told["ranks"] = f"{ranks}, {self.place.local_world_size} on this node with {self.place.threads} cores each"
        for name, choice in told.items():
            console.note(f"{name} {choice}")
        self.environment = {"device": str(device), **told, **describe(device)}

        def loader(table: SampleTable, shuffle: bool) -> Loader:
            return Loader(
                table,
                config.batch_size if shuffle else config.batch_size // parts,
                device=device,
                shuffle=shuffle,
                shard=Shard(self.place.rank, ranks, config.seed),
                size=config.data.size,
                view=view,
                statistics=self.statistics,
                target=self.target.encode(table.height, table.length_in_sides),
                threads=choose_threads(config.data.threads, self.place.threads, device),
                cache=CacheOptions(cache.value, kept),
                augmentation=config.data.augmentation() if shuffle else None,
            )

        self.train_loader, self.selection_loader = loader(training, True), loader(selection, False)
        self.schedule = Schedule(config, optimizer, len(self.train_loader))
        self.parts: dict[str, Stateful] = {
            "optimizer": optimizer,
            "scaler": self.step_of.scaler,
            "schedule": self.schedule,
        }
        self.epoch = self.step = 0
        self.learning_rate = self.seconds = self.waited = 0.0
        self.loss = torch.zeros((), device=device)
        self.best_rmse = math.inf
        self.history: History = []

    def after_step(self) -> None:
        """Let the average and the learning rate follow the step that was made."""
        if self.average:
            self.average.update(self.model, step=self.epoch * len(self.train_loader) + self.step)
        self.schedule.after_step()

    def start_from(self, path: Path) -> str:
        """Take the weights, and nothing else, of the checkpoint at `path`; returns this in words.

        Raises CheckpointError if they do not fit, InputError if they were trained to say something else.
        """
        before, data = shared(lambda: load_trained(path)), self.config.data
        for flag, theirs, mine in (
            ("--model.target", before.target.kind, self.config.model.target),
            ("--data.size", before.size, data.size),
            ("--data.view", before.view.kind, data.view),
            *([] if data.view == "tile" else [("--data.crop", before.view.crop, data.crop)]),
        ):
            if theirs != mine:
                raise InputError(
                    f"the weights of {path} were trained with {flag} {theirs} and mean something else with {mine};"
                    f" start from them with {flag} {theirs}"
                )
        checkpoint.load_into(self.model, before.model.state_dict(), path)
        if self.average:
            self.average.set(self.model)
        old, new = before.statistics, self.statistics
        return (
            f"weights of {path}, statistics of this release, which the loss is normalised by: heights"
            f" {new.height_mean:.1f} ± {new.height_std:.1f} m, before {old.height_mean:.1f} ± {old.height_std:.1f} m"
        )

    def state(self) -> dict[str, Any]:
        """All that the next step depends on.  Every rank must ask at the same step: each has its own random state."""
        return {
            "model": self.model.state_dict(),
            "stats": tuple(self.statistics),
            "about": self.about,
            "average": self.average.module.state_dict() if self.average else None,
            **{name: part.state_dict() for name, part in self.parts.items()},
            **{name: getattr(self, name) for name in PROGRESS},
            "loss": gather(self.loss.cpu()),
            "random": gather(_random_state(self.device)),
            "history": self.history,
            "config": asdict(self.config),
            "data": self.fingerprint,
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on from `state`, read from `path`, also with another number of ranks than it was written by.

        Raises InputError or CheckpointError if it is of other data, of another network, or no `last.pt`.
        """
        missing = {*self.parts, *PROGRESS, "average", "loss", "random", "history", "data"} - set(state)
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}: it is no last.pt; choose another --out")
        changed = changes(state["data"], self.fingerprint)
        if changed:
            raise InputError(
                f"{path} was trained on other samples ({' | '.join(changed)}): the release has changed; train into"
                " another --out, if need be with --init-from"
            )
        checkpoint.load_into(self.model, state["model"], path)
        try:
            if self.average:
                checkpoint.load_into(self.average.module, state["average"], path)
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            for name in PROGRESS:
                setattr(self, name, type(getattr(self, name))(state[name]))
            self.history = [dict(record) for record in state["history"]]
            losses, randoms = state["loss"], state["random"]
            self.loss.copy_(torch.stack(losses).mean())
            if len(randoms) == self.place.world_size:  # others could not go on in each rank's own sequence
                self.loss.copy_(losses[self.place.rank])
                _set_random_state(randoms[self.place.rank], self.device)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            detail = str(error).strip().splitlines()[0][:120]
            raise InputError(f"{path} does not fit this run: {detail}; choose another --out") from None


class Clock:
    """Adds to a training's `seconds`, and to its `waited` what its steps waited for their batches."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._last = time.perf_counter()

    def read(self) -> None:
        """Add the seconds since it was last read."""
        now = time.perf_counter()
        self._training.seconds += now - self._last
        self._last = now

    def waiting_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._training.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def _same_on_all_ranks(mine: dict[str, Any]) -> dict[str, Any]:
    for rank, theirs in enumerate(gather(mine)):
        changed = changes(mine, theirs)
        if changed:
            raise InputError(f"rank {rank} sees another --release ({' | '.join(changed)}); copy the same to each node")
    return mine


def _random_state(device: torch.device) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
