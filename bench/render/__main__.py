"""Render a synthetic release in the format of AI Hub 71805.

    python -m bench.render OUT --train 2000 --val 300 --scenes 80 --seed 0 [--disjoint] [--style coast] [--workers 2]

The real release requires a login. This command writes one of the same format: `TS_KS.zip`, `VS_KS.zip` (images),
`TL_KS_LINE.zip` and `VL_KS_LINE.zip` (labels). The images are 512 × 512 JPEGs of 59 to 70 kB. The labels are VIA JSON
with Korean values, and the order of their keys varies from file to file.

Heights follow from polyline, GSD and tilt by the formula of the real labels, and the image shows the tilt. A network
therefore has to learn the same quantity as on real tiles: the metres per pixel of the scene.

By default the validation tiles come from scenes that are also in the training split, as in the official split. With
`--disjoint` a quarter of the scenes is kept for validation. The same seed gives the same bytes with any number of
workers.

`--style coast` renders the same chimneys in scenes that look different: ground, materials, shadows and haze. A recipe
that wins on both does not rest on the habits of one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.render.style import StyleName
from dali_pipes.command import default_is, parse
from dali_pipes.console import ProgressStyle
from dali_pipes.errors import exits_with_one_sentence


@dataclass(frozen=True)
class Arguments:
    """Write a synthetic release of AI Hub 71805, four ZIP archives, into a folder."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write into; created if missing. Existing archives of the same names are replaced."""
    train: int = 2000
    """Training tiles, with 1.3 polylines each on average."""
    val: int = 300
    """Validation tiles, with 1.3 polylines each on average."""
    scenes: int = 80
    """Scenes (satellite acquisitions) from which the tiles are cut."""
    seed: int = 0
    """The same seed and counts give the same bytes."""
    disjoint: bool = False
    """Keep a quarter of the scenes for validation only; the official split shares its scenes."""
    style: StyleName = "town"
    """What the tiles look like. The same seed gives the same chimneys and heights in both styles."""
    workers: Annotated[int | None, default_is("as many as there are processors and work for")] = None
    """Processes that render."""
    progress: ProgressStyle = "auto"
    """bar: a bar that moves. plain: at most one line in ten seconds. auto: bar on a terminal, plain elsewhere."""


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.render", description=__doc__)
        from bench.render.release import render_release

        render_release(**vars(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
