"""Train a chimney-height model on a release of AI Hub 71805, and write its report.

On one device, and on the eight GPUs of a machine:

    python -m train --release DIR --preset reference --out runs/one
    torchrun --nproc-per-node 8 -m train --release DIR --preset reference --out runs/one
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dali_pipes import command
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.paths import ALIASES as RELEASE_ALIASES
from dali_pipes.release.paths import ReleasePaths
from model import BackboneError, CheckpointError

from .recipe.config import ALIASES, Config
from .recipe.presets import PRESETS, Preset
from .run.place import LostRank, Place, one_error_per_node
from .run.signals import Signals, Stopped, ignore_echoes

if TYPE_CHECKING:
    from .run.console import RunConsole


@dataclass(frozen=True)
class Arguments:
    """Train on a release, and write the run folder."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    out: Path
    """Run folder to write: checkpoints, metrics.jsonl, report.html and predictions.csv."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """The preset gives the defaults."""

    preset: Preset = "reference"
    """The recipe that gives the other flags their defaults."""

    resume: bool = False
    """Continue the run in --out where it stopped, even within an epoch; start it if there is none."""


def parse(argv: list[str]) -> Arguments:
    """Read the command line.  --preset is read first, since it gives the other flags their defaults."""
    named = [b for a, b in pairwise(argv) if a == "--preset"]
    named += [argument.partition("=")[2] for argument in argv if argument.startswith("--preset=")]
    preset = PRESETS.get(named[-1] if named else "reference", PRESETS["reference"])
    default = Arguments(paths=ReleasePaths(tyro.MISSING), out=tyro.MISSING, config=preset())
    return command.parse(
        Arguments, argv, module="train", description=__doc__, default=default, aliases={**ALIASES, **RELEASE_ALIASES}
    )


def run(
    config: Config, release: ReleasePaths | Path, out: Path, *, resume: bool, console: RunConsole | None = None
) -> None:
    """Train on every rank, then write the report on rank 0.  Arguments and errors are those of `train`."""
    with Signals():  # also between the two, and while torch is imported
        from .engine.run import train
        from .evaluate import report

        finished = train(config, release, out, resume=resume, console=console)
        if finished.training.place.is_rank_zero:
            report(finished)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input; run/signals.py lists the statuses of signals."""
    place = Place.from_environment()
    with exits_with_one_sentence(BackboneError, CheckpointError, LostRank), one_error_per_node(place):
        arguments = parse(argv)
        try:
            run(arguments.config, arguments.paths, arguments.out, resume=arguments.resume)
            if arguments.config.init_from and place.is_rank_zero:
                with Signals():
                    _promote_or_keep(arguments)
        except Stopped as stopped:
            ignore_echoes()
            if place.is_rank_zero:
                print(stopped, file=sys.stderr)
            raise SystemExit(stopped.status) from None


def _promote_or_keep(arguments: Arguments) -> None:
    """Exit with status 3 if the network of --init-from should be kept; see promotion.py."""
    from rich.console import Console
    from torch.distributed import is_torchelastic_launched

    from .deploy.verdict import EXIT_KEEP, judge_runs

    config = arguments.config
    decided, _ = judge_runs(
        Path(str(config.init_from)),
        arguments.out,
        arguments.paths,
        device=config.device,
        console=Console(),
    )
    if decided == "keep" and not is_torchelastic_launched():  # torchrun would restart the ranks
        raise SystemExit(EXIT_KEEP)


if __name__ == "__main__":
    main(sys.argv[1:])
