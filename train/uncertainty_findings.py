"""What the report says of uncertainty: the blocks of its table, and a plain account of what its figures show.

1.  `telling`: the samples whose figures tell most of an acquisition never seen, drawn and spoken of.
2.  `blocks` and `height_blocks`: scores of each forecast beside its constant σ, by seen and unseen, and by height.
3.  `verdicts`: whether each forecast's σ beats a constant.
4.  `account`: what the figures of the telling samples show, and what they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .findings import count, metres, number
from .predictions import Predictions
from .uncertainty import HEIGHT_EDGES, LEVELS, Forecast, Uncertainty, bins, coverage_by_scene

CONSTANT = "with a constant σ"


@dataclass(frozen=True)
class Block:
    """Scores of several forecasts on the same samples: `rows` of (name, scores), a constant σ after its forecast."""

    group: str
    part: str
    """"all", "seen" or "unseen" scenes, or a bin of heights."""
    samples: int
    scenes: int
    rows: list[tuple[str, Uncertainty]]


def telling(groups: Sequence[Predictions]) -> Predictions | None:
    """The largest part of scenes not seen in training or, without one, the first group."""
    unseen = max((group.select(~group.seen) for group in groups), key=len, default=None)
    return unseen or next(iter(groups), None)


def blocks(groups: Sequence[Predictions]) -> list[Block]:
    """The table: each group, and its seen and unseen scenes where it has both."""
    table = []
    for group in groups:
        table.append(_block(group, "all", _beside_constants(group)))
        if group.seen.any() and not group.seen.all():
            parts = {"seen": group.select(group.seen), "unseen": group.select(~group.seen)}
            table += [_block(part, name, _beside_constants(part)) for name, part in parts.items()]
    return table


def height_blocks(group: Predictions) -> list[Block]:
    """The table of one group by true height.  The constant is the whole group's: within a bin it would be another."""
    height = group.table.height
    forecasts = group.forecasts()
    forecasts[CONSTANT] = list(forecasts.values())[-1].constant(height)
    return [
        _block(group.select(mask), name, [(who, said.select(mask)) for who, said in forecasts.items()])
        for name, mask in bins(height, HEIGHT_EDGES, "m")
    ]


def verdicts(table: Sequence[Block]) -> list[str]:
    """Of each block in a sentence, whether each forecast's σ beats the best constant for the same means."""
    told = []
    for block in table:
        clauses = []
        for (name, ours), (_, bar) in zip(block.rows[::2], block.rows[1::2], strict=True):
            clauses.append(
                f"the σ of “{name}” {'beats' if ours.beats(bar) else 'does not beat'} the best constant "
                f"(NLL {number(ours.nll)} against {number(bar.nll)}, CRPS {metres(ours.crps)} against "
                f"{metres(bar.crps)})"
            )
        told.append(f"On “{block.group}”{_SEEN.get(block.part, '')}, {'; '.join(clauses)}.")
    return told


def account(group: Predictions) -> list[str]:
    """What the figures of `group` show and do not show, for a reader who knows no statistics."""
    height, scene = group.table.height, group.table.scene
    scenes = len(np.unique(scene))
    seen = "not trained on" if not group.seen.any() else "trained on" if group.seen.all() else "partly trained on"
    told = [f"These figures are of “{group.name}”: {count(len(group), 'sample')} of {count(scenes, 'scene')} {seen}."]
    said = group.pooled or group.calibrated
    if said is None or not said.conformal:
        return [
            *told,
            "No interval here was fitted on development scenes: each is what its Gaussian states, and none is promised "
            "to hold on a new scene.",
        ]
    best = "the pooled 90% intervals" if group.pooled else "the calibrated 90% intervals"
    interval = said.intervals[0.9]
    if np.isfinite(interval[1]).all():
        held = coverage_by_scene(height, interval, scene)
        told.append(
            f"In each scene {best} hold {held.min():.0%} to {held.max():.0%} of the heights, on average over scenes "
            f"{held.mean():.0%}, and are {metres(float(np.mean(interval[1] - interval[0])))} wide on average. So of an "
            "acquisition like these, expect nine heights of ten within them on average over many acquisitions; within "
            "one, errors go together, and all of its heights may lie outside."
        )
    out_of_reach = [level for level in LEVELS if not np.isfinite(said.intervals[level][1]).all()]
    if out_of_reach:
        told.append(
            "No finite interval can be promised at "
            + " and ".join(f"{level:.0%}" for level in out_of_reach)
            + ": that takes at least "
            + " and ".join(str(round(level / (1 - level))) for level in out_of_reach)
            + " development scenes, whatever the network."
        )
    if group.selection:
        told.append(
            "The same scenes chose the best epoch, which makes these figures somewhat optimistic; that they also "
            "fitted the calibration does not, since each was calibrated by the others."
        )
    if group.pooled is not None:
        told.append(
            "Pooling lets the polylines of one acquisition tell of each other, and needs several of them; which tiles "
            "are of one acquisition it takes from their names."
        )
    told.append(
        "The figures do not show how the network does on sensors, regions or seasons that this release lacks, nor on "
        "polylines drawn less carefully than these, nor how far the labels are from the chimneys: where the closed "
        "form agrees with the labels, they follow their formula, which is no measurement. And it reads metadata, which "
        "the model may not."
    )
    return told


_SEEN = {"seen": ", scenes seen in training", "unseen": ", scenes not seen in training"}


def _beside_constants(group: Predictions) -> list[tuple[str, Forecast]]:
    height = group.table.height
    return [
        row for name, said in group.forecasts().items() for row in ((name, said), (CONSTANT, said.constant(height)))
    ]


def _block(group: Predictions, part: str, forecasts: Sequence[tuple[str, Forecast]]) -> Block:
    height, scene = group.table.height, group.table.scene
    rows = [(name, Uncertainty.of(height, said, scene)) for name, said in forecasts]
    return Block(group.name, part, len(group), len(np.unique(scene)), rows)
