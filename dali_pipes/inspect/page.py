"""An inspection as one HTML file that works offline: what was flagged, then the sections with their plots.

    write_page("release.html", inspect(paths))

Each flagged label is shown once, with its reasons and its tile, and all of them are in a list to copy. Only the tiles
that are shown are read and decoded. All names come from other people's files, and the template (page.html.j2) escapes
them. The same release gives the same bytes.
"""

from __future__ import annotations

from itertools import count as numbers
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..console import printable
from ..errors import InputError
from ..files import write_text
from ..pages.picture import tile
from ..pages.template import template
from ..units import count, number
from .findings import Flagged, Table, flagged, headline, missing_splits, sections
from .inspection import Inspection

PICTURES = 24  # of flagged tiles
LISTED = 2000  # flagged labels in the list to copy
PAIRS = 6
LONGEST = 2000  # characters of a text in the page
ORDER = ("formula", "scale", "leakage", "skipped", "changes", "contents", "distributions")
SHORT = {
    "formula": "Closed form",
    "scale": "Scales",
    "leakage": "Shared with training",
    "skipped": "Skipped",
    "contents": "Contents",
}
"""The name of a section → its name in the line of contents, if that is shorter than its title."""


def write_page(path: str | Path, inspection: Inspection) -> None:
    """Write the page, whole or not at all. Raises InputError if it cannot be written."""
    serials = numbers(1)  # unique in the page
    suspicious = flagged(inspection)
    shown = sorted(sections(inspection), key=lambda section: ORDER.index(section.name))
    text = template(Path(__file__).with_name("page.html.j2"), {}, _shown).render(
        title=inspection.release,
        headline=headline(inspection),
        notices=[_sentence(text) for text in missing_splits(inspection)],
        contents=[
            ("flagged", "Flagged labels"),
            *((section.name, SHORT.get(section.name, section.title)) for section in shown),
        ],
        flagged=[_picture(inspection, item.row, next(serials), item.reasons) for item in suspicious[:PICTURES]],
        more=max(0, len(suspicious) - PICTURES),
        copied=Markup.escape("\n".join(_line(inspection, item) for item in suspicious[:LISTED])),
        lines=min(len(suspicious), LISTED),
        unlisted=max(0, len(suspicious) - LISTED),
        sections=shown,
        pairs=_pairs(inspection, serials),
        count=count,
        sentence=_sentence,
        heads=_heads,
    )
    try:
        write_text(Path(path), text)
    except OSError as error:
        raise InputError(f"cannot write the page {path}: {error.strerror or error}; name another file") from None


def _shown(value: Any) -> Any:
    """A value as the page shows it: texts are made printable, except markup of our own."""
    return printable(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _heads(table: Table) -> list[list[tuple[str, int, bool]]]:
    """The rows above a table: text, number of columns, and whether they have numbers.

    Columns whose names begin with the same line, such as "train", have one head above them.
    """
    pairs = [(*column.rpartition("\n")[::2], i >= table.texts) for i, column in enumerate(table.columns)]
    above = [(text, len(list(group)), bool(text)) for text, group in groupby(text for text, _, _ in pairs)]
    below = [(text, 1, is_number) for _, text, is_number in pairs]
    return [above, below] if any(text for text, _, _ in above) else [below]


def _line(inspection: Inspection, item: Flagged) -> str:
    """A flagged label in the list to copy: split, tile, region and reasons, with tabs between them."""
    labels = inspection.labels
    place = labels.split[item.row], labels.tile[item.row], labels.region[item.row]
    return "\t".join([*(printable(str(value), LONGEST) for value in place), *item.reasons])


def _pairs(inspection: Inspection, serials: Any) -> list[list[dict[str, Any]]]:
    """The pictures of near-duplicates: of validation and of training."""
    pairs = inspection.leakage.pairs[:PAIRS].tolist() if inspection.leakage is not None else []
    heights = inspection.labels.height
    return [[_picture(inspection, i, next(serials), [f"{number(heights[i])} m"]) for i in pair] for pair in pairs]


def _picture(inspection: Inspection, i: int, serial: int, caption: list[str]) -> dict[str, Any]:
    """Label `i` for the template: its tile as a data URI, its polyline in the tile's pixels."""
    labels = inspection.labels
    table, row = inspection.tables[labels.split[i]], labels.row[i]
    polyline = table.polyline[row]
    return {
        **tile(lambda: table.images.read(int(table.image[row])), table.width[row], table.height_px[row], polyline),
        "label": f"Tile {labels.tile[i]}, polyline {labels.region[i]}: {'; '.join(caption)}",
        "serial": serial,
        "split": str(labels.split[i]),
        "name": str(labels.tile[i]),
        "region": int(labels.region[i]),
        "caption": caption,
    }
