"""Render all tiles of a synthetic release and write its four archives.

`python -m bench.render` (`__main__.py`) is the command; tests and benchmarks call `render_release`. `scene.py` has the
geometry, `style.py` the looks, `landscape.py` paints the image, and `tile.py` makes the JPEG and the label of one tile.

Archives are flat; images are stored and labels deflated. Every tile has its own random stream, and archive members have
no dates, so the same seed gives the same bytes with any number of workers.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

from bench.render.scene import draw_scenes
from bench.render.style import STYLES, TOWN, Style, StyleName
from bench.render.tile import Tile, random_stream, render_tile, start_worker
from dali_pipes.command import at_least
from dali_pipes.console import ProgressStyle, activity, open_console
from dali_pipes.errors import InputError

# The archives of each split: its images and its labels.
ARCHIVES = {"train": ("TS_KS.zip", "TL_KS_LINE.zip"), "val": ("VS_KS.zip", "VL_KS_LINE.zip")}
TILES_WORTH_A_PROCESS = 50  # a spawned process takes about a second to import NumPy and OpenCV

# First number, after the seed, of each independent random stream.
SCENES, SPREAD, TILES = range(3)


def render_release(
    out: Path,
    *,
    train: int,
    val: int,
    scenes: int,
    seed: int = 0,
    disjoint: bool = False,
    style: StyleName = "town",
    workers: int | None = None,
    progress: ProgressStyle = "auto",
) -> None:
    """Write a synthetic release into the folder `out`; the arguments are the flags of `python -m bench.render`.

    The archives are complete or missing: they are written in a hidden folder inside `out` and moved at the end.

    Raises:
        InputError: if the counts are impossible, `out` is a file, or the archives cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"OUT must be a folder, found a file at {out}; choose another name")
    at_least(1, workers=1 if workers is None else workers)
    splits = plan(train, val, scenes, seed, disjoint, STYLES[style])
    tiles = [tile for split in ARCHIVES for tile in splits[split]]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            _unfinished_folder(out) as unfinished,
            closing(_rendered(tiles, workers)) as rendered,
            activity(open_console(progress, stderr=True), "rendering", len(tiles)) as shown,
        ):
            files = shown.track(rendered)
            for split, (images, labels) in ARCHIVES.items():
                with ZipFile(unfinished / images, "w") as jpegs, ZipFile(unfinished / labels, "w") as jsons:
                    for tile, (jpeg, label) in zip(splits[split], files, strict=False):
                        jpegs.writestr(_member(f"{tile.img_id}.jpg", ZIP_STORED), jpeg)
                        jsons.writestr(_member(f"{tile.img_id}.json", ZIP_DEFLATED), label)
            for archive in sorted(unfinished.iterdir()):
                os.replace(archive, out / archive.name)
    except OSError as error:
        raise InputError(f"cannot write the release into {out}: {error.strerror or error}") from error


@contextmanager
def given_or_rendered(release: Path | None, train: int = 600, val: int = 1) -> Iterator[Path]:
    """Yield `release` if it is given, else a rendered one that is deleted at the end."""
    if release is not None:
        yield release
        return
    with tempfile.TemporaryDirectory() as folder:
        render_release(Path(folder), train=train, val=val, scenes=20)
        yield Path(folder)


@contextmanager
def _unfinished_folder(out: Path) -> Iterator[Path]:
    """An empty hidden folder in `out`, deleted at the end; one that a killed process left is deleted first."""
    folder = out / ".rendering"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plan(train: int, val: int, scenes: int, seed: int, disjoint: bool, style: Style = TOWN) -> dict[str, list[Tile]]:
    """Distribute the tiles unevenly over the scenes: the name of each split → its tiles in order.

    A pure function. Each training scene gets at least one tile, and so does each scene for validation only.

    Raises:
        InputError: if the counts are impossible.
    """
    at_least(1, train=train, val=val, scenes=scenes)
    at_least(0, seed=seed)
    if scenes > train:
        raise InputError(
            f"--scenes {scenes} needs at least one training tile per scene, found --train {train}; raise --train"
        )
    if disjoint and scenes < 2:
        raise InputError(f"--disjoint needs at least 2 scenes, one for each split, found --scenes {scenes}")
    rng = random_stream(seed, SPREAD)
    unseen = max(1, min(val, scenes // 4)) if disjoint else 0
    share = rng.gamma(2.0, size=scenes)
    of_train, of_val = share.copy(), share.copy()
    if unseen:
        of_train[:unseen] = of_val[unseen:] = 0
    one_each = (of_train > 0).astype(int)
    train_tiles = one_each + rng.multinomial(train - one_each.sum(), of_train / of_train.sum())
    one_each = (of_val > 0).astype(int) * bool(unseen)
    val_tiles = one_each + rng.multinomial(val - one_each.sum(), of_val / of_val.sum())

    splits: dict[str, list[Tile]] = {split: [] for split in ARCHIVES}
    for index, scene in enumerate(draw_scenes(scenes, random_stream(seed, SCENES), style)):
        numbers = 1 + rng.permutation(train_tiles[index] + val_tiles[index])
        for split, chosen in zip(ARCHIVES, np.split(numbers, [train_tiles[index]]), strict=True):
            for number in sorted(chosen.tolist()):
                splits[split].append(Tile(scene, number, (seed, TILES, index, number)))
    return splits


def _rendered(tiles: list[Tile], workers: int | None) -> Generator[tuple[bytes, bytes], None, None]:
    """JPEG and label of each tile in order."""
    import cv2

    if workers is None:
        workers = min(os.cpu_count() or 1, math.ceil(len(tiles) / TILES_WORTH_A_PROCESS))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a tile is too small to split between threads
    try:
        if workers == 1:
            yield from map(render_tile, tiles)
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, start_worker) as processes:
            try:
                yield from processes.map(render_tile, tiles, chunksize=8)
            finally:
                processes.shutdown(cancel_futures=True)
    finally:
        cv2.setNumThreads(threads)


def _member(name: str, compression: int) -> ZipInfo:
    """A ZIP member that does not depend on when and where it was written."""
    info = ZipInfo(name)  # dated 1980-01-01
    info.compress_type = compression
    info.create_system = 3  # Unix, on every system
    info.external_attr = 0o644 << 16
    return info
