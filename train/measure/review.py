"""What to look at first among labels: what the audit flags, then where label and prediction differ most.

    review = Review(heights, given)
    review.begin(predict=True)
    review.queue()

Both run in the background, because a release has thousands of labels. The audit is that of `chimney inspect`; it reads
the labels and the headers of the pictures. Labels are predicted only when the page asks for it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from dali_pipes.errors import InputError
from dali_pipes.inspect.audit import Labels, closed_form, repeated, scene_scales
from dali_pipes.release.names import NumberOf
from dali_pipes.samples.table import SampleTable

from .heights import Drawn, Heights
from .polylines import Given

MOST_QUEUED = 1000
AT_ONCE = 16  # polylines that are predicted together; a person's own line waits for one such group at most

Flags = dict[tuple[str, str], list[dict[str, Any]]]
"""(tile, number of the region as a text) → what the audit says of it: a code with its numbers."""


class Review:
    """The audit of the labels in `given`, and the network's predictions of all of them."""

    def __init__(self, heights: Heights, given: Given) -> None:
        self.heights, self.given = heights, given
        self.flags: Flags = {}
        self.trouble = ""
        """Why there is no audit, as a sentence; or ""."""
        self.labels: dict[Drawn, tuple[str, str, float]] = {}
        """Polyline → tile, region, height in metres."""
        self.audited = self.predicted = False
        self._heights: dict[Drawn, float] = {}
        self._once = threading.Lock()
        self._begun: set[str] = set()

    def begin(self, *, predict: bool) -> None:
        """Start the audit, and the prediction of all labels if `predict`, each once. Returns at once."""
        with self._once:
            wanted = {"audit", *(["predict"] if predict else [])} - self._begun
            self._begun |= wanted
        if wanted:
            threading.Thread(target=self._run, args=(wanted,), daemon=True).start()

    def progress(self) -> dict[str, Any]:
        """How far both are: `labels`, `known` (predicted labels), `audited`, `predicting`, `trouble`."""
        known = sum(self.heights.knows(drawn) for drawn in list(self.labels))
        return {
            "labels": len(self.labels),
            "known": known,
            "audited": self.audited,
            "predicting": "predict" in self._begun and not self.predicted,
            "trouble": self.trouble,
        }

    def queue(self) -> list[dict[str, Any]]:
        """One object for each label that is flagged or predicted: flagged ones first, then by their disagreement."""
        labels = dict(self.labels)
        known = [drawn for drawn in labels if drawn not in self._heights and self.heights.knows(drawn)]
        if known:
            answers = self.heights.answers(known, pooled=False)
            self._heights |= {drawn: answer.height for drawn, answer in zip(known, answers, strict=True)}
        rows = []
        for drawn, (tile, region, label) in labels.items():
            flags, height = self.flags.get((tile, region), []), self._heights.get(drawn)
            if flags or height is not None:
                rows.append(
                    {"i": drawn[0], "name": tile, "id": region, "label": label, "height": height, "flags": flags}
                )
        return sorted(rows, key=_first)[:MOST_QUEUED]

    def _run(self, wanted: set[str]) -> None:
        if "audit" in wanted:
            try:
                self._audit()
            except InputError as error:
                self.trouble = str(error)
            self.audited = True
        if "predict" in wanted:
            self._predict()
            self.predicted = True

    def _audit(self) -> None:
        number_of = NumberOf(self.heights.images.names)
        for tile in self.given.images:
            image = number_of(tile)
            for region, line in self.given.lines(tile).items():
                if line.height is not None and image is not None:
                    self.labels[image, line.points] = tile, region, line.height
        if not self.labels or self.given.files is None:
            return
        table = SampleTable.from_labels(self.given.files, self.heights.images)
        labels = Labels.of({"train": table})
        flags: Flags = {}
        for item in table.left_out:
            flags.setdefault((item.file, str(item.region)), []).append({"code": "skipped", "reason": item.reason.value})
        formula = closed_form(labels)
        scenes = scene_scales(labels)
        rows = [("formula", int(row), float(formula.deviation[row])) for row in formula.flagged]
        rows += [
            ("scene", int(row), float(by))
            for scene in scenes
            for row, by in zip(scene.flagged, scene.deviation, strict=True)
        ]
        rows += [("repeated", int(row), 0.0) for row in repeated(labels, {"train": table.polyline})]
        for code, row, by in rows:
            key = str(labels.tile[row]), str(labels.region[row])
            flags.setdefault(key, []).append({"code": code, "by": by})
        self.flags = flags

    def _predict(self) -> None:
        labels = list(self.labels)
        for start in range(0, len(labels), AT_ONCE):
            group = labels[start : start + AT_ONCE]
            try:
                self.heights.answers(group, pooled=False)
            except InputError:  # one of the pictures is damaged: the others are still predicted
                for drawn in group:
                    self._predict_one(drawn)

    def _predict_one(self, drawn: Drawn) -> None:
        try:
            self.heights.answers([drawn], pooled=False)
        except InputError:
            tile, region, _ = self.labels[drawn]
            self.flags.setdefault((tile, region), []).append({"code": "broken"})


def _first(row: dict[str, Any]) -> tuple[bool, float, float]:
    """Flagged labels first, the largest deviation first; then the largest disagreements."""
    worst = max((abs(flag.get("by", 0.0)) for flag in row["flags"]), default=0.0)
    differs = 0.0 if row["height"] is None else abs(row["height"] - row["label"])
    return not row["flags"], -worst if np.isfinite(worst) else -np.inf, -differs
