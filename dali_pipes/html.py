"""What the HTML pages share: base.html.j2, templates that escape all values, and pictures of tiles."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from .errors import InputError

TILE_PX = 448  # the longer side of a tile in a page: sharp at twice its printed size, about 30 kB each
LARGEST_PIXELS = 1 << 26  # of a tile that is decoded for a page: 200 MB


def template(path: Path, filters: Mapping[str, Any], show: Callable[[Any], Any] | None = None) -> jinja2.Template:
    """The jinja2 template in the file `path`, with `filters`; an unknown name in it is an error.

    `show`: applied to every value before it is printed and escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=show,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    environment.globals["POLICY"] = Markup(_POLICY)
    environment.template_class = _Page
    return environment.get_template(path.name)


_POLICY = "the policy is written here by _Page"


class _Page(jinja2.Template):
    """A template whose page may use only its own style sheets, scripts and pictures, whatever a name in it contains.

    Scripts are named by the hashes of those in the templates, style sheets by the hashes of those in the page, where
    figures have some, too (Content Security Policy Level 3). A script must therefore be the same in every page.
    """

    def render(self, *args: Any, **kwargs: Any) -> str:
        """The page, with its policy in place."""
        page, loader = super().render(*args, **kwargs), self.environment.loader
        assert loader is not None
        sources = [loader.get_source(self.environment, name)[0] for name in self.environment.list_templates(["j2"])]
        policy = (
            f"default-src 'none'; img-src data:; script-src {_hashes('script', *sources)}; style-src 'unsafe-inline';"
            f" style-src-elem {_hashes('style', page)}; style-src-attr 'unsafe-inline'; base-uri 'none'; form-action"
            " 'none'"
        )
        return page.replace(_POLICY, policy, 1)


def _hashes(tag: str, *pages: str) -> str:
    """The sources of a policy that permit the style or script elements of `pages`."""
    texts = [text for page in pages for text in re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.DOTALL)]
    return " ".join(dict.fromkeys(map(_hash, texts))) or "'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def tile(
    read: Callable[[], NDArray[np.uint8]], width: int, height: int, polyline: NDArray[np.float64]
) -> dict[str, Any]:
    """The values of tile.html.j2, without its `label` and its `serial`, a number that is unique in the page.

    `read` returns the JPEG file's bytes (n,) uint8 of the tile, `width` × `height` pixels; `polyline`: (P, 2) pixels,
    base first. A tile that is too large, or that cannot be read or decoded, has no picture.
    """
    try:
        uri = _jpeg_uri(read()) if int(width) * int(height) <= LARGEST_PIXELS else None
    except (InputError, cv2.error):  # cv2.error: an empty file, or a size that OpenCV refuses
        uri = None
    return {
        "uri": uri,
        "width": int(width),
        "height": int(height),
        "unit": max(width, height) / 512,
        "points": Markup(" ".join(f"{x:g},{y:g}" for x, y in polyline)),
        "base": polyline[0].tolist(),
    }


def _jpeg_uri(data: NDArray[np.uint8]) -> Markup | None:
    """A JPEG file's bytes as the data URI of a thumbnail; None if OpenCV cannot decode them."""
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        return None
    scale = min(1.0, TILE_PX / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 80))[1]
    return Markup("data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii"))
