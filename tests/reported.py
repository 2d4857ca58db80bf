"""Samples and predictions in memory, and a parser of pages, for the tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.geometry import normalised_length
from dali_pipes.release.members import Members
from dali_pipes.samples.table import SampleTable
from train.report.page import write_report
from train.scores.evaluation import Evaluation
from train.scores.metrics import Baselines
from train.scores.predictions import Predictions

SIZE = 64  # px: small tiles keep the tests fast
VOID = {"meta", "br", "img", "link", "input", "hr"}
HISTORY = [
    {"epoch": 1, "train_loss": 0.4, "rmse": 30.0, "samples_per_s": 100.0, "data_wait": 0.25, "seconds": 3.0},
    {"epoch": 2, "train_loss": float("nan"), "rmse": 12.5, "learning_rate": None},
    {"epoch": 3},
]


class Tiles(Members):
    """Images in memory: a grey tile for each index."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(cv2.imencode(".jpg", np.full((SIZE, SIZE), index % 256, np.uint8))[1]).ravel()


def sample_table(n: int, *, scenes: int = 20, seed: int = 0, without_metadata: int = 0) -> SampleTable:
    """`n` samples in `scenes` scenes, two to a tile; the first `without_metadata` samples have no roll."""
    random = np.random.default_rng(seed)
    tile = np.array([f"K3_CHN_{seed}{i // 2 % scenes:03d}_{i // 2}.jpg" for i in range(n)])
    polyline = random.integers(0, SIZE, (n, 2, 2)).astype(np.float64)
    polyline = np.concatenate([polyline, polyline[:, -1:]], axis=1)
    size, roll = np.full(n, SIZE), random.uniform(5, 25, n)
    roll[:without_metadata] = np.nan
    return SampleTable(
        tile=tile,
        scene=np.array([name.rpartition("_")[0] for name in tile.tolist()]),
        polyline=polyline,
        length=normalised_length(polyline, size, size),
        height=random.uniform(40, 298, n),
        width=size,
        height_px=size,
        gsd=np.full(n, 0.7),
        roll=roll,
        pitch=random.uniform(-15, 15, n),
        image=np.arange(n) // 2,
        images=Tiles(tile[::2].tolist()),
    )


def predict(name: str, table: SampleTable, *, noise: float, seen: bool | NDArray[np.bool_]) -> Predictions:
    """Predictions whose errors have a standard deviation of `noise` metres, which is also their sigma."""
    n = len(table)
    mu = table.height + noise * np.random.default_rng(7).standard_normal(n)
    return Predictions(name, f"The {name} samples.", table, mu, np.full(n, noise), np.broadcast_to(seen, (n,)).copy())


def evaluate(*predictions: Predictions) -> Evaluation:
    """Score `predictions`, with baselines fitted on 100 other samples."""
    training = sample_table(100, seed=9)
    return Evaluation.of(predictions, Baselines.fit(training.length, training.height))


def write(path: Path, *predictions: Predictions, **changes: Any) -> str:
    """Write a report of `predictions` and return its text."""
    arguments: dict[str, Any] = {
        "title": "A run",
        "history": HISTORY,
        "config": {"optimiser": {"lr": 1e-4}, "seed": 0},
        "environment": {"torch": "2.14.0"},
        "commands": {"predict heights": "chimney predict --checkpoint 'a run/best.pt' --out heights.csv"},
        "training": {"release": "release", "samples": 100, "left_out": {"no height": 3}, "seconds": 75.0},
    }
    write_report(path, evaluate(*predictions), **{**arguments, **changes})
    return path.read_text("utf-8")


class Page(HTMLParser):
    """A page's elements, its text and its table rows; it fails on tags that do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.captions: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td") and self.rows:
            self.rows[-1].append("")
        if tag == "figcaption":
            self.captions.append("")
        if tag == "br" and "figcaption" in self.open:
            self.captions[-1] += "\n"

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.words.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data
        if "figcaption" in self.open:
            self.captions[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
