"""The names that people give to the images and labels of each split, as one table of patterns.

A place is the path of a folder, or of an archive without its suffix. A pattern must match its last parts, in upper or
lower case. What a browser or a file manager adds to the name of a copy is allowed, as in `TS_KS (1).zip`, and so is an
archive's suffix on a folder.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from .paths import ROLES, SPLITS, Role, Split

LAYOUTS = (  # the first row that a place matches counts; the first one is AI Hub's own
    # training images, training labels, validation images, validation labels
    ("TS_KS", "TL_KS_LINE", "VS_KS", "VL_KS_LINE"),
    ("TS_KS", "TL_LINE", "VS_KS", "VL_LINE"),
    ("training_set", "tline_label", "validation_set", "vline_label"),
    ("images/train(ing)?", "lines/train(ing)?", "images/val(id(ation)?)?", "lines/val(id(ation)?)?"),
    ("images/train(ing)?", r"labels/train\w*", "images/val(id(ation)?)?", r"labels/val\w*"),
    ("train(ing)?/images", "train(ing)?/lines", "val(id(ation)?)?/images", "val(id(ation)?)?/lines"),
    ("train(ing)?/images", "train(ing)?/labels", "val(id(ation)?)?/images", "val(id(ation)?)?/labels"),
    ("train_data/KS", "train_data/KS_LINE", "val_data/KS", "val_data/KS_LINE"),
)
STEMS: dict[tuple[Split, Role], str] = dict(
    zip([(split, role) for split in SPLITS for role in ROLES], LAYOUTS[0], strict=True)
)
_COPY = r"(?:[ _]?\([0-9]{1,3}\)| [0-9]{1,2}|(?: -)?[ _](?:copy|복사본)(?: \(?[0-9]{1,3}\)?)?|의 사본)?(?:\.zip|\.tar)?"


class Match(NamedTuple):
    """How well a place matches a role: the smallest of several matches is used."""

    layout: int
    """Row of `LAYOUTS`."""
    inexact: bool
    """Whether it is a copy, or differs in upper and lower case."""
    depth: int
    """How many folders it is below the place of that name."""


@cache
def match(place: str, split: Split, role: Role, *, outermost: bool = False) -> Match | None:
    """Return how `place`, or otherwise the nearest folder above it that does, matches a role; None if none does.

    With `outermost`, the topmost folder that matches is used.
    """
    column = list(STEMS).index((split, role))
    parts = place.split("/")
    ends = range(len(parts), 0, -1)
    for layout, names in enumerate(LAYOUTS):
        name = f"(?:.*/)?{names[column]}"
        for end in reversed(ends) if outermost else ends:
            path = "/".join(parts[:end])
            if re.fullmatch(name + _COPY, path, re.IGNORECASE | re.DOTALL):
                return Match(layout, re.fullmatch(name, path, re.DOTALL) is None, len(parts) - end)
    return None


def is_role(name: str) -> bool:
    """Return whether an archive of this name, without its suffix, is named after any role."""
    return any(match(name, split, role) for split, role in STEMS)
