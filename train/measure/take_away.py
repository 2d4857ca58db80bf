"""The files to take away: heights as `chimney predict` writes them, and a label archive with all decisions.

    heights_file(work, ".csv", pooled=True)     the file, and how many lines it leaves out
    label_archive(work)

The archive has the release's own form: `chimney inspect` and `chimney train` read it with `--labels`. Label files
without a decision are copied byte by byte.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dali_pipes.errors import InputError
from dali_pipes.release.names import SUFFIXES, stem_of
from dali_pipes.samples.polylines import Polylines
from dali_pipes.samples.via import images_of, read_tile

from ..deploy.map_file import SUFFIXES as MAPS
from ..deploy.predicted_heights import PredictedHeights, check_suffix
from ..scores.pooling import Pooling
from .decisions import Decided
from .polylines import document_of, revised, without_label
from .uploads import PREFIX
from .work import Work

STAMP = (1980, 1, 1, 0, 0, 0)  # of all members, so that the same decisions give the same bytes


def heights_file(work: Work, suffix: str, *, pooled: bool) -> tuple[bytes, int]:
    """All polylines that are not dropped, predicted and written in the format of `suffix`; and how many are left out.

    A map leaves out those on pictures without a georeference, but pools them with the others. Raises InputError if
    none would be in the file, or if a picture cannot be used.
    """
    check_suffix(Path(f"heights{suffix}"))
    decided = work.decisions.tiles()
    objects = []
    for name in (work.name(number) for number in work.numbers):
        base = work.given.images.get(name, without_label(name))
        via = revised({**base, "filename": name}, decided.get(name, {}), as_label=False)
        if via["regions"]:
            objects.append(via)
    if not objects:
        raise InputError("expected at least one chimney, found none; draw a polyline from a base to its top")
    pool: Pooling = "scene" if pooled else "none"
    heights = work.heights.model.predict(work.images, Polylines.of(objects, "the page"), pool=pool)
    if suffix in MAPS:
        return _map_file(work, heights, suffix)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        path = Path(folder) / f"heights{suffix}"
        heights.write(path)
        return path.read_bytes(), 0


def _map_file(work: Work, heights: PredictedHeights, suffix: str) -> tuple[bytes, int]:
    images = heights.table.image.tolist()
    located = {image for image in set(images) if work.is_located(image)}
    rows = [i for i, image in enumerate(images) if image in located]
    if not rows:
        raise InputError("expected a chimney on a picture with a georeference, found none; take the heights as CSV")
    return heights.on_a_map(suffix, rows), len(images) - len(rows)


def label_archive(work: Work) -> bytes:
    """A ZIP of the label files with all decisions applied; new lines are in it if a person stated their height.

    Raises InputError if no label would be left.
    """
    decided = dict(work.decisions.tiles())
    given = work.given
    written = io.BytesIO()
    count = 0
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        if given.files is not None:
            count += _copy_files(work, decided, archive)
        for name, lines in decided.items():
            if name in given.file_of or name not in work.images.names:
                continue
            label = revised(given.images.get(name, without_label(name)), lines, as_label=True)
            if label["regions"]:
                document = {f"{name}{label['size']}": label}
                _write(archive, f"{stem_of(name)}.json", json.dumps(document, ensure_ascii=False).encode())
                count += 1
    if not count:
        raise InputError("expected labels, or drawn lines whose height you stated, found none; state a height first")
    return written.getvalue()


def _copy_files(work: Work, decided: Mapping[str, Mapping[str, Decided]], archive: zipfile.ZipFile) -> int:
    """Copy the label files, revised where something was decided; returns their number."""
    files = work.given.files
    assert files is not None
    tiles_of: dict[int, set[str]] = {}
    for tile, file in work.given.file_of.items():
        tiles_of.setdefault(file, set()).add(tile)
    labels = [
        i for i, name in enumerate(files.names) if name.lower().endswith(SUFFIXES["labels"]) and not files.fault(i)
    ]
    for i in labels:
        touched = {tile: decided[tile] for tile in tiles_of.get(i, ()) if decided.get(tile)}
        data = files.read(i).tobytes()
        if touched:
            document = _revised_document(document_of(files, i), touched, work)
            data = json.dumps(document, ensure_ascii=False).encode()
        _write(archive, files.names[i], data)
    return len(labels)


def _revised_document(document: Any, decided: Mapping[str, Mapping[str, Decided]], work: Work) -> Any:
    """A VIA export or project with the decisions applied to its images."""
    entries = document.get("_via_img_metadata", document)
    for key, image in zip(list(entries), images_of(document), strict=True):
        number = work.number_of(read_tile(image, heights=False).filename)
        if number is not None and (lines := decided.get(work.images.names[number])):
            entries[key] = revised(image, lines, as_label=True)
    return document


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, STAMP)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    archive.writestr(member, data)
