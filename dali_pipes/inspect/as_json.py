"""An inspection for other programs: one object of plain types, with all rows where the terminal shows the first few.

A number that is not finite is null, so that `json.dumps(…, allow_nan=False)` cannot fail. Keys name their unit;
`region` is the polyline's index in its tile's label, -1 for the tile as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from ..samples.table import Split
from .audit import PRINTED, VERTEX_PX
from .inspection import Inspection
from .leakage import CRITERION


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The whole inspection, in types that JSON has."""
    contents: dict[str, Any] = plain(
        {
            "release": inspection.release,
            "missing": inspection.missing,
            "splits": {split: _split(inspection, split) for split in inspection.tables},
            "sensors": inspection.counts(inspection.sensor),
            "scenes": inspection.counts(inspection.labels.scene),
            "distributions": inspection.distributions(),
            "leakage": _leakage(inspection),
            "closed_form": _closed_form(inspection),
            "scales": _scales(inspection),
            "repeated_polylines": [_label(inspection, i) for i in inspection.repeated],
            "repeated_pictures": inspection.twins,
            "against": inspection.changes,
        }
    )
    return contents


def plain(value: Any) -> Any:
    """`value` in types that JSON has.

    Numpy's types become Python's, data classes and named tuples become objects, and a number that is not finite
    becomes None.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        value = vars(value)
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _split(inspection: Inspection, split: Split) -> dict[str, Any]:
    left_out = {
        reason.value: [{"file": item.file, "region": item.region} for item in items]
        for reason, items in inspection.left_out(split).items()
    }
    return {**inspection.total(split)._asdict(), "left_out": left_out}


def _label(inspection: Inspection, i: int, **more: float) -> dict[str, Any]:
    labels = inspection.labels
    return {
        "split": labels.split[i],
        "tile": labels.tile[i],
        "region": labels.region[i],
        "height_m": labels.height[i],
        "length_px": labels.length_px[i],
        **more,
    }


def _leakage(inspection: Inspection) -> dict[str, Any] | None:
    if (leak := inspection.leakage) is None:
        return None
    pairs = [
        {"validation": _label(inspection, ours), "train": _label(inspection, theirs)} for ours, theirs in leak.pairs
    ]
    return {
        "samples": leak.samples,
        "samples_in_shared_scenes": leak.in_shared_scenes,
        "scenes": leak.scenes,
        "shared_scenes": leak.shared_scenes,
        "shared_tiles": leak.shared_tiles,
        "shared_pictures": leak.shared_pictures,
        "near_duplicates": {"criterion": CRITERION, "expected_by_chance": leak.by_chance, "pairs": pairs},
    }


def _closed_form(inspection: Inspection) -> dict[str, Any]:
    audit, labels = inspection.closed_form, inspection.labels
    return {
        "with_metadata": audit.known.sum(),
        "largest_m": np.abs(audit.deviation).max(initial=0.0),
        "flagged": [
            _label(inspection, i, formula_m=labels.expected[i], tolerance_m=labels.tolerance[i]) for i in audit.flagged
        ],
    }


def _scales(inspection: Inspection) -> dict[str, Any]:
    not_constant = [
        {
            "scene": scene.scene,
            "scale_m_per_px": scene.scale,
            "labels": scene.labels,
            "explained_by_vertex_rounding": scene.vertex_rounding,
            "flagged": [
                _label(inspection, i, deviation_m=deviation)
                for i, deviation in zip(scene.flagged, scene.deviation, strict=True)
            ],
        }
        for scene in inspection.scales
    ]
    return {"tolerance_m": PRINTED, "vertex_rounding_px_per_segment": VERTEX_PX, "not_constant": not_constant}
