"""Whether the labels of a release can be trained on: the audit in one line, before the first epoch.

    verdict = judge({"train": table, "validation": other})
    verdict.sentence        "the audit finds 10 of 136 labels suspicious: 10 do not follow from …"
    verdict.beyond_chance   whether these are more than some wrong labels explain

It is computed from the tables in some milliseconds; only pictures of equal size without a recorded checksum are read.
What is called suspicious holds even if a release had rounded its vertices after computing the heights (audit.py).
`chimney inspect DIR` shows each label.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..samples.splits import repeated_pictures
from ..samples.table import SampleTable
from ..samples.via import Reason
from ..units import count
from .audit import VERTEX_PX, Bool, Labels, closed_form, scene_scales

_Split = TypeVar("_Split", bound=str)

TALLEST, LOWEST = 420.0, 2.0  # metres; the tallest chimney of the world has 420 (Ekibastuz), and roofs have some of 2
SHORTEST_PX = 2 * VERTEX_PX  # rounding the vertices of a shorter polyline changes its length by half
SAME_PICTURE = "show the same picture as a tile of another name"
CONSTANT = 0.5  # share of labels with one height; in the published release it is far below
TOLERATED = 0.01  # share of wrong labels that is taken for carelessness
CHANCE = 1e-3  # the probability below which a number of wrong labels is not explained by `TOLERATED`


@dataclass(frozen=True)
class Verdict:
    """`suspicious` of `labels` labels, and how many for each reason; a label may have several.

    A tile that was dropped because its picture has another name, too, counts as one label.
    """

    suspicious: int
    labels: int
    reasons: dict[str, int]

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if not self.suspicious:
            return f"the audit finds no fault in {count(self.labels, 'label')}"
        reasons = "; ".join(f"{n:,} {reason}" for reason, n in self.reasons.items())
        return f"the audit finds {self.suspicious:,} of {count(self.labels, 'label')} suspicious: {reasons}"

    @property
    def beyond_chance(self) -> bool:
        """Whether `TOLERATED` wrong labels would give so many with a probability below `CHANCE` (binomial tail)."""
        n, p = self.labels, TOLERATED
        fewer = (
            math.exp(
                math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
                + k * math.log(p) + (n - k) * math.log1p(-p)
            )
            for k in range(self.suspicious)
        )  # fmt: skip
        return 1 - sum(fewer) < CHANCE


def judge(tables: Mapping[_Split, SampleTable]) -> Verdict:
    """Audit the labels of all splits together; at least one label."""
    labels = Labels.of(tables)
    found = {
        "do not follow from length, resolution and tilt": _against_formula(labels),
        "do not have the scale of their scene": _against_scene(labels),
        f"are above {TALLEST:g} m or below {LOWEST:g} m": (labels.height > TALLEST) | (labels.height < LOWEST),
        "have the same height": _constant(labels),
        f"have a polyline shorter than {SHORTEST_PX:.1f} px": labels.length_px < SHORTEST_PX,
        SAME_PICTURE: _same_picture(tables),
        "have a tile whose name differs from another only in case or Unicode form": _same_name(labels, tables),
    }
    counts = {reason: int(rows.sum()) for reason, rows in found.items()}
    dropped = sum(item.reason is Reason.REPEATED for table in tables.values() for item in table.left_out)
    counts[SAME_PICTURE] += dropped
    suspicious = int(np.logical_or.reduce(list(found.values())).sum()) + dropped
    return Verdict(suspicious, len(labels) + dropped, {reason: n for reason, n in counts.items() if n})


def _against_formula(labels: Labels) -> Bool:
    """Heights (M,) that no rounding of the vertices reconciles with the closed form."""
    audit = closed_form(labels)
    with np.errstate(all="ignore"):
        rounding = np.abs(labels.expected) * np.minimum(VERTEX_PX * labels.segments / labels.length_px, 1.0)
    off = np.zeros(len(labels), bool)
    off[audit.flagged] = True
    return off & (np.abs(audit.deviation) > labels.tolerance + np.nan_to_num(rounding))


def _against_scene(labels: Labels) -> Bool:
    """Heights (M,) that differ from the scale of their scene by more than the rounding of the vertices."""
    off = np.zeros(len(labels), bool)
    for scene in scene_scales(labels):
        if not scene.vertex_rounding:
            off[scene.flagged] = True
    return off


def _constant(labels: Labels) -> Bool:
    """The labels (M,) of the most frequent height, if most of at least ten polylines of many lengths have it."""
    heights, inverse, counts = np.unique(labels.height, return_inverse=True, return_counts=True)
    same = inverse == counts.argmax()
    lengths = len(np.unique(labels.length_px[same].round()))
    is_constant = len(labels) >= 10 and counts.max() > CONSTANT * len(labels) and lengths > 1
    return same if is_constant and len(heights) else np.zeros(len(labels), bool)


def _same_picture(tables: Mapping[_Split, SampleTable]) -> Bool:
    """The labels (M,) of tiles whose picture their table has under an earlier name."""
    return np.concatenate([np.isin(table.image, list(repeated_pictures(table))) for table in tables.values()])


def _same_name(labels: Labels, tables: Mapping[_Split, SampleTable]) -> Bool:
    """The labels (M,) of tiles whose name differs from an earlier one only in case or Unicode form."""
    first: dict[str, str] = {}
    off = np.zeros(len(labels), bool)
    begin = 0
    for table in tables.values():
        again = []
        for i in np.unique(table.image).tolist():
            name = table.images.names[i]
            if first.setdefault(unicodedata.normalize("NFKC", name).casefold(), name) != name:
                again.append(i)
        off[begin : begin + len(table)] = np.isin(table.image, again)
        begin += len(table)
    return off
