"""Whole epochs: throughput of the reference and ours, the cost of loading data, and the time to a target RMSE.

    python -m bench.epoch --release runs/release --repeats 5 --seeds 3

It prints two tables; bench/measure/report.py describes the JSON object with all results.

1. Epochs of training, without validation; all take turns. The reference reads loose files with a DataLoader of two
   workers, steps in eager fp32 NCHW, and calls `loss.item()` after each step. Ours uses the loader, streamed and
   cached, and the step that `python -m train` would choose here. Two rows are first epochs, with a new loader each
   time: one only streams, the other fills the cache as well. Two columns show the cost of data. *Waits* is the share
   of an epoch in which the host waited for the next batch. It does not show how much loading slows the step down: on
   a CPU both use the same cores, and on a GPU the host may run ahead. *Above its step* is therefore the time of an
   epoch, divided by the time of the same steps on batches in memory, minus one: the whole cost of data.
2. Time until preset `fast` is as good as the best epoch of preset `reference`. Both run as in `python -m train`, with
   our loader and step, scaled down equally so that a CPU can do it: the backbones of `--backbones`, random weights,
   smaller frames, and fewer epochs. The target of a seed is the lowest validation RMSE of the reference at that seed.
   It is known only afterwards, so it is the hardest target that the reference reaches. The seconds are those of the
   epochs, validation included. `--seeds 0` skips this part.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console
from rich.table import Table

from bench.measure.data import unpack, whole_batches
from bench.measure.report import Output, grid, report
from bench.measure.timing import Rate, alternate, finish, ratio
from bench.step import network
from dali_pipes import SampleTable
from dali_pipes.command import at_least, default_is, parse
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.paths import ALIASES
from model import BackboneError
from train.recipe.config import Config
from train.recipe.presets import PRESETS
from train.run.console import RunConsole

if TYPE_CHECKING:
    import torch

    from dali_pipes import Batch, Loader

REFERENCE, STREAMED, CACHED = "the reference's way", "ours, streamed", "ours, cached"
FIRST, FILLING = "ours, streamed by a new loader", "ours, by a new loader that fills its cache"
THEIR_STEP, OUR_STEP = "the reference's step alone", "our step alone"
STEP_OF = {REFERENCE: THEIR_STEP, **dict.fromkeys((STREAMED, CACHED, FIRST, FILLING), OUR_STEP)}
IN_MEMORY = 4  # batches that a step alone repeats
RACERS = ("reference", "fast")  # presets
Record = Mapping[str, Any]
"""An epoch of a run, with "rmse" in metres and "seconds"."""


@dataclass(frozen=True)
class Arguments(Output):
    """Measure whole epochs, and the time to a target RMSE."""

    release: Annotated[Path | None, default_is("one of 600 + 100 tiles is rendered")] = None
    """Folder of a release."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    backbone: str = "convnext_atto"
    """Part 1: any ConvNeXt of timm."""
    size: int = 224
    """Part 1: side of the letterboxed frame in pixels."""
    batch_size: int = 16
    """Part 1: samples per step."""
    samples: int = 512
    """Part 1: samples per epoch, at most those of the release."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether our step is compiled, as --compile of `python -m train`."""
    repeats: int = 5
    """Part 1: counted epochs of each."""
    seeds: int = 1
    """Part 2: runs of each preset; on a CPU each seed takes a quarter of an hour."""
    backbones: tuple[str, str] = ("convnext_zepto_rms", "test_convnext")
    """Part 2: backbones of reference and fast. On a CPU the first takes 2.8 times as long per image; convnext_base has
    3.4 times the multiplications of convnext_tiny (timm's tables)."""
    split: Literal["official", "scene"] = "scene"
    """Part 2: validate on the release's own split, or on a fold of whole scenes."""
    target_size: int = 128
    """Part 2: side of the frame in pixels."""
    epochs: int = 20
    """Part 2: epochs of reference, which has 40 as a preset; fast gets the same share of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch_size=self.batch_size, repeats=self.repeats, epochs=self.epochs)
        at_least(0, seeds=self.seeds)
        at_least(32, size=self.size, target_size=self.target_size)
        at_least(self.batch_size, "a batch", samples=self.samples)


# --- Part 1: epochs.


@dataclass
class Epochs:
    """Each call trains one epoch and appends to `waits` the share of its time in which it waited for data."""

    batches: Callable[[], Iterator[Any]]
    step: Callable[[Any], int]
    """Trains on one batch and returns its number of samples."""
    device: torch.device
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> int:
        """Train an epoch until the device has finished, and return its number of samples."""
        began = asked = time.perf_counter()
        batches, samples, waited = self.batches(), 0, 0.0
        for batch in batches:
            waited += time.perf_counter() - asked
            samples += self.step(batch)
            asked = time.perf_counter()
        waited += time.perf_counter() - asked  # the end of the reference's workers
        finish(self.device)
        self.waits.append(waited / (time.perf_counter() - began))
        return samples


def epochs(arguments: Arguments, release: Path, scratch: Path) -> dict[str, Any]:
    """Rates, waits, and the time of each epoch above that of its step alone."""
    from train.machine.choices import choose_device

    device = choose_device(arguments.device)
    table = whole_batches(release, arguments.samples, arguments.batch_size)
    works = {**_reference(arguments, table, device, scratch), **_ours(arguments, table, device)}
    rates = alternate(works, arguments.repeats, warm_up=2)  # the first epoch fills the cache and compiles
    waits = {name: Rate.of(works[name].waits[2:]) for name in STEP_OF}
    above = {
        name: Rate.of([value - 1 for value in ratio(rates[step], rates[name]).each]) for name, step in STEP_OF.items()
    }
    return {"rates": rates, "data_wait": waits, "above_step": above, "samples_an_epoch": len(table)}


def _reference(arguments: Arguments, table: SampleTable, device: torch.device, scratch: Path) -> dict[str, Epochs]:
    from bench.measure.baselines import ReferenceDataset, ReferenceStep, data_loader

    unpack(table, scratch)
    stats = table.statistics()
    normalised = replace(
        table,
        length=(table.length - stats.length_mean) / stats.length_std,
        height=(table.height - stats.height_mean) / stats.height_std,
    )
    loader = data_loader(ReferenceDataset(normalised, scratch, arguments.size), arguments.batch_size, tuned=False)
    train = ReferenceStep(network(arguments.backbone, device), device)

    def step(batch: Any) -> int:
        train(*batch)
        return len(batch[0])

    in_memory = list(islice(loader, IN_MEMORY))
    return {
        REFERENCE: Epochs(lambda: iter(loader), step, device),
        THEIR_STEP: Epochs(lambda: islice(cycle(in_memory), len(loader)), step, device),
    }


def _ours(arguments: Arguments, table: SampleTable, device: torch.device) -> dict[str, Epochs]:
    import torch

    from dali_pipes import Batch, CacheOptions, Loader
    from train.engine.adamw import AdamW
    from train.engine.step import Forward, Step
    from train.machine.choices import choose_compilation, choose_precision, choose_threads

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    forward = Forward(
        network(arguments.backbone, device).to(memory_format=torch.channels_last),
        device,
        arguments.batch_size,
        choose_precision("auto", device).value,
        compilation=choose_compilation(arguments.compile, device).value,
    )
    train = Step(forward, AdamW(forward.model.parameters(), lr=1e-4, weight_decay=1e-4), 5.0)
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

    def first_epoch(cache: str) -> Iterator[Batch]:
        new = loader(cache)
        yield from new
        new.close()

    cache = "device" if device.type == "cuda" else "host"
    streamed, cached = loader("none"), loader(cache)
    # Copies, because DALI reuses its buffers.
    in_memory = [Batch(**{name: x.clone() for name, x in vars(b).items()}) for b in islice(streamed, IN_MEMORY)]
    return {
        STREAMED: Epochs(lambda: iter(streamed), step, device),
        CACHED: Epochs(lambda: iter(cached), step, device),
        FIRST: Epochs(lambda: first_epoch("none"), step, device),
        FILLING: Epochs(lambda: first_epoch(cache), step, device),
        OUR_STEP: Epochs(lambda: islice(cycle(in_memory), len(streamed)), step, device),
    }


def epoch_table(results: Mapping[str, Any]) -> Table:
    """Rates, and the cost of data."""
    columns = ("samples/s", "/ the reference's way", "waits", "above its step")
    table = grid("Epochs of training: median (lowest–highest)", *columns)
    for name, rate in results["rates"].items():
        data = [f"{results[key][name]:.1%}" if name in STEP_OF else "–" for key in ("data_wait", "above_step")]
        table.add_row(name, f"{rate:,.1f}", f"{ratio(rate, results['rates'][REFERENCE]):.2f}", *data)
    filling = ratio(results["rates"][FIRST], results["rates"][FILLING])
    table.caption = (
        f"{results['samples_an_epoch']} samples per epoch. A first epoch that fills the cache takes {filling:.2f} times"
        " as long as one that only streams."
    )
    return table


# --- Part 2: time to a target.


def to_target(arguments: Arguments, release: Path, scratch: Path) -> list[dict[str, Any]]:
    """Run both presets in turn for each seed → the result of `race` for each seed."""

    from train.engine.run import train

    def records(config: Config, folder: Path) -> Sequence[Record]:
        return train(config, release, folder, resume=False, console=RunConsole(Console(quiet=True))).training.history

    return [
        race(*(records(scaled_down(name, arguments, seed), scratch / f"{name}-{seed}") for name in RACERS))
        for seed in range(arguments.seeds)
    ]


def scaled_down(name: str, arguments: Arguments, seed: int) -> Config:
    """The configuration of a preset in the race, scaled down according to the flags."""
    preset = PRESETS[name]()
    share = arguments.epochs / PRESETS["reference"]().epochs
    warmup = max(1, round(share * preset.optimizer.variance_warmup))
    data = replace(preset.data, size=arguments.target_size, split=arguments.split, select_on="validation")
    return replace(
        preset,
        epochs=max(1, round(share * preset.epochs)),
        device=arguments.device,
        seed=seed,
        backbone=arguments.backbones[RACERS.index(name)],
        weights="none",
        data=replace(data, holdout=0.0),  # both train on the same samples
        optimizer=replace(preset.optimizer, variance_warmup=warmup),
        runtime=replace(preset.runtime, compile=arguments.compile),
    )


def race(reference: Sequence[Record], fast: Sequence[Record]) -> dict[str, Any]:
    """The result of one seed: the target in metres, and for each preset its RMSE by epoch and its seconds.

    `to_target` are the seconds until the target, or None if a preset never reached it. A reference that diverged in
    every epoch sets no target: None.
    """
    target = min((record["rmse"] for record in reference if math.isfinite(record["rmse"])), default=None)

    def of(records: Sequence[Record]) -> dict[str, Any]:
        passed = accumulate(record["seconds"] for record in records)
        reached = [s for s, record in zip(passed, records, strict=True) if target and record["rmse"] <= target]
        return {
            "rmse_by_epoch": [record["rmse"] for record in records],
            "seconds": sum(record["seconds"] for record in records),
            "to_target": reached[0] if reached else None,
        }

    return {"target_rmse": target, "reference": of(reference), "fast": of(fast)}


def target_table(races: Sequence[Mapping[str, Any]]) -> Table:
    """A row per seed, and the speed-up over all seeds."""
    columns = ("target RMSE, m", "reference", "fast", "times faster", "lowest RMSE of fast, m")
    table = grid("Seconds to the lowest validation RMSE of preset reference", *columns, first="seed")
    times: list[float] = []
    for seed, result in enumerate(races):
        reference, fast = result["reference"]["to_target"], result["fast"]["to_target"]
        if reference is None:
            table.add_row(str(seed), "diverged", *["–"] * 4)
            continue
        if fast is None:
            cells = (f"over {result['fast']['seconds']:,.1f}", "–")
        else:
            times.append(reference / fast)
            cells = (f"{fast:,.1f}", f"{times[-1]:.1f}")
        lowest = min(result["fast"]["rmse_by_epoch"])
        table.add_row(str(seed), f"{result['target_rmse']:.2f}", f"{reference:,.1f}", *cells, f"{lowest:.2f}")
    # No median unless all seeds reached the target: that of the others alone would be too good.
    speed_up = f", {Rate.of(times):.1f} times faster" if len(times) == len(races) else ""
    table.caption = f"{len(times)} of {len(races)} seeds reached it{speed_up}"
    return table


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(BackboneError), tempfile.TemporaryDirectory() as folder:
        arguments = parse(Arguments, argv, module="bench.epoch", description=__doc__, aliases=ALIASES)
        from bench.render.release import given_or_rendered
        from train.machine.choices import choose_device

        scratch = Path(folder)
        (scratch / "loose").mkdir()
        with given_or_rendered(arguments.release, val=100) as release:
            results = epochs(arguments, release, scratch / "loose")
            tables = [epoch_table(results)]
            if arguments.seeds:
                results["to_target"] = to_target(arguments, release, scratch)
                tables.append(target_table(results["to_target"]))
        report(
            tables, {"bench": "epoch", **asdict(arguments), **results}, choose_device(arguments.device), arguments.json
        )


if __name__ == "__main__":
    main(sys.argv[1:])
