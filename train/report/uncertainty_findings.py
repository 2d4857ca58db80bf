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

from dali_pipes.units import count, metres, number

from ..scores.calibrate import development_of
from ..scores.predictions import Predictions
from ..scores.uncertainty import HEIGHT_EDGES, LEVEL, LEVELS, Forecast, Uncertainty, bins, coverage_by_scene

CONSTANT = "with a constant σ"
FEWEST_SCENES = 10  # below this their coverage tells nothing of the promise, which one missed scene shifts by a tenth


@dataclass(frozen=True)
class Block:
    """Scores of several forecasts on the same samples: `rows` of (name, scores), a constant σ after its forecast."""

    group: str
    part: str
    """"all", "seen" or "unseen" scenes, or a bin of heights."""
    samples: int
    scenes: int
    optimistic: bool
    """Whether the best epoch was chosen on these samples."""
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
    """Of each block in a sentence, whether each forecast's σ beats a constant one, the RMSE, for the same means."""
    told = []
    for block in table:
        clauses = []
        for (name, ours), (_, bar) in zip(block.rows[::2], block.rows[1::2], strict=True):
            clauses.append(
                f"the σ of “{name}” {'beats' if ours.beats(bar) else 'does not beat'} a constant one "
                f"(NLL {number(ours.nll)} against {number(bar.nll)}, CRPS {metres(ours.crps)} against "
                f"{metres(bar.crps)})"
            )
        marked = " (optimistic: the best epoch was chosen on it)" if block.optimistic else ""
        told.append(f"On “{block.group}”{_SEEN.get(block.part, '')}{marked}, {'; '.join(clauses)}.")
    return told


def account(group: Predictions) -> list[str]:
    """What the figures of `group` show and do not show, for a reader who knows no statistics."""
    scenes = len(np.unique(group.table.scene))
    seen = "not trained on" if not group.seen.any() else "trained on" if group.seen.all() else "partly trained on"
    told = [f"These figures are of “{group.name}”: {count(len(group), 'sample')} of {count(scenes, 'scene')} {seen}."]
    said = group.pooled or group.calibrated
    if said is None or not said.conformal:
        return [
            *told,
            "No interval here was fitted on development scenes: each is what its Gaussian states, and none is promised "
            "to hold on a new scene.",
        ]
    if np.isfinite(said.intervals[LEVEL][1]).all():
        told += _held(group, said)
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
        told.append("The same scenes chose the best epoch, which makes these figures somewhat optimistic.")
    if development_of([group]) is not None:
        told.append("They also fitted the calibration, which does not flatter them: each was calibrated by the others.")
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


def _held(group: Predictions, said: Forecast) -> list[str]:
    """What the most refined 90 % intervals held of the heights, and whether that fits what they promise."""
    low, high = said.intervals[LEVEL]
    held = coverage_by_scene(group.table.height, (low, high), group.table.scene)
    scenes, mean = len(held), float(held.mean())
    name = f"the {'pooled' if group.pooled else 'calibrated'} {LEVEL:.0%} intervals"
    width = f"{metres(float(np.mean(high - low)))} wide on average"
    if scenes < FEWEST_SCENES:
        return [
            f"Here {name} are {width} and hold {mean:.0%} of the heights, on average over scenes. Errors of a scene go "
            f"together, so {count(scenes, 'scene')} cannot tell whether they keep their promise."
        ]
    told = (
        f"In each scene {name} hold {held.min():.0%} to {held.max():.0%} of the heights, on average over scenes "
        f"{mean:.0%}, and are {width}."
    )
    if mean + 2 * float(held.std()) / scenes**0.5 < LEVEL:
        return [
            told,
            f"That is less than the {LEVEL:.0%} they promise, by more than chance: these scenes are not like those "
            "that the intervals were fitted on, and of an acquisition like these no more is to be expected.",
        ]
    if group.seen.all():
        return [told, "The promise is of scenes not trained on, and of these nothing is known here."]
    return [
        f"{told} So of an acquisition like these, expect nine heights of ten or more within them on average over "
        "many acquisitions; within one, errors go together, and all of its heights may lie outside."
    ]


_SEEN = {"seen": ", scenes seen in training", "unseen": ", scenes not seen in training"}


def _beside_constants(group: Predictions) -> list[tuple[str, Forecast]]:
    height = group.table.height
    return [
        row for name, said in group.forecasts().items() for row in ((name, said), (CONSTANT, said.constant(height)))
    ]


def _block(group: Predictions, part: str, forecasts: Sequence[tuple[str, Forecast]]) -> Block:
    height, scene = group.table.height, group.table.scene
    rows = [(name, Uncertainty.of(height, said, scene)) for name, said in forecasts]
    return Block(group.name, part, len(group), len(np.unique(scene)), group.selection, rows)
