"""Whole epochs: the reference's way and ours, what each loses to its data, and how soon a network is good enough.

    python -m bench.epoch --release runs/release --repeats 5 --seeds 3

Two tables, and one JSON object as the last line.

1.  Epochs of training alone, peers taking turns.  The reference: loose files, a DataLoader of two workers, an eager
    fp32 step in NCHW, `loss.item()` after each.  Ours: the loader, streamed and cached, and the step that
    `python -m train` would choose here.  Two figures tell what data cost.  *Waits* is the share of an epoch that the
    step stood still for its next batch, as the host sees it.  It hides what loading takes from the step: on a CPU
    both want the same cores, on a GPU the host may run ahead.  So *above its step* is the time of an epoch over that
    of as many steps on batches that lie in memory, less one: all that data cost, whatever the reason.
2.  Time to what preset `reference` reaches, by the presets `reference` and `fast` as `python -m train` runs them, both
    with our loader and our step, scaled down alike, so that a CPU can do it: `--backbones` in place of convnext_base
    and convnext_tiny, random weights, smaller frames, and `--epochs` in place of the reference's 40, of which fast
    gets its preset's share.  All else is each preset's own.  See `bench/target.py`.  `--seeds 0` leaves this part out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.table import Table

from bench import target
from bench.measure.baselines import ReferenceDataset, ReferenceStep, data_loader, unpack
from bench.measure.timing import Rate, alternate, at_least, finish, ratio, report
from bench.render.release import given_or_rendered
from dali_pipes import Batch, CacheOptions, Loader, SampleTable
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from model import BackboneError, HeightRegressor
from train.engine.step import Forward, Step
from train.machine.choices import choose_compilation, choose_device, choose_precision, choose_threads
from train.recipe.config import Config
from train.recipe.presets import PRESETS

REFERENCE, STREAMED, CACHED = "the reference's way", "ours, streamed", "ours, cached"
THEIR_STEP, OUR_STEP = "the reference's step alone", "our step alone"
STEP_OF = {REFERENCE: THEIR_STEP, STREAMED: OUR_STEP, CACHED: OUR_STEP}
IN_MEMORY = 4  # batches that the steps alone take in turn


@dataclass(frozen=True)
class Arguments:
    """Measure whole epochs, and the time to a target."""

    release: Path | None = None
    """Folder of a release; if not given, one of 600 + 100 tiles is rendered."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    backbone: str = "convnext_atto"
    """Any ConvNeXt of timm, for the first part."""
    size: int = 224
    """Side of the letterboxed frame in the first part, in pixels."""
    batch_size: int = 16
    """Samples a step in the first part."""
    samples: int = 512
    """Samples of an epoch in the first part, at most those of the release."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether our step is compiled, as --compile of `python -m train`."""
    repeats: int = 5
    """Counted turns of each peer in the first part."""
    seeds: int = 1
    """Runs of each preset in the second part."""
    backbones: tuple[str, str] = ("convnext_pico", "convnext_atto")
    """The reference's and fast's in the second part.  An image costs the first 2.5 times as much, and convnext_base 3.4
    times as much as convnext_tiny (multiplications, timm's tables)."""
    split: Literal["official", "scene"] = "scene"
    """Validation samples of the second part: the release's own, or a fold of whole scenes."""
    target_size: int = 80
    """Side of the frame in the second part, in pixels."""
    epochs: int = 6
    """The reference's epochs in the second part."""

    def __post_init__(self) -> None:
        at_least(1, batch_size=self.batch_size, repeats=self.repeats, epochs=self.epochs)
        at_least(0, seeds=self.seeds)
        at_least(32, size=self.size, target_size=self.target_size)
        at_least(self.batch_size, "a batch", samples=self.samples)


# --- Epochs.


@dataclass
class Epochs:
    """One epoch a turn; `waits` gets the share of each in which the step stood still for data."""

    batches: Callable[[], Iterator[Any]]
    step: Callable[[Any], int]
    """Trains on one batch; how many samples it had."""
    device: torch.device
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> int:
        """Train an epoch to its end, the device's included."""
        began = asked = time.perf_counter()
        batches, samples, waited = self.batches(), 0, 0.0
        for batch in batches:
            waited += time.perf_counter() - asked
            samples += self.step(batch)
            asked = time.perf_counter()
        waited += time.perf_counter() - asked  # the reference's workers end
        finish(self.device)
        self.waits.append(waited / (time.perf_counter() - began))
        return samples


def epochs(arguments: Arguments, release: Path, scratch: Path) -> dict[str, Any]:
    """Rates of all peers, their waits, and how much longer than its step alone each epoch takes."""
    device = choose_device(arguments.device)
    whole = SampleTable.from_release(release)
    table = whole.select(np.arange(min(len(whole), arguments.samples) // arguments.batch_size * arguments.batch_size))
    if not len(table):
        raise InputError(f"expected at least {arguments.batch_size} samples in {release}, found {len(whole)}")
    peers = {**_reference(arguments, table, device, scratch), **_ours(arguments, table, device)}
    rates = alternate(peers, arguments.repeats, warm_up=2)  # the first epoch fills the cache, and compiles
    waits = {name: Rate.of(peers[name].waits[2:]) for name in STEP_OF}
    above = {name: ratio(rates[step], rates[name]) for name, step in STEP_OF.items()}
    above = {name: Rate.of([value - 1 for value in rate.each]) for name, rate in above.items()}
    return {"rates": rates, "data_wait": waits, "above_step": above, "samples_an_epoch": len(table)}


def _reference(arguments: Arguments, table: SampleTable, device: torch.device, scratch: Path) -> dict[str, Epochs]:
    unpack(table, scratch)
    stats = table.statistics()
    normalised = replace(
        table,
        length=(table.length - stats.length_mean) / stats.length_std,
        height=(table.height - stats.height_mean) / stats.height_std,
    )
    loader = data_loader(ReferenceDataset(normalised, scratch, arguments.size), arguments.batch_size, tuned=False)
    train = ReferenceStep(_network(arguments, device), device)

    def step(batch: Any) -> int:
        train(*batch)
        return len(batch[0])

    held = list(islice(loader, IN_MEMORY))
    return {
        REFERENCE: Epochs(lambda: iter(loader), step, device),
        THEIR_STEP: Epochs(lambda: islice(cycle(held), len(loader)), step, device),
    }


def _ours(arguments: Arguments, table: SampleTable, device: torch.device) -> dict[str, Epochs]:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    forward = Forward(
        _network(arguments, device).to(memory_format=torch.channels_last),
        device,
        arguments.batch_size,
        choose_precision("auto", device).value,
        compilation=choose_compilation(arguments.compile, device).value,
    )
    train = Step(forward, torch.optim.AdamW(forward.model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True), 5.0)
    variance_weight = torch.ones((), device=device)

    def step(batch: Batch) -> int:
        train(batch, variance_weight)
        return len(batch)

    def loader(cache: str) -> Loader:
        return Loader(
            table,
            arguments.batch_size,
            device=device,
            shuffle=True,
            size=arguments.size,
            statistics=table.statistics(),
            cache=CacheOptions(cache),
            threads=choose_threads(0, len(os.sched_getaffinity(0)), device),
        )

    streamed, cached = loader("none"), loader("device" if device.type == "cuda" else "host")
    # Copies, since DALI takes its buffers back.
    held = [Batch(**{name: x.clone() for name, x in vars(batch).items()}) for batch in islice(streamed, IN_MEMORY)]
    return {
        STREAMED: Epochs(lambda: iter(streamed), step, device),
        CACHED: Epochs(lambda: iter(cached), step, device),
        OUR_STEP: Epochs(lambda: islice(cycle(held), len(streamed)), step, device),
    }


def _network(arguments: Arguments, device: torch.device) -> HeightRegressor:
    torch.manual_seed(0)
    network = HeightRegressor(arguments.backbone, weights=None).to(device)
    return network.train()


def epoch_table(found: dict[str, Any]) -> Table:
    """Rates, and what data cost."""
    table = Table(title="Epochs of training: median (lowest–highest)", box=None, title_justify="left")
    table.add_column("")
    for name in ("samples/s", "of the reference's way", "waits", "above its step"):
        table.add_column(name, justify="right")
    for name, rate in found["rates"].items():
        data = [f"{found[what][name]:.1%}" if name in STEP_OF else "–" for what in ("data_wait", "above_step")]
        table.add_row(name, f"{rate:,.1f}", f"{ratio(rate, found['rates'][REFERENCE]):.2f}", *data)
    table.caption = f"{found['samples_an_epoch']} samples an epoch"
    return table


def presets(arguments: Arguments) -> dict[str, list[Config]]:
    """The runs of the second part by their preset, one a seed: each preset, scaled down as the flags say."""
    return {
        name: [_scaled_down(PRESETS[name](), backbone, arguments, seed) for seed in range(arguments.seeds)]
        for name, backbone in zip((target.REFERENCE, target.FAST), arguments.backbones, strict=True)
    }


def _scaled_down(preset: Config, backbone: str, arguments: Arguments, seed: int) -> Config:
    share = arguments.epochs / PRESETS[target.REFERENCE]().epochs
    warmup = max(1, round(share * preset.optimizer.variance_warmup))
    data = replace(preset.data, size=arguments.target_size, split=arguments.split, select_on="validation")
    return replace(
        preset,
        epochs=max(1, round(share * preset.epochs)),
        device=arguments.device,
        seed=seed,
        backbone=backbone,
        weights="none",
        data=replace(data, holdout=0.0),  # both train on the same samples
        optimizer=replace(preset.optimizer, variance_warmup=warmup),
        runtime=replace(preset.runtime, compile=arguments.compile),
    )


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError), tempfile.TemporaryDirectory() as folder:
        arguments = parse(Arguments, argv, module="bench.epoch", description=__doc__)
        scratch = Path(folder)
        (scratch / "loose").mkdir()
        with given_or_rendered(arguments.release, val=100) as release:
            results = epochs(arguments, release, scratch / "loose")
            tables = [epoch_table(results)]
            if arguments.seeds:
                results["to_target"] = target.to_target(presets(arguments), release, scratch)
                tables.append(target.target_table(results["to_target"]))
        report(tables, {"bench": "epoch", **asdict(arguments), **results}, choose_device(arguments.device))


if __name__ == "__main__":
    main(sys.argv[1:])
