"""The fingerprint of a run's samples: stored in `last.pt`, and compared when the run is resumed.

It depends on the samples and not on their files: a release that was moved or repacked has the same fingerprint.
Images are compared by their sizes, and by their checksums if an archive stores them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from dali_pipes import SampleTable

from .data import Datasets

Fingerprint = dict[str, dict[str, Any]]


def fingerprint(datasets: Datasets) -> Fingerprint:
    """For each table, the number of samples and hashes of tile names, images, polylines and heights.

    A folder of loose files has no checksums, so an image replaced by another one of the same size is not noticed.
    """
    return {name: _of(table) for name, table in datasets.by_name().items()}


def _of(table: SampleTable) -> dict[str, Any]:
    images = table.images
    checksums = [images.crc(i) for i in table.image.tolist()]
    columns = {
        "tiles": np.frombuffer("\0".join(table.tile.tolist()).encode("utf-8", "backslashreplace"), np.uint8),
        "pictures": None if None in checksums else np.array(checksums, np.int64),
        "sizes": np.array([images.size(i) for i in table.image.tolist()], np.int64),
        "polylines": table.polyline,
        "heights": table.height,
    }
    hashes = {
        name: hashlib.blake2b(column.tobytes(), digest_size=16).hexdigest()
        for name, column in columns.items()
        if column is not None
    }
    return {"samples": len(table), **hashes}


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """The differences, as ["training: 60 samples, were 96; other tiles, heights"], or []."""
    differences = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name, {}), now.get(name, {})
        other = [part for part in new if part != "samples" and part in old and old[part] != new[part]]
        parts = []
        if old.get("samples", 0) != new.get("samples", 0):
            parts.append(f"{new.get('samples', 0)} samples, were {old.get('samples', 0)}")
        if other:
            parts.append(f"other {', '.join(other)}")
        if parts:
            differences.append(f"{name}: {'; '.join(parts)}")
    return differences
