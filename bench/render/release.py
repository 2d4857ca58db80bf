"""A rendered release in the shape of AI Hub 71805, with true layover geometry.

    python -m bench.render OUT --train 2000 --val 300 --scenes 80 --seed 0 [--disjoint] [--workers 2]

The real release lies behind a log-in.  This command writes one of the same form: the four archives `TS_KS.zip`,
`VS_KS.zip`, `TL_KS_LINE.zip` and `VL_KS_LINE.zip`, flat inside, images stored and labels deflated, VIA labels
with Korean values and wandering key order, 512×512 JPEGs of 59 to 70 kB.  Heights follow from the labelled
polyline, the GSD and the tilt by the closed form of the real labels, and the picture shows the tilt, so what a
network learns here is what it has to learn there: the scene's metres a pixel.

By default validation tiles come from scenes that training has seen, as in the official split; with `--disjoint`
a quarter of the scenes is kept for validation alone.  The same seed gives the same bytes whatever the number of
workers: every tile has a random stream of its own, and the archives carry no dates.

The world is in `bench.scene` (geometry) and `bench.landscape` (the picture); `bench.tile` makes a JPEG and a label
of it; here tiles become a release.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import cv2
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from bench.render.scene import draw_scenes
from bench.render.tile import Tile, random_stream, render_tile, start_worker
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence

# Where each split goes: its images and its labels.
ARCHIVES = {"train": ("TS_KS.zip", "TL_KS_LINE.zip"), "val": ("VS_KS.zip", "VL_KS_LINE.zip")}
TILES_WORTH_A_PROCESS = 50  # a spawned process takes about a second to import NumPy and OpenCV

# First word, after the seed, of each independent random stream.
SCENES, SPREAD, TILES = range(3)


@dataclass(frozen=True)
class Render:
    """Write a rendered release of AI Hub 71805, four ZIP archives, into a folder."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write into; made if it is missing, its four archives replaced if they are there."""
    train: int = 2000
    """Training tiles, with 1.3 polylines each on average."""
    val: int = 300
    """Validation tiles, likewise."""
    scenes: int = 80
    """Satellite acquisitions that the tiles are cut from."""
    seed: int = 0
    """The same seed and counts give the same bytes."""
    disjoint: bool = False
    """Keep a quarter of the scenes for validation alone, where the official split shares them."""
    workers: int | None = None
    """Processes that render; if not given, as many as there are processors and work for."""


def main(argv: list[str]) -> None:
    """The command: `Render`'s fields are the flags; exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        write(parse(Render, argv, module="bench.render", description=__doc__))


def render_release(
    out: Path,
    *,
    train: int,
    val: int,
    scenes: int,
    seed: int = 0,
    disjoint: bool = False,
    workers: int | None = None,
) -> None:
    """Write a rendered release into the folder `out`; the arguments are the fields of `Render`."""
    write(Render(Path(out), train, val, scenes, seed, disjoint, workers))


@contextmanager
def given_or_rendered(release: Path | None, train: int = 600, val: int = 1) -> Iterator[Path]:
    """The `release` that was given, or else a rendered one that is gone at the end: what a benchmark works on."""
    if release is not None:
        yield release
        return
    with tempfile.TemporaryDirectory() as folder:
        render_release(Path(folder), train=train, val=val, scenes=20)
        yield Path(folder)


def write(render: Render) -> None:
    """Render all tiles and write the four archives, complete or not at all.

    They grow in a hidden folder inside `out` and are moved out of it at the end.
    """
    check(render)
    splits = plan(render)
    tiles = [tile for split in ARCHIVES for tile in splits[split]]
    try:
        render.out.mkdir(parents=True, exist_ok=True)
        with (
            unfinished_folder(render.out) as unfinished,
            closing(_rendered(tiles, render.workers)) as files,
        ):
            for split, (images, labels) in ARCHIVES.items():
                with ZipFile(unfinished / images, "w") as jpegs, ZipFile(unfinished / labels, "w") as jsons:
                    for tile, (jpeg, label) in zip(splits[split], files, strict=False):
                        jpegs.writestr(_member(f"{tile.img_id}.jpg", ZIP_STORED), jpeg)
                        jsons.writestr(_member(f"{tile.img_id}.json", ZIP_DEFLATED), label)
            for archive in sorted(unfinished.iterdir()):
                os.replace(archive, render.out / archive.name)
    except OSError as error:
        raise InputError(f"cannot write the release into {render.out}: {error.strerror or error}") from error


@contextmanager
def unfinished_folder(out: Path) -> Iterator[Path]:
    """A hidden folder in `out`, empty at first and gone at the end; one that a kill has left is emptied."""
    folder = out / ".rendering"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(render: Render) -> None:
    """Raise `InputError` for counts that cannot be met and for a folder that is none."""
    if render.out.exists() and not render.out.is_dir():
        raise InputError(f"OUT has to be a folder, but {render.out} is a file; name another")
    for field in ("train", "val", "scenes"):
        if (count := getattr(render, field)) < 1:
            raise InputError(f"--{field} has to be at least 1, but is {count}")
    if render.seed < 0:
        raise InputError(f"--seed has to be 0 or more, but is {render.seed}")
    if render.workers is not None and render.workers < 1:
        raise InputError(f"--workers has to be at least 1, but is {render.workers}")
    if render.scenes > render.train:
        raise InputError(
            f"--scenes {render.scenes} needs a training tile for each scene, but --train is {render.train}"
        )
    if render.disjoint and render.scenes < 2:
        raise InputError("--disjoint needs at least 2 scenes, one to train on and one to validate on")


def plan(render: Render) -> dict[str, list[Tile]]:
    """Spread the tiles over the scenes, unevenly; every training scene gets one, every unseen scene too.

    A pure function of the counts and the seed: the split's name → its tiles in order.
    """
    scenes = draw_scenes(render.scenes, random_stream(render.seed, SCENES))
    rng = random_stream(render.seed, SPREAD)
    unseen = max(1, min(render.val, render.scenes // 4)) if render.disjoint else 0
    share = rng.gamma(2.0, size=render.scenes)
    of_train, of_val = share.copy(), share.copy()
    if unseen:
        of_train[:unseen] = of_val[unseen:] = 0
    one_each = (of_train > 0).astype(int)
    train = one_each + rng.multinomial(render.train - one_each.sum(), of_train / of_train.sum())
    one_each = (of_val > 0).astype(int) * bool(unseen)
    val = one_each + rng.multinomial(render.val - one_each.sum(), of_val / of_val.sum())

    splits: dict[str, list[Tile]] = {split: [] for split in ARCHIVES}
    for index, scene in enumerate(scenes):
        numbers = 1 + rng.permutation(train[index] + val[index])
        for split, chosen in zip(ARCHIVES, np.split(numbers, [train[index]]), strict=True):
            for number in sorted(chosen.tolist()):
                splits[split].append(Tile(scene, number, (render.seed, TILES, index, number)))
    return splits


def _rendered(tiles: list[Tile], workers: int | None) -> Generator[tuple[bytes, bytes], None, None]:
    """JPEG and label of each tile, in order, with a progress bar on a terminal."""
    console = Console(stderr=True)
    quiet = not console.is_terminal
    if workers is None:
        workers = min(os.cpu_count() or 1, math.ceil(len(tiles) / TILES_WORTH_A_PROCESS))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a tile is too small to share
    try:
        if workers == 1:
            yield from track(map(render_tile, tiles), "rendering", len(tiles), console=console, disable=quiet)
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, start_worker) as pool:
            try:
                files = pool.map(render_tile, tiles, chunksize=8)
                yield from track(files, "rendering", len(tiles), console=console, disable=quiet)
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        cv2.setNumThreads(threads)


def _member(name: str, compression: int) -> ZipInfo:
    """A ZIP member that says nothing of when and where it was written."""
    info = ZipInfo(name)  # dated 1980-01-01
    info.compress_type = compression
    info.create_system = 3  # Unix, on every system
    info.external_attr = 0o644 << 16
    return info


if __name__ == "__main__":
    main(sys.argv[1:])
