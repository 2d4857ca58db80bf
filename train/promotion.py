"""Shall the newly trained network take the old one's place?

python -m train.promotion --old runs/one --new runs/two --release DIR

`python -m train --release DIR --init-from runs/one --out runs/two` asks the same at its end.  Both networks and the
closed form are measured on the same validation samples, of the new release and, where it can still be read, of the
old run's release.  Scenes are drawn again with replacement, the same for both networks (a paired bootstrap), since
within a scene errors go together.  The rule:

    promote   on the new release, the 95 % interval of RMSE(new) − RMSE(old) lies below 0, and on the old release it
              does not lie above 0
    keep      otherwise: also where too few scenes allow no interval, since the old network is the one that is known

Judged are the scenes that neither network was trained on, where there are at least ten of them; else all, and then
the verdict says so, for a network may have recognised a scene.  It also says where the new network's epoch was chosen
on the very samples that are judged, and why there is no old release to compare on.  Exit status: 0 promote, 3 keep, 2
bad input.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from dali_pipes import command
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.paths import ReleasePaths
from model import BackboneError, CheckpointError

from .deploy.verdict import KEEP, judge


@dataclass(frozen=True)
class Arguments:
    """Say whether a new network shall take an old one's place: exit status 0 for promote, 3 for keep."""

    old: Path
    """The run folder of the network in use, or its checkpoint."""

    new: Path
    """The run folder of the newly trained network, or its checkpoint."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""

    batch_size: int = 64
    """Samples a step."""


def main(argv: list[str]) -> None:
    """The command: exits with 0 for promote, 3 for keep, and 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        given = command.parse(Arguments, argv, module="train.promotion", description=__doc__)
        decided, _ = judge(
            given.old,
            given.new,
            given.paths,
            device=given.device,
            batch_size=given.batch_size,
            console=Console(),
        )
        if decided == "keep":
            raise SystemExit(KEEP)


if __name__ == "__main__":
    main(sys.argv[1:])
