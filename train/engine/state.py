"""The state of a run: everything that changes from step to step, and its form in last.pt.

`Training` is built from a configuration and datasets, and may be restored from last.pt; loop.py drives it. Between any
two steps `state()` is complete: on a CPU, a run that resumes from it is bit-identical to one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dali_pipes import Batch, CacheOptions, Loader, SampleTable, Shard
from dali_pipes.batches.first_pass import FirstPass
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
    graph_fault,
)
from ..recipe.config import Config
from ..recipe.data import Datasets
from ..recipe.fingerprint import changes, fingerprint
from ..run.console import RunConsole
from ..run.folder import History
from ..run.ranks import Place, all_gather, data_parallel, from_rank_zero, mean_over_ranks
from ..scores.metrics import Baselines
from .adamw import AdamW
from .average import MovingAverage
from .captured import CapturedStep, CudaGraph
from .progress import Progress
from .readout import Readout
from .schedule import Schedule
from .step import Forward, SceneTerm, Step
from .trained import Metadata, load_trained
from .validation import Check


class Training:
    """A network in training, with its optimizer, loaders and progress.

    `index_folder`: where the index and a disk cache are kept. `weights`: see `Config.pretrained`. `first_pass`: tiles
    that the index has kept. `forward` runs the network; `evaluated` runs the moving average of the weights, or the
    network if there is no average. best.pt stores these weights.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        datasets: Datasets,
        console: RunConsole,
        index_folder: Path,
        place: Place,
        weights: str | None,
        first_pass: FirstPass | None = None,
    ) -> None:
        self.config, self.device, self.place = config, device, place
        self._parts = config.runtime.accumulate
        training = datasets.training
        self.statistics = from_rank_zero(training.statistics)
        self.fingerprint = _same_on_all_ranks(fingerprint(datasets))
        self.baselines = Baselines.fit(training.length, training.height)
        self.target = Target.fit(config.model.target, training.height, training.length_in_sides)
        self.about = Metadata.of_run(config, datasets, self.target, self.baselines).to_dict()
        self.selected_on = datasets.select_on

        self.model = self._build_network(weights)
        if weights not in (None, "imagenet"):
            tensors = len(self.model.backbone.state_dict())
            console.note(f"all {tensors} tensors of {config.backbone} come from {weights}; the head is new")
        decay = config.optimizer.ema
        self.average = MovingAverage(self.model, decay) if decay else None
        choices = self._choose(datasets, index_folder, first_pass.held if first_pass else 0)
        self.environment = self._describe(choices)
        network = data_parallel(self.model, device, compress=config.runtime.reduce == "bf16")
        self._scene_term = self._build_scene_term(training)
        self.forward = self._build_forward(choices, self.model, network)
        self.evaluated = self._build_forward(choices, self.average.module) if self.average else self.forward
        recipe = config.optimizer
        optimizer = AdamW(self.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self._step = Step(self.forward, optimizer, recipe.clip_norm, accumulate=self._parts)
        is_captured = choices["compile mode"].value == "cudagraph"
        self._captured = CapturedStep(self._step, self.average, CudaGraph()) if is_captured else None
        cache = choices["cache"].value
        self._shown_on = console.console
        options = CacheOptions(cache, index_folder)
        self.train_loader = self._build_loader(training, options, first_pass, training=True)
        self.selection_loader = self._build_loader(datasets.selection, options, first_pass, training=False)
        self.schedule = Schedule(config, optimizer, len(self.train_loader))
        self._stateful: dict[str, Any] = {
            "optimizer": optimizer,
            "scaler": self._step.scaler,
            "schedule": self.schedule,
        }
        self.progress = Progress()
        self._loss = torch.zeros((), device=device)  # the sum over this epoch's steps on this rank
        self._variance_weight = torch.ones((), device=device)

    @property
    def history(self) -> History:
        """The records of the completed epochs."""
        return self.progress.history

    # --- Building.

    def _build_network(self, weights: str | None) -> HeightRegressor:
        config = self.config
        torch.manual_seed(config.seed)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        model = HeightRegressor(
            config.backbone,
            drop_path=config.model.drop_path,
            layer_scale=config.model.layer_scale,
            weights=weights,
            views=len(config.data.shown()),
            mirror=config.model.mirror,
        )
        model.to(self.device).to(memory_format=torch.channels_last)
        if self.place.rank:  # each rank has its own stochastic depth; rank 0 that of a single process
            torch.manual_seed(config.seed + (self.place.rank << 32))
        return model

    def _choose(self, datasets: Datasets, index_folder: Path, held: int) -> dict[str, Choice]:
        config, device, place, view = self.config, self.device, self.place, self.config.data.shown()
        compilation = choose_compilation(config.runtime.compile, device, place.world_size)
        tables = (datasets.training, datasets.selection)
        needed = sum(bytes_needed(view.frames(table, config.data.size)) for table in tables)
        ranks = place.local_world_size
        cache = choose_cache(config.data.cache, needed, device, folder=index_folder, ranks=ranks, held=held)
        precision = choose_precision(config.runtime.precision, device)
        fault = graph_fault(device, precision.value, place.world_size, self._parts)
        return {
            "precision": precision,
            "compilation": compilation,
            "cache": all_gather(cache)[place.rank - place.local_rank],  # free memory may differ from rank to rank
            "compile mode": choose_compile_mode(config.runtime.compile_mode, compilation.value, fault),
        }

    def _describe(self, choices: Mapping[str, Choice]) -> dict[str, str]:
        """The choices with their reasons, the hardware and the versions, as in environment.txt."""
        described = {name: f"{choice.value}: {choice.reason}" for name, choice in choices.items()}
        mode = choices["compile mode"].value
        if mode == "default" or (mode != "cudagraph" and choices["compilation"].value == "off"):
            del described["compile mode"]
        place = self.place
        if place.world_size > 1:
            on_node = f"{place.local_world_size} on this node with {place.threads} cores each"
            described["ranks"] = f"{place.world_size}, {on_node}"
        return {"device": str(self.device), **described, **describe(self.device)}

    def _build_forward(
        self, choices: Mapping[str, Choice], model: nn.Module, network: nn.Module | None = None
    ) -> Forward:
        mode = choices["compile mode"].value
        return Forward(
            model,
            self.device,
            self.config.batch_size // (self.place.world_size * self._parts),
            choices["precision"].value,
            compilation=choices["compilation"].value,
            mode="default" if mode == "cudagraph" else mode,
            network=network,
            beta=self.config.optimizer.beta,
            scene_term=self._scene_term,
        )

    def _build_scene_term(self, training: SampleTable) -> SceneTerm | None:
        weight = self.config.optimizer.scene_loss
        if not weight:
            return None
        scene = torch.from_numpy(np.unique(training.scene, return_inverse=True)[1])
        return SceneTerm(weight, self.config.data.scene_group, scene.to(self.device))

    def _build_loader(
        self, table: SampleTable, cache: CacheOptions, first_pass: FirstPass | None, *, training: bool
    ) -> Loader:
        config, place = self.config, self.place
        return Loader(
            table,
            config.batch_size if training else config.batch_size // self._parts,
            device=self.device,
            shuffle=training,
            shard=Shard(place.rank, place.world_size, config.seed),
            scene_group=config.data.scene_group,
            size=config.data.size,
            view=config.data.shown(),
            statistics=self.statistics,
            target=self.target.encode(table.height, table.length_in_sides),
            threads=choose_threads(config.data.threads, place.threads, self.device),
            cache=cache,
            first_pass=first_pass,
            augmentation=config.data.augmentation() if training else None,
            console=self._shown_on,
        )

    # --- Training.

    def begin_epoch(self) -> None:
        """Prepare for the steps of an epoch, or for the rest of them after a resume."""
        self.model.train()
        self._readout = Readout()
        warming_up = self.progress.epoch < self.config.optimizer.variance_warmup
        self._variance_weight = torch.tensor(0.0 if warming_up else 1.0, device=self.device)
        if self.progress.step == 0:
            self.progress.learning_rate = self.schedule.learning_rate

    def take_step(self, batch: Batch) -> None:
        """Train on one batch, then update the moving average and the learning rate. Does not wait for the device."""
        self.progress.step += 1
        completed = self.progress.epoch * len(self.train_loader) + self.progress.step
        if self._captured:
            self._loss += self._captured(batch, self._variance_weight, completed)
        else:
            self._loss += self._step(batch, self._variance_weight)
            if self.average:
                self.average.update_after(completed)
        self.schedule.after_step()

    def mean_loss(self) -> float:
        """Mean loss of the epoch's steps so far, over all ranks. Synchronises the device."""
        return mean_over_ranks(self._loss) / self.progress.step

    def recent_loss(self) -> float | None:
        """`mean_loss`, but on a GPU as it was at the last call, so that the device keeps working; None at first."""
        mean = self._readout.next(self._loss / self.progress.step)
        return None if mean is None else mean_over_ranks(mean)

    def end_epoch(self, record: dict[str, Any]) -> bool:
        """Go to the next epoch; returns whether this one is the best so far. `record` has its "rmse" in metres."""
        self.schedule.after_epoch(record["rmse"])
        self._loss.zero_()
        return self.progress.end_epoch(record)

    # --- Saving and restoring.

    def start_from(self, path: Path) -> str:
        """Load only the weights of the checkpoint at `path`; returns a sentence for the console.

        Raises CheckpointError if they do not fit, InputError if they were trained for another target or input.
        """
        given, data = self.config.statistics, self.config.data
        before = from_rank_zero(lambda: load_trained(path, None if given is None else Path(given)))
        for flag, theirs, mine in (
            ("--model.target", before.target.kind, self.config.model.target),
            ("--data.size", before.size, data.size),
            ("--data.view", before.view.kind, data.view),
            *([] if data.view == "tile" else [("--data.crop", before.view.crop, data.crop)]),
        ):
            if theirs != mine:
                raise InputError(
                    f"the weights of {path} were trained with {flag} {theirs}, but this run has {flag} {mine};"
                    f" start from them with {flag} {theirs}"
                )
        checkpoint.load_into(self.model, before.model.state_dict(), path)
        if self.average:
            self.average.set(self.model)
        old, new = before.statistics, self.statistics
        return (
            f"starting from the weights of {path}; the target is normalised by this release: heights"
            f" {new.height_mean:.1f} ± {new.height_std:.1f} m, before {old.height_mean:.1f} ± {old.height_std:.1f} m"
        )

    def state(self) -> dict[str, Any]:
        """All that the next step depends on. Every rank must call it at the same step, since it gathers from all."""
        return {
            "model": self.model.state_dict(),
            "stats": tuple(self.statistics),
            "about": self.about,
            "average": self.average.module.state_dict() if self.average else None,
            **{name: part.state_dict() for name, part in self._stateful.items()},
            **vars(self.progress),
            "loss": all_gather(self._loss.cpu()),
            "random": all_gather(_random_state(self.device)),
            "config": asdict(self.config),
            "data": self.fingerprint,
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from `state`, read from `path`; the number of ranks may differ from that of the run that wrote it.

        Raises InputError or CheckpointError if it belongs to other data or another network, or is not a last.pt.
        """
        missing = {*self._stateful, *vars(self.progress), "average", "loss", "random", "data"} - set(state)
        if missing:
            raise InputError(f"{path} lacks {', '.join(sorted(missing))}: it is no last.pt; choose another --out")
        check = Check(path)
        check.fingerprint(state["data"])
        changed = changes(state["data"], self.fingerprint)
        if changed:
            raise InputError(
                f"{path} was trained on other samples ({' | '.join(changed)}): the release has changed; train into"
                " another --out, and add --init-from to start from its weights"
            )
        check.progress(state, len(self.train_loader))
        check.optimizer(state["optimizer"], self._step.optimizer, stepped=bool(state["epoch"] or state["step"]))
        check.alike(state["schedule"], self.schedule.state_dict(), "schedule")
        if scaler := self._step.scaler.state_dict():  # without fp16 it is empty, and ignores the saved one
            check.alike(state["scaler"], scaler, "scaler")
        check.per_rank(state["loss"], state["random"])
        checkpoint.load_into(self.model, state["model"], path)
        try:
            if self.average:
                checkpoint.load_into(self.average.module, state["average"], path)
            for name, part in self._stateful.items():
                part.load_state_dict(state[name])
            self.progress = Progress.from_state(state)
            losses, random_states = state["loss"], state["random"]
            self._loss.copy_(torch.stack(losses).mean())
            if len(random_states) == self.place.world_size:  # otherwise each rank continues from its own seed
                self._loss.copy_(losses[self.place.rank])
                _set_random_state(random_states[self.place.rank], self.device)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError) as error:
            detail = str(error).strip().splitlines()[0][:120]
            raise InputError(f"{path} does not fit this run: {detail}; choose another --out") from None


def _same_on_all_ranks(mine: dict[str, Any]) -> dict[str, Any]:
    for rank, theirs in enumerate(all_gather(mine)):
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
