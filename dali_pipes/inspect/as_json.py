"""An inspection for machines: one object of plain types, complete where the terminal shows the first few.

A number that is not finite is null, so that `json.dumps(…, allow_nan=False)` cannot fail.  Keys name their unit;
`region` is the polyline's index in its tile's label, -1 for the tile as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..samples.table import Split
from .audit import PRINTED, VERTEX_PX
from .comparison import Comparison
from .inspection import Count, Inspection
from .leakage import CRITERION


def as_json(found: Inspection) -> dict[str, Any]:
    """Everything that was found, in types that JSON has."""
    return plain(
        {
            "release": found.release,
            "missing": found.missing,
            "splits": {split: _split(found, split) for split in found.tables},
            "sensors": _counts(found.counts(found.sensor)),
            "scenes": _counts(found.counts(found.labels.scene)),
            "distributions": {
                name: {split: spread._asdict() for split, spread in splits.items()}
                for name, splits in found.distributions().items()
            },
            "leakage": _leakage(found),
            "closed_form": _closed_form(found),
            "scales": _scales(found),
            "repeated_polylines": [_label(found, i) for i in found.repeated],
            "against": _changes(found),
        }
    )


def plain(value: Any) -> Any:
    """`value` in types that JSON has: numpy's become Python's, and a number that is not finite becomes None."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _split(found: Inspection, split: Split) -> dict[str, Any]:
    return {
        **found.total(split)._asdict(),
        "left_out": {
            reason.value: [{"file": item.file, "region": item.region} for item in items]
            for reason, items in found.left_out(split).items()
        },
    }


def _counts(counts: Mapping[str, Mapping[Split, Count]]) -> dict[str, Any]:
    return {name: {split: count._asdict() for split, count in splits.items()} for name, splits in counts.items()}


def _label(found: Inspection, i: int) -> dict[str, Any]:
    labels = found.labels
    return {
        "split": labels.split[i],
        "tile": labels.tile[i],
        "region": labels.region[i],
        "height_m": labels.height[i],
        "length_px": labels.length_px[i],
    }


def _leakage(found: Inspection) -> dict[str, Any] | None:
    if (leak := found.leakage) is None:
        return None
    return {
        "samples": leak.samples,
        "samples_in_shared_scenes": leak.in_shared_scenes,
        "scenes": leak.scenes,
        "shared_scenes": leak.shared_scenes,
        "shared_tiles": leak.shared_tiles,
        "near_duplicates": {
            "criterion": CRITERION,
            "expected_by_chance": leak.by_chance,
            "pairs": [
                {"validation": _label(found, ours), "train": _label(found, theirs)} for ours, theirs in leak.pairs
            ],
        },
    }


def _closed_form(found: Inspection) -> dict[str, Any]:
    audit = found.closed_form
    return {
        "with_metadata": audit.known.sum(),
        "largest_m": np.abs(audit.deviation).max(initial=0.0),
        "flagged": [
            {**_label(found, i), "formula_m": found.labels.expected[i], "tolerance_m": found.labels.tolerance[i]}
            for i in audit.flagged
        ],
    }


def _scales(found: Inspection) -> dict[str, Any]:
    not_constant = [
        {
            "scene": scene.scene,
            "scale_m_per_px": scene.scale,
            "labels": scene.labels,
            "explained_by_vertex_rounding": scene.vertex_rounding,
            "flagged": [
                {**_label(found, i), "deviation_m": off} for i, off in zip(scene.flagged, scene.deviation, strict=True)
            ],
        }
        for scene in found.scales
    ]
    return {"tolerance_m": PRINTED, "vertex_rounding_px_per_segment": VERTEX_PX, "not_constant": not_constant}


def _changes(found: Inspection) -> dict[str, Any] | None:
    if found.changes is None:
        return None
    splits = {split: _comparison(comparison) for split, comparison in found.changes.splits.items()}
    return {"other": found.changes.other, "missing": found.changes.missing, "splits": splits}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        **vars(comparison),
        "labels_added": [label._asdict() for label in comparison.labels_added],
        "labels_removed": [label._asdict() for label in comparison.labels_removed],
        "labels_changed": [
            {"what": change.what, "before": change.before._asdict(), "after": change.after._asdict()}
            for change in comparison.labels_changed
        ],
    }
