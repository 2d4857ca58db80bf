"""What the HTML pages share: a template that escapes all it is given, and small pictures inside the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray


def template(path: Path, filters: Mapping[str, Any], show: Callable[[Any], Any] | None = None) -> jinja2.Template:
    """The jinja2 template in the file `path`, with `filters`; an unknown name in it is an error.

    `show`: applied to every value before it is printed and escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=show,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(path.name)


def jpeg_uri(data: NDArray[np.uint8], longest_px: int) -> str | None:
    """A JPEG file's bytes (n,) uint8 as the data URI of a thumbnail; None if OpenCV cannot decode them.

    The thumbnail's longer side has at most `longest_px` pixels.
    """
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or a size that OpenCV refuses
        return None
    if image is None:
        return None
    scale = min(1.0, longest_px / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 80))[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
