"""Small releases for the tests: rendered once per session, or written from JPEGs and polylines."""

from __future__ import annotations

import json
import signal
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A run that was stopped ignores further signals, and the processes of later tests would inherit that."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


STEMS = {"train": ("TS_KS", "TL_KS_LINE"), "validation": ("VS_KS", "VL_KS_LINE")}


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered release of 96 + 40 tiles in 8 scenes."""
    from bench.render.release import render_release

    folder = tmp_path_factory.mktemp("rendered") / "release"
    render_release(folder, train=96, val=40, scenes=8, seed=5)
    return folder


def jpeg(height: int, width: int, seed: int = 0, quality: int = 95) -> bytes:
    """A smooth random RGB JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def via_label(name: str, polylines: Sequence[Sequence[tuple[int, int]]], height: Any = "100.00", **file: str) -> Any:
    """The VIA object of one tile; `height` goes into every region as it is."""
    return {
        f"{name}1": {
            "filename": name,
            "size": 1,
            "regions": [
                {
                    "shape_attributes": {
                        "name": "polyline",
                        "all_points_x": [x for x, _ in points],
                        "all_points_y": [y for _, y in points],
                    },
                    "region_attributes": {"chi_id": str(i + 1), "chi_height_m": height},
                }
                for i, points in enumerate(polylines)
            ],
            "file_attributes": {"img_provided": "한국항공우주연구원", **file},
        }
    }


@pytest.fixture
def saves_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each epoch took a minute."""
    monkeypatch.setattr("train.run.folder.EPOCH_SAVE_S", 0.0)


@pytest.fixture
def write_split(tmp_path: Path) -> Callable[..., Path]:
    """A writer of one split from {file name: (JPEG bytes, label)}; returns the release's folder."""

    def write(tiles: dict[str, tuple[bytes | None, Any]], split: str = "train", deflate: bool = False) -> Path:
        images, labels = STEMS[split]
        how = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
        with zipfile.ZipFile(tmp_path / f"{images}.zip", "w", how) as archive:
            for name, (image, _) in tiles.items():
                if image is not None:
                    archive.writestr(name, image)
        with zipfile.ZipFile(tmp_path / f"{labels}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (_, label) in tiles.items():
                text = label if isinstance(label, bytes) else json.dumps(label, ensure_ascii=False).encode()
                archive.writestr(name.rsplit(".", 1)[0] + ".json", text)
        return tmp_path

    return write
