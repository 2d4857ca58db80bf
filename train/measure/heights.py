"""Heights while a line is drawn: the network is loaded once, and pictures and answers are kept.

    heights = Heights(load("best.pt"), images)
    heights.answers([(0, ((202.0, 384.0), (232.0, 408.0)))], pooled=True)

The numbers are those of `chimney predict`: the frames come from the same DALI graph, and calibration and pooling from
the same functions. A whole tile is decoded once, because its frame does not depend on the polyline.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from dali_pipes import Batch, Loader
from dali_pipes.batches.batch import Letterboxed
from dali_pipes.samples.picture import Pictures
from dali_pipes.samples.table import SampleTable, scene_of

from ..deploy.height_model import HeightModel, columns
from ..engine.trained import predict
from .decisions import Points

Drawn = tuple[int, Points]
"""The number of an image, and a polyline on it in pixels, base first."""

MOST_FRAMES = 512  # 77 MB of frames of 224 × 224 pixels
MOST_ANSWERS = 200_000
TILE_PX = 512  # the longer side of a tile of AI Hub 71805
UNUSUAL_DEVIATIONS = 2.5  # of the training lengths: 1 % of a Gaussian is farther from its mean
UNUSUAL_SIZE = 1.25  # times larger or smaller than a tile of the release


class Answer(NamedTuple):
    """Height, σ and 90 % interval in metres, calibrated, and pooled if asked; `high` may be infinite."""

    height: float
    sigma: float
    low: float
    high: float


Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(OrderedDict[Key, Value], Generic[Key, Value]):
    """A dict of at most `most` entries; the one that was written first is dropped first."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        while len(self) > self.most:
            self.popitem(last=False)


class KeptFrames(Loader):
    """A loader whose frames come from `kept`, which is filled with those that it lacks."""

    def __init__(self, table: SampleTable, model: HeightModel, kept: Recent[Any, Tensor]) -> None:
        super().__init__(
            table,
            min(model.batch_size(table), kept.most),
            device=model.forward.device,
            size=model.trained.size,
            view=model.trained.view,
            statistics=model.trained.statistics,
        )
        self._recent, self._keys = kept, self.frames.key

    def __iter__(self) -> Iterator[Batch]:
        """All batches of the table, in its order."""
        for step in range(len(self)):
            rows = self.plan.ids(step)
            missing = {self._key(row): row for row in rows.tolist() if self._key(row) not in self._recent}
            fresh: dict[Any, Tensor] = {}
            if missing:
                for some, frames in self._pictures(np.array(list(missing.values()), np.int64)):
                    fresh |= {self._key(row): frame.clone() for row, frame in zip(some.tolist(), frames, strict=True)}
            keys = [self._key(row) for row in rows.tolist()]
            rgb = torch.stack([fresh[key] if key in fresh else self._recent[key] for key in keys])
            for key, frame in fresh.items():
                self._recent[key] = frame
            masks = torch.from_numpy(np.stack([self.frames.polyline(row) for row in rows.tolist()]))
            sample = torch.from_numpy(rows).to(self.device)
            yield self._labelled(Letterboxed(rgb, masks.to(self.device), sample))

    def _key(self, row: int) -> tuple[int, bytes]:
        return int(self.table.image[row]), self._keys[row].tobytes()


class Heights:
    """Predicts polylines on `images`; several threads may ask at once."""

    def __init__(self, model: HeightModel, images: Pictures) -> None:
        self.model, self.images = model, images
        self._sizes: dict[int, tuple[int, int]] = {}
        self._frames: Recent[Any, Tensor] = Recent(MOST_FRAMES)
        self._raw: Recent[Drawn, tuple[float, float]] = Recent(MOST_ANSWERS)
        self._busy = threading.Lock()

    def size(self, image: int) -> tuple[int, int]:
        """Width and height in pixels. Raises InputError, with the reason, if the image cannot be used."""
        if image not in self._sizes:
            windowed = self.model.trained.view.windowed
            self._sizes[image] = self.images.sizes([image], windowed=windowed, console=Console(quiet=True))[0]
        return self._sizes[image]

    def knows(self, drawn: Drawn) -> bool:
        """Whether the network has seen this polyline, so that its answer takes no time."""
        return drawn in self._raw

    def answers(self, drawn: Sequence[Drawn], *, pooled: bool) -> list[Answer]:
        """The height of each polyline; `pooled`: all of one scene improve each other. Raises InputError."""
        table = self.table(drawn)
        mu, sigma = self._predicted(drawn)
        _, refined = self.model.forecasts(table, mu, sigma, "scene" if pooled else "none")
        rows = np.stack(columns(refined), axis=1).round(4)  # as in the files that predict writes
        return [Answer(*row) for row in rows.tolist()]

    def table(self, drawn: Sequence[Drawn]) -> SampleTable:
        """The table of some polylines. Raises InputError if an image cannot be used."""
        image = np.array([image for image, _ in drawn], np.int64)
        size = np.array([self.size(image) for image, _ in drawn], np.int64)
        longest = max(len(points) for _, points in drawn)
        lines = [np.pad(np.array(points), ((0, longest - len(points)), (0, 0)), "edge") for _, points in drawn]
        return SampleTable.without_heights(image, np.stack(lines), size, self.images)

    def unusual(self, drawn: Drawn) -> list[dict[str, Any]]:
        """What about a polyline and its picture is unlike the training samples: a code and its numbers each."""
        trained, found = self.model.trained, list[dict[str, Any]]()
        width, height = self.size(drawn[0])
        length = float(self.table([drawn]).length[0])
        mean, std = trained.statistics.length_mean, trained.statistics.length_std
        if abs(length - mean) > UNUSUAL_DEVIATIONS * std:
            side = max(width, height)
            code = "long" if length > mean else "short"
            found.append({"code": code, "length": round(length * side), "usual": round(mean * side)})
        longer, shorter = max(width, height), min(width, height)
        if not 1 / UNUSUAL_SIZE <= longer / TILE_PX <= UNUSUAL_SIZE or longer > UNUSUAL_SIZE * shorter:
            found.append({"code": "size", "width": width, "height": height, "usual": TILE_PX})
        name = self.images.names[drawn[0]]
        if not _names_a_scene(name):
            found.append({"code": "nameless"})
        elif trained.scenes is None:
            found.append({"code": "unlisted"})
        elif scene_of(name) not in trained.scenes:
            found.append({"code": "unseen"})
        return found

    def _predicted(self, drawn: Sequence[Drawn]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The network's own mean and σ in metres, both (N,)."""
        with self._busy:
            missing = [each for each in dict.fromkeys(drawn) if each not in self._raw]
            known = {each: self._raw[each] for each in drawn if each in self._raw}
            if missing:
                loader = KeptFrames(self.table(missing), self.model, self._frames)
                mu, sigma = predict(self.model.forward, loader, self.model.trained.target)
                loader.close()
                fresh = dict(zip(missing, zip(mu.tolist(), sigma.tolist(), strict=True), strict=True))
                known |= fresh
                for each, numbers in fresh.items():
                    self._raw[each] = numbers
        mu, sigma = np.array([known[each] for each in drawn]).T
        return mu, sigma


def _names_a_scene(name: str) -> bool:
    """Whether a file name is of the form SENSOR_COUNTRY_TIME_TILE, so that its first part names a scene."""
    parts = name.split("_")
    return len(parts) >= 4 and len(parts[2]) == 14 and parts[2].isdigit()
