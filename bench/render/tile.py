"""One tile of a rendered release: its JPEG and its VIA label in the format of AI Hub 71805.

`render_tile` is a pure function of a `Tile`. The module imports little, because each worker process imports it again.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import threading
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from bench.render.landscape import paint
from bench.render.scene import TILE, Chimney, Scene, draw_chimneys, labelled_height

JPEG_BYTES = (59_500, 69_500)


class Tile(NamedTuple):
    """All that a worker process needs to render one tile."""

    scene: Scene
    number: int
    """Unique within the scene."""
    entropy: tuple[int, ...]
    """Seed of the random stream of this tile."""

    @property
    def img_id(self) -> str:
        """The file name without suffix."""
        return f"{self.scene.name}_{self.number}"


def render_tile(tile: Tile) -> tuple[bytes, bytes]:
    """The JPEG and the label (UTF-8) of one tile; a pure function."""
    rng = random_stream(*tile.entropy)
    chimneys = draw_chimneys(tile.scene, rng)
    jpeg = encode(paint(tile.scene, chimneys, rng))
    return jpeg, label(tile, chimneys, len(jpeg), rng).encode()


def encode(rgb: np.ndarray) -> bytes:
    """JPEG of (512, 512, 3) uint8 RGB, with a quality that brings its size into `JPEG_BYTES`.

    Most tiles need about 89. There, one step of quality changes the size by 4 to 6 %, so the search cannot miss the
    range, which is 16 % wide.
    """
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    low, quality, high = 20, 89, 100
    while True:
        jpeg: bytes = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        excess = len(jpeg) / (sum(JPEG_BYTES) / 2)
        low, high = (quality + 1, high) if excess < 1 else (low, quality - 1)
        if JPEG_BYTES[0] <= len(jpeg) <= JPEG_BYTES[1] or low > high:
            return jpeg
        quality = min(max(quality - round(math.log(excess) / 0.05), low), high)


def label(tile: Tile, chimneys: list[Chimney], jpeg_bytes: int, rng: np.random.Generator) -> str:
    """The VIA label of a tile; the order of its keys differs from file to file."""
    scene, filename = tile.scene, f"{tile.img_id}.jpg"
    regions = []
    for i, chimney in enumerate(chimneys, start=1):
        polyline = chimney.polyline(scene)
        x, y = polyline.T.tolist()
        shape = {"name": "polyline", "all_points_x": x, "all_points_y": y}
        attributes = {"chi_id": str(i), "chi_height_m": f"{labelled_height(polyline, scene):.2f}"}
        regions.append(_shuffled({"shape_attributes": shape, "region_attributes": _shuffled(attributes, rng)}, rng))
    file_attributes = {
        "img_id": tile.img_id,
        "img_height": str(TILE),
        "img_width": str(TILE),
        "img_resolution": str(scene.sensor.gsd),
        "img_time": scene.name.split("_")[2][2:10],
        "img_roll_tilt": f"{scene.roll:.8f}",
        "img_pitch_tilt": f"{scene.pitch:.8f}",
        "img_provided": "한국항공우주연구원",
        "provided_nm": "한국지능정보사회진흥원",
    }
    via = {
        "filename": filename,
        "size": jpeg_bytes,
        "regions": regions,
        "file_attributes": _shuffled(file_attributes, rng),
    }
    return json.dumps({f"{filename}{jpeg_bytes}": _shuffled(via, rng)}, ensure_ascii=False)


def random_stream(*entropy: int) -> np.random.Generator:
    """A generator seeded by all of `entropy`."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _shuffled(mapping: Mapping[str, object], rng: np.random.Generator) -> dict[str, object]:
    items = list(mapping.items())
    return dict(items[i] for i in rng.permutation(len(items)))


def start_worker() -> None:
    """Prepare a worker process: one thread, because a tile is small, and exit when the parent ends or is killed."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
