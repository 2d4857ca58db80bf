"""Decide whether the newly trained network should replace the old one.

    python -m train.promotion --old runs/one --new runs/two --release DIR

`python -m train --release DIR --init-from runs/one --out runs/two` runs the same check at its end. Both networks and
the closed form are measured on the same validation samples, of the new release and, if it can still be read, of the
old run's release. A paired bootstrap resamples scenes, the same ones for both networks, because the errors within a
scene are correlated. The rule:

    promote   on the new release, the 95 % interval of RMSE(new) − RMSE(old) is below 0, and on the old release it is
              not above 0
    keep      otherwise, also if there are too few scenes for an interval, because the old network is already tested

If at least ten scenes were seen by neither network in training, only those are used. Otherwise all are used, and the
verdict says so, because a network may have recognised a scene. The verdict also says if the new network's epoch was
selected on the same samples, and why there is no old release to compare on. Exit status: 0 promote, 3 keep, 2 bad
input.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dali_pipes import command
from dali_pipes.console import ProgressStyle, activity, open_console
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.paths import ALIASES, ReleasePaths
from model import BackboneError, CheckpointError


@dataclass(frozen=True)
class Arguments:
    """Decide whether a new network should replace an old one: exit status 0 for promote, 3 for keep."""

    old: Path
    """The run folder of the network in use, or its checkpoint."""

    new: Path
    """The run folder of the newly trained network, or its checkpoint."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto for a GPU if there is one."""

    batch_size: int = 64
    """Samples per step."""

    statistics: Path | None = None
    """Needed only if --old is a bare state dict: a JSON file of length mean, length std, height mean and height std, or
    the release that it was trained on."""

    progress: ProgressStyle = "auto"
    """How to show progress. bar: a bar that moves. plain: at most one line in ten seconds.
    auto: bar on a terminal; plain elsewhere, and in notebooks and CI."""


def main(argv: list[str]) -> None:
    """The command: exits with 0 for promote, 3 for keep, and with 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        arguments = command.parse(Arguments, argv, module="train.promotion", description=__doc__, aliases=ALIASES)
        console = open_console(arguments.progress)
        with activity(console, "loading PyTorch and DALI"):
            from .deploy.verdict import EXIT_KEEP, judge_runs

            verdict, _ = judge_runs(
                arguments.old,
                arguments.new,
                arguments.paths,
                device=arguments.device,
                batch_size=arguments.batch_size,
                statistics=arguments.statistics,
                console=console,
            )
        if verdict == "keep":
            raise SystemExit(EXIT_KEEP)


if __name__ == "__main__":
    main(sys.argv[1:])
