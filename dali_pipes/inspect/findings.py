"""What an inspection says in words: every sentence that depends on a figure, for the terminal and for the page.

A sentence is plain text, not markup of any kind.  The file names in it are other people's, and are shown by
`printable`: without the characters that would move a terminal's cursor or turn the direction of writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..samples.table import Split
from .audit import HALF_DIGIT, VERTEX_PX
from .comparison import Changed, Comparison, Label
from .inspection import Inspection
from .leakage import CRITERION

EXAMPLES = 3
LONGEST = 160  # characters of a name; a label's "filename" may be a megabyte


def headline(found: Inspection) -> str:
    """The release in one sentence: how much there is, and how much of it the audit flags."""
    labels = found.labels
    flagged = len(np.union1d(found.closed_form.flagged, [i for scene in found.scales for i in scene.flagged]))
    left_out = sum(len(table.left_out) for table in found.tables.values())
    verdict = f"the audit flags {count(flagged, 'height')}" if flagged else "the audit flags no height"
    return (
        f"{count(len(labels), 'polyline')} in {count(len(np.unique(labels.tile)), 'tile')} of"
        f" {count(len(np.unique(labels.scene)), 'scene')}; {verdict}, and {left_out:,} were left out."
    )


def missing_in_words(found: Inspection) -> list[str]:
    """Which split is not there."""
    return [f"{split} is missing: {printable(sentence, 10 * LONGEST)}" for split, sentence in found.missing.items()]


def left_out_in_words(found: Inspection) -> list[str]:
    """What is not in the tables, by split and reason, with examples."""
    sentences = []
    for split in found.tables:
        for reason, items in found.left_out(split).items():
            examples = _examples(item.file for item in items)
            sentences.append(f"{split}: left out {len(items):,} because {reason.value}, such as {examples}")
    return sentences or ["nothing was left out"]


def leakage_in_words(found: Inspection) -> list[str]:
    """What validation shares with training, and by which criterion."""
    leak = found.leakage
    if leak is None:
        return ["leakage cannot be told: it takes both splits"]
    sentences = [
        f"{leak.in_shared_scenes / leak.samples:.0%} of the validation samples lie in scenes that are also in training"
        f" ({len(leak.shared_scenes):,} of {count(leak.scenes, 'scene')})"
    ]
    if leak.shared_tiles:
        examples = _examples(leak.shared_tiles)
        sentences.append(f"file names that both splits have: {len(leak.shared_tiles):,}, such as {examples}")
    sentences.append(
        f"{len(leak.pairs):,} of {count(leak.samples, 'validation sample')} have a near-duplicate in training, where"
        f" coincidence alone would make about {leak.by_chance:.0f}; near-duplicates are of {CRITERION}"
    )
    return sentences


def closed_form_in_words(found: Inspection) -> list[str]:
    """How many heights deviate from the closed form, by split."""
    sentences = []
    for split in found.tables:
        of = found.labels.split == split
        known, off = int(found.closed_form.known[of].sum()), int(of[found.closed_form.flagged].sum())
        largest = np.abs(found.closed_form.deviation[of]).max(initial=0.0)
        without = f"; {of.sum() - known:,} lack gsd, roll or pitch" if known < of.sum() else ""
        sentences.append(
            f"{split}: {off:,} of {known:,} heights deviate from the closed form by more than their rounding"
            f" (± {HALF_DIGIT} m, and what the last digits of roll and pitch make);"
            f" the largest difference is {metres(largest, 3)} m{without}"
        )
    return sentences


def scales_in_words(found: Inspection) -> list[str]:
    """How many scenes have no constant scale, and what that means."""
    scenes = len(np.unique(found.labels.scene))
    sentences = [
        f"{len(found.scales):,} of {count(scenes, 'scene')} have a scale, height ÷ length, that is not constant: no one"
        f" scale gives all their heights to ± {HALF_DIGIT} m from polylines of whole pixels"
    ]
    if rounded := sum(scene.vertex_rounding for scene in found.scales):
        sentences.append(
            f"{rounded:,} of these would be constant had their heights been made before the vertices were rounded to"
            f" whole pixels (± {VERTEX_PX:.2f} px a segment)"
        )
    return sentences


def repeated_in_words(found: Inspection) -> list[str]:
    """How many polylines stand twice in one tile."""
    if not len(found.repeated):
        return []
    examples = _examples(found.labels.tile[found.repeated].tolist())
    return [f"polylines that repeat another of their own tile, and stay: {len(found.repeated):,}, such as {examples}"]


def changes_in_words(found: Inspection) -> list[str]:
    """What is new against the other release, by split."""
    if found.changes is None:
        return []
    sentences = [f"compared with {printable(found.changes.other)}"]
    sentences += [_change_in_words(split, comparison) for split, comparison in found.changes.splits.items()]
    sentences += [f"{split}: cannot be compared, not in this release" for split in found.missing]
    lacking = found.changes.missing.items()
    return sentences + [
        f"{split}: cannot be compared, not in the other release: {printable(why, 10 * LONGEST)}"
        for split, why in lacking
    ]


def _change_in_words(split: Split, changes: Comparison) -> str:
    if changes.nothing:
        pictures, labels = count(changes.pictures_same, "picture"), count(changes.labels_same, "label")
        return f"{split}: nothing changed in {pictures} and {labels}"
    pictures = _tally(changes.pictures_added, changes.pictures_removed, changes.pictures_changed, changes.pictures_same)
    labels = _tally(changes.labels_added, changes.labels_removed, changes.labels_changed, changes.labels_same)
    return f"{split}: pictures {pictures}; labels {labels}"


def change_in_words(change: Changed) -> str:
    """What a label said before, and what it says now."""
    return "; ".join(f"{what} {_said(change.before, what)} → {_said(change.after, what)}" for what in change.what)


def _said(label: Label, what: str) -> str:
    if what == "height":
        return f"{metres(label.height)} m"
    if what == "polyline":
        return " ".join(f"{x:g},{y:g}" for x, y in label.polyline)
    return " ".join("–" if value is None else f"{value:g}" for value in label.metadata)


def _tally(added: Sequence[object], removed: Sequence[object], changed: Sequence[object], same: int) -> str:
    return f"{len(added):,} added, {len(removed):,} removed, {len(changed):,} changed, {same:,} the same"


def count(n: int, noun: str) -> str:
    """`n` things by their noun: "1 scene", "2,000 scenes"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def metres(value: float, digits: int = 2) -> str:
    """A height as labels print it; one of 10⁹ m is shorter."""
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"


def printable(text: str, longest: int = LONGEST) -> str:
    """`text` on one line: what is no letter, sign or space becomes its escape, and a long one's middle becomes "…"."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _examples(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in list(dict.fromkeys(names))[:EXAMPLES])
