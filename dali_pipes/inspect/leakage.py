"""What validation shares with training: scenes, tiles, and chimneys in two overlapping tiles.

Within one scene, height ÷ length is constant. A network that recognises a scene therefore knows this scale, the harder
half of the answer. A network that recognises a chimney knows its height.

A label does not say where on Earth its chimney is. It has the scene, the height and the polyline. Two overlapping tiles
show the same chimney at different places, but with the same vector from base to top. Therefore,

    two labels are *near-duplicates* if they are of one scene, their heights are at most .01 m apart, and their
    vectors from base to top are at most 1 px apart in x and in y (each of two ends, rounded by half a pixel).

All vectors of one scene point the same way, so two different chimneys of the same height are near-duplicates, too.
Their number is estimated: the same search is made for chimneys a few pixels longer or shorter than the real ones, which
can only match by chance. The estimate is slightly low: among 1,033 samples generated as in bench/render/scene.py, with
no chimney in two tiles, 257 were found and 224 expected. A chimney that was labelled twice by hand, with different
heights, is not found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .audit import Float64, Int64, Labels

HEIGHT_APART = 0.01  # metres: two neighbouring printed heights
VECTOR_APART = 1.0  # pixels in x and in y
CRITERION = (
    f"same scene, heights at most {HEIGHT_APART} m apart, vectors from base to top at most {VECTOR_APART:g} px apart"
    " in x and in y"
)
CONTROL_PX = (-6, -5, -4, -3, 3, 4, 5, 6)  # how much longer the invented chimneys are: more than VECTOR_APART
PAIRS_AT_ONCE = 1 << 22  # limits the memory where a release has one height many times

_FUZZ = 1e-6  # binary numbers only approximate decimal ones
_HIGHEST = 1e7  # metres: greater heights would overflow the keys of the search


@dataclass(frozen=True)
class Leakage:
    """What V validation samples share with training."""

    samples: int
    """V."""
    in_shared_scenes: int
    """How many of them are from scenes that are also in training."""
    scenes: int
    """Scenes of validation."""
    shared_scenes: tuple[str, ...]
    """The names of those that are also in training."""
    shared_tiles: tuple[str, ...]
    """File names that both splits have."""
    shared_pictures: tuple[tuple[str, str], ...]
    """The same pictures under two names: in validation, and in training."""
    pairs: NDArray[np.int64]
    """(D, 2) int64, near-duplicates as rows of `Labels`: a validation sample and its first match in training."""
    by_chance: float
    """How many of these validation samples are expected by chance, as the module docstring describes."""


def leakage(
    labels: Labels,
    training: str = "train",
    validation: str = "validation",
    shared_pictures: tuple[tuple[str, str], ...] = (),
) -> Leakage:
    """Compare the two splits of `labels`; a split without rows shares nothing."""
    ours, theirs = np.flatnonzero(labels.split == validation), np.flatnonzero(labels.split == training)
    scenes = np.unique(labels.scene[ours])
    _, scene = np.unique(labels.scene, return_inverse=True)
    references = _Chimneys(scene[theirs], labels.height[theirs], labels.vector[theirs])
    queries = _Chimneys(scene[ours], labels.height[ours], labels.vector[ours])
    first = first_alike(queries, references)
    controls = [int((first_alike(_lengthened(queries, by), references) >= 0).sum()) for by in CONTROL_PX]
    return Leakage(
        samples=len(ours),
        in_shared_scenes=int(np.isin(labels.scene[ours], labels.scene[theirs]).sum()),
        scenes=len(scenes),
        shared_scenes=tuple(np.intersect1d(scenes, labels.scene[theirs]).tolist()),
        shared_tiles=tuple(np.intersect1d(labels.tile[ours], labels.tile[theirs]).tolist()),
        shared_pictures=shared_pictures,
        pairs=np.stack([ours[first >= 0], theirs[first[first >= 0]]], axis=1),
        by_chance=float(np.mean(controls)),
    )


@dataclass(frozen=True)
class _Chimneys:
    """The columns that the criterion uses: `scene` (n,) int64, `height` (n,) metres, `vector` (n, 2) px."""

    scene: Int64
    height: Float64
    vector: Float64


def _lengthened(chimneys: _Chimneys, by: float) -> _Chimneys:
    """Chimneys of the same scenes, `by` px longer in whole pixels, with heights in proportion."""
    length = np.hypot(*chimneys.vector.T)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        vector = np.nan_to_num(np.rint(chimneys.vector * np.maximum(1 + by / length, 0.0)[:, None]))
        height = np.nan_to_num(chimneys.height * np.hypot(*vector.T) / length)
    return _Chimneys(chimneys.scene, height, vector)


def first_alike(queries: _Chimneys, references: _Chimneys) -> Int64:
    """For each of `queries` the first near-duplicate among `references`, -1 if there is none → (n,) int64.

    Sorted by scene and height in hundredths, the candidates of a chimney are a run of neighbours.
    """
    key, order = _key(references), np.argsort(_key(references), kind="stable")
    low = np.searchsorted(key[order], _key(queries) - 1, side="left")
    high = np.searchsorted(key[order], _key(queries) + 1, side="right")
    first = np.full(len(low), len(order))
    for some in _parts(high - low):
        count = (high - low)[some]
        who = np.repeat(some, count)
        which = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low[some], count)]
        height = np.abs(queries.height[who] - references.height[which])
        vector = np.abs(queries.vector[who] - references.vector[which]).max(axis=1, initial=0.0)
        alike = (height <= HEIGHT_APART + _FUZZ) & (vector <= VECTOR_APART + _FUZZ)
        np.minimum.at(first, who[alike], which[alike])
    return np.where(first < len(order), first, -1)


def _key(chimneys: _Chimneys) -> Int64:
    """One integer for scene and height in hundredths; neighbours in height are neighbours, scenes are far apart."""
    hundredths = np.rint(np.minimum(chimneys.height, _HIGHEST) / HEIGHT_APART).astype(np.int64)
    return chimneys.scene * np.int64(4 * _HIGHEST / HEIGHT_APART) + hundredths


def _parts(count: Int64) -> list[Int64]:
    """Rows that have candidates, in parts of about `PAIRS_AT_ONCE` pairs."""
    rows = np.flatnonzero(count)
    part = np.cumsum(count[rows]) // PAIRS_AT_ONCE
    return np.split(rows, np.flatnonzero(np.diff(part)) + 1) if len(rows) else []
