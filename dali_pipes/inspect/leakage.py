"""What validation shares with training: scenes, tiles, and chimneys that stand in two tiles that overlap.

Within one scene height ÷ length is one number, so a network that recognises a scene knows the hard half of the
answer; one that recognises a chimney knows all of it.

A label does not say where on Earth its chimney stands.  What it holds is the scene, the height and the polyline,
and a chimney that two overlapping tiles cut out at different places keeps the vector from its base to its top.  So

    two labels are *near-duplicates* if they are of one scene, their heights are at most .01 m apart, and their
    vectors from base to top are at most 1 px apart in x and in y (each of two ends, rounded by half a pixel).

All vectors of one scene point the same way, hence two different chimneys of one height are near-duplicates, too.
How many that makes is estimated, not left unsaid: the same search is made for chimneys a few pixels longer or
shorter than the real ones, which can be nothing but coincidences.  The estimate is a little low: of 1,033 samples
drawn as bench/render/scene.py does, without one chimney in two tiles, 257 were found and 224 expected.  A chimney
that was labelled twice by hand, to different heights, is not found.
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
CONTROL_PX = (-6, -5, -4, -3, 3, 4, 5, 6)  # how much longer the chimneys are that do not exist: more than VECTOR_APART
PAIRS_AT_ONCE = 1 << 22  # bounds the memory where a release repeats one height over and over

_FUZZ = 1e-6  # for decimals that binary numbers only approach
_HIGHEST = 1e7  # metres: heights beyond are no chimneys, and would overflow the search's keys


@dataclass(frozen=True)
class Leakage:
    """What V validation samples share with training."""

    samples: int
    """V."""
    in_shared_scenes: int
    """How many of them lie in scenes that training has, too."""
    scenes: int
    """Scenes of validation."""
    shared_scenes: tuple[str, ...]
    """Those of them that training has, too, by name."""
    shared_tiles: tuple[str, ...]
    """File names that both splits have."""
    pairs: NDArray[np.int64]
    """(D, 2) int64, near-duplicates as rows of `Labels`: a validation sample, and the first of training like it."""
    by_chance: float
    """How many such validation samples coincidence alone makes, by the estimate that the module describes."""


def leakage(labels: Labels, training: str = "train", validation: str = "validation") -> Leakage:
    """Compare the two splits of `labels`; a split without rows shares nothing."""
    ours, theirs = np.flatnonzero(labels.split == validation), np.flatnonzero(labels.split == training)
    scenes = np.unique(labels.scene[ours])
    _, scene = np.unique(labels.scene, return_inverse=True)
    known = _Chimneys(scene[theirs], labels.height[theirs], labels.vector[theirs])
    asked = _Chimneys(scene[ours], labels.height[ours], labels.vector[ours])
    first = first_alike(asked, known)
    controls = [int((first_alike(_lengthened(asked, by), known) >= 0).sum()) for by in CONTROL_PX]
    return Leakage(
        samples=len(ours),
        in_shared_scenes=int(np.isin(labels.scene[ours], labels.scene[theirs]).sum()),
        scenes=len(scenes),
        shared_scenes=tuple(np.intersect1d(scenes, labels.scene[theirs]).tolist()),
        shared_tiles=tuple(np.intersect1d(labels.tile[ours], labels.tile[theirs]).tolist()),
        pairs=np.stack([ours[first >= 0], theirs[first[first >= 0]]], axis=1),
        by_chance=float(np.mean(controls)),
    )


@dataclass(frozen=True)
class _Chimneys:
    """What the criterion looks at: `scene` (n,) int64, `height` (n,) metres, `vector` (n, 2) px."""

    scene: Int64
    height: Float64
    vector: Float64


def _lengthened(chimneys: _Chimneys, by: float) -> _Chimneys:
    """Chimneys of the same scenes, `by` px longer, in whole pixels again, and as much higher."""
    length = np.hypot(*chimneys.vector.T)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        vector = np.nan_to_num(np.rint(chimneys.vector * np.maximum(1 + by / length, 0.0)[:, None]))
        height = np.nan_to_num(chimneys.height * np.hypot(*vector.T) / length)
    return _Chimneys(chimneys.scene, height, vector)


def first_alike(asked: _Chimneys, known: _Chimneys) -> Int64:
    """For each chimney of `asked` the first of `known` that is its near-duplicate, -1 where there is none → (n,) int64.

    Sorted by scene and height in hundredths, the candidates of a chimney are one run of neighbours.
    """
    key, order = _key(known), np.argsort(_key(known), kind="stable")
    low = np.searchsorted(key[order], _key(asked) - 1, side="left")
    high = np.searchsorted(key[order], _key(asked) + 1, side="right")
    first = np.full(len(low), len(order))
    for some in _parts(high - low):
        count = (high - low)[some]
        who = np.repeat(some, count)
        which = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low[some], count)]
        height = np.abs(asked.height[who] - known.height[which])
        vector = np.abs(asked.vector[who] - known.vector[which]).max(axis=1, initial=0.0)
        alike = (height <= HEIGHT_APART + _FUZZ) & (vector <= VECTOR_APART + _FUZZ)
        np.minimum.at(first, who[alike], which[alike])
    return np.where(first < len(order), first, -1)


def _key(chimneys: _Chimneys) -> Int64:
    """One integer for scene and height in hundredths; neighbours in height are neighbours, scenes lie far apart."""
    hundredths = np.rint(np.minimum(chimneys.height, _HIGHEST) / HEIGHT_APART).astype(np.int64)
    return chimneys.scene * np.int64(4 * _HIGHEST / HEIGHT_APART) + hundredths


def _parts(count: Int64) -> list[Int64]:
    """Rows that have candidates, in parts of about `PAIRS_AT_ONCE` pairs."""
    rows = np.flatnonzero(count)
    part = np.cumsum(count[rows]) // PAIRS_AT_ONCE
    return np.split(rows, np.flatnonzero(np.diff(part)) + 1) if len(rows) else []
