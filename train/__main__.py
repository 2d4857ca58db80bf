"""Train a chimney-height model on a release of AI Hub 71805, and report it.

python -m train --release DIR --preset reference --out runs/one
torchrun --nproc-per-node 8 -m train --release DIR --preset reference --out runs/one
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from torch.distributed import is_torchelastic_launched

from dali_pipes import command
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.paths import ReleasePaths
from model import BackboneError, CheckpointError

from .deploy.verdict import EXIT_KEEP, judge_runs
from .engine.run import run
from .recipe.config import Config
from .recipe.presets import PRESETS, Preset
from .run.ranks import LostRank, Place, one_voice
from .run.signals import Signals, Stopped, ignore_echoes


@dataclass(frozen=True)
class Arguments:
    """What to train on, where to, and how."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    out: Path
    """The run folder: checkpoints, metrics.jsonl, report.html, predictions.csv."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    """Defaults are the preset's."""

    preset: Preset = "reference"
    """Where the other flags' defaults come from."""

    resume: bool = False
    """Go on where the run in --out stopped, also within an epoch; starts it if there is none."""


def parse(argv: list[str]) -> Arguments:
    """Read the command line; the preset comes first, since it gives the other flags their defaults."""
    named = [b for a, b in pairwise(argv) if a == "--preset"]
    named += [argument.partition("=")[2] for argument in argv if argument.startswith("--preset=")]
    preset = PRESETS.get(named[-1] if named else "reference", PRESETS["reference"])
    default = Arguments(paths=ReleasePaths(tyro.MISSING), out=tyro.MISSING, config=preset())
    return command.parse(Arguments, argv, module="train", description=__doc__, default=default)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input, after a signal as signals.py says."""
    place = Place.from_environment()
    with exits_with_one_sentence(BackboneError, CheckpointError, LostRank), one_voice(place):
        arguments = parse(argv)
        try:
            run(arguments.config, arguments.paths, arguments.out, resume=arguments.resume)
            if arguments.config.init_from and place.leads:
                with Signals():
                    _promote_or_keep(arguments)
        except Stopped as stopped:
            ignore_echoes()
            if place.leads:
                print(stopped, file=sys.stderr)
            raise SystemExit(stopped.status) from None


def _promote_or_keep(arguments: Arguments) -> None:
    """Exit with status 3 where the network that training began from had better be kept; see promotion.py."""
    config = arguments.config
    decided, _ = judge_runs(
        Path(str(config.init_from)),
        arguments.out,
        arguments.paths,
        device=config.device,
        console=Console(),
    )
    if decided == "keep" and not is_torchelastic_launched():  # torchrun takes any status for a failure, and starts anew
        raise SystemExit(EXIT_KEEP)


if __name__ == "__main__":
    main(sys.argv[1:])
