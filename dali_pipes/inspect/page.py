"""An inspection as one HTML file that asks nothing of the network: its sentences, tables, plots and pictures.

    write_page("release.html", inspect(paths))

The pictures are of what the audit flagged, the worst first, with the polyline outlined; only these are read and
decoded.  All names come from other people's files, and the template (page.html.j2) escapes them.  The same
release gives the same bytes.
"""

from __future__ import annotations

import base64
from itertools import count as numbers
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..errors import InputError
from ..files import write_text
from . import findings as findings
from .inspection import UNITS, Inspection

PICTURES = 12  # a section
PAIRS = 6
ROWS = 200  # of a table; --json has all
PICTURE_PX = 448  # the longer side of a picture in the page: sharp at twice its printed size, about 30 kB each
LONGEST = 2000  # characters of what the page shows of a text
LARGEST_PIXELS = 1 << 26  # of a picture that is decoded for the page: 200 MB


def write_page(path: str | Path, found: Inspection) -> None:
    """Write the page, replacing `path` only when the whole of it is written.  Raises InputError if it cannot be."""
    text = _template().render(
        found=found,
        findings=findings,
        UNITS=UNITS,
        ROWS=ROWS,
        **_pictures(found),
    )
    path = Path(path)
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"cannot write the page {path}: {error.strerror or error}; name another file") from None


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalised,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metres"] = lambda value: findings.metres(value).replace("-", "−")
    return environment.get_template("page.html.j2")


def _finalised(value: Any) -> Any:
    """What the page shows of a value: of a text that is no mark-up of ours, that which is printable."""
    return findings.printable(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def _pictures(found: Inspection) -> dict[str, Any]:
    """What the template shows of flagged tiles: lists of pictures, and pairs of them."""
    number = numbers(1)  # ids are unique in the page
    leak = found.leakage
    pairs = leak.pairs[:PAIRS].tolist() if leak is not None else []
    return {
        "off_formula": [_picture(found, i, next(number)) for i in found.closed_form.flagged[:PICTURES].tolist()],
        "off_scale": [
            (scene, _picture(found, int(scene.flagged[0]), next(number))) for scene in found.scales[:PICTURES]
        ],
        "alike": [[_picture(found, i, next(number)) for i in pair] for pair in pairs],
    }


def _picture(found: Inspection, i: int, number: int) -> dict[str, Any]:
    """What the template needs to show label `i`: the tile as a data-URI, the polyline in the tile's pixels."""
    labels = found.labels
    table, row = found.tables[labels.split[i]], labels.row[i]
    width, height = int(table.width[row]), int(table.height_px[row])
    return {
        "number": number,
        "uri": None if width * height > LARGEST_PIXELS else _jpeg_uri(found, i),
        "width": width,
        "height": height,
        "unit": max(width, height) / 512,
        "points": Markup(" ".join(f"{x:g},{y:g}" for x, y in table.polyline[row])),
        "base": table.polyline[row, 0].tolist(),
        "split": str(labels.split[i]),
        "tile": str(labels.tile[i]),
        "region": int(labels.region[i]),
        "label": float(labels.height[i]),
        "formula": float(labels.expected[i]),
        "off": float(found.closed_form.deviation[i]),
        "scale": float(labels.scale[i]),
    }


def _jpeg_uri(found: Inspection, i: int) -> Markup | None:
    """The tile of label `i`, decoded and made small for the page; None if it cannot be."""
    table = found.tables[found.labels.split[i]]
    try:
        image = _decoded(table.images.read(int(table.image[found.labels.row[i]])))
    except InputError:
        return None
    if image is None:
        return None
    shrink = min(1.0, PICTURE_PX / max(image.shape[:2]))
    size = [max(1, round(side * shrink)) for side in image.shape[1::-1]]
    encoded = cv2.imencode(
        ".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), (cv2.IMWRITE_JPEG_QUALITY, 80)
    )
    return Markup("data:image/jpeg;base64,") + base64.b64encode(encoded[1].tobytes()).decode("ascii")


def _decoded(data: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    try:
        return cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[return-value]
    except cv2.error:  # an empty file, or a size that OpenCV refuses
        return None
