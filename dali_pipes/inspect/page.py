"""An inspection as one HTML file that works offline: its sections, plots, and pictures of what was flagged.

    write_page("release.html", inspect(paths))

Only the tiles that are shown are read and decoded, the worst of each section, with the polyline outlined. All names
come from other people's files, and the template (page.html.j2) escapes them. The same release gives the same bytes.
"""

from __future__ import annotations

from itertools import count as numbers
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..console import printable
from ..errors import InputError
from ..files import write_text
from ..pages.picture import tile
from ..pages.template import template
from ..units import number
from .findings import headline, missing_splits, sections
from .inspection import Inspection

PICTURES = 12  # of a section
PAIRS = 6
LONGEST = 2000  # characters of a text in the page


def write_page(path: str | Path, inspection: Inspection) -> None:
    """Write the page, whole or not at all. Raises InputError if it cannot be written."""
    text = template(Path(__file__).with_name("page.html.j2"), {}, _shown).render(
        title=inspection.release,
        headline=headline(inspection),
        missing=missing_splits(inspection),
        sections=sections(inspection),
        pictures=_pictures(inspection),
    )
    try:
        write_text(Path(path), text)
    except OSError as error:
        raise InputError(f"cannot write the page {path}: {error.strerror or error}; name another file") from None


def _shown(value: Any) -> Any:
    """A value as the page shows it: texts are made printable, except markup of our own."""
    return printable(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def _pictures(inspection: Inspection) -> dict[str, list[list[dict[str, Any]]]]:
    """The figures of each section by its name; a figure has one or two pictures."""
    ids = numbers(1)  # unique in the page
    labels, leak = inspection.labels, inspection.leakage

    def picture(i: int, *caption: tuple[str, str]) -> dict[str, Any]:
        return _picture(inspection, i, next(ids), caption)

    def height(i: int) -> str:
        return f"{number(labels.height[i])} m"

    pairs = leak.pairs[:PAIRS].tolist() if leak is not None else []
    return {
        "leakage": [[picture(i, (height(i), "")) for i in pair] for pair in pairs],
        "formula": [
            [picture(i, (height(i), " by the label"), (f"{number(labels.expected[i])} m", " by the formula"))]
            for i in inspection.closed_form.flagged[:PICTURES].tolist()
        ],
        "scale": [
            [
                picture(
                    i,
                    (height(i), f", {labels.scale[i]:.4g} m/px"),
                    (f"{scene.scale:.4g} m/px", f" in {scene.agreeing} of {scene.labels} labels"),
                )
            ]
            for scene in inspection.scales[:PICTURES]
            for i in (int(scene.flagged[0]),)
        ],
    }


def _picture(inspection: Inspection, i: int, serial: int, caption: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Label `i` for the template: its tile as a data URI, its polyline in the tile's pixels."""
    labels = inspection.labels
    table, row = inspection.tables[labels.split[i]], labels.row[i]
    polyline = table.polyline[row]
    return {
        **tile(lambda: table.images.read(int(table.image[row])), table.width[row], table.height_px[row], polyline),
        "label": f"Tile {labels.tile[i]}, polyline {labels.region[i]}, {caption[0][0]}",
        "serial": serial,
        "split": str(labels.split[i]),
        "name": str(labels.tile[i]),
        "region": int(labels.region[i]),
        "caption": caption,
    }
