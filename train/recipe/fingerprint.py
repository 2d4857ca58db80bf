"""What a run was trained on, in a few words that change when the samples do: kept in `last.pt`, compared on resuming.

It is made of what is learnt from, not of where it lies: a release that was moved, or packed anew, is still the same.
Pictures are known by their checksums where an archive states them, and always by their sizes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from dali_pipes import SampleTable

from .data import Tables

Fingerprint = dict[str, dict[str, Any]]


def fingerprint(tables: Tables) -> Fingerprint:
    """For each table the number of its samples, and hashes of its tiles' names, pictures, polylines and heights.

    A folder of loose files states no checksums: a picture that was replaced by one of its size is not seen there.
    """
    return {name: _of(table) for name, table in {"training": tables.training, **tables.evaluated}.items()}


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
    """How `now` differs from `before`, as ["training: 60 samples, were 96; other tiles, heights"], or []."""
    told = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name, {}), now.get(name, {})
        other = [part for part in new if part != "samples" and part in old and old[part] != new[part]]
        said = []
        if old.get("samples", 0) != new.get("samples", 0):
            said.append(f"{new.get('samples', 0)} samples, were {old.get('samples', 0)}")
        if other:
            said.append(f"other {', '.join(other)}")
        if said:
            told.append(f"{name}: {'; '.join(said)}")
    return told
