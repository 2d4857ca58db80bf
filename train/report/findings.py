"""The sentences of the report: everything that depends on a score.

1.  `headline`: the error on the leading part, compared with a straight line in polyline length.
2.  `reference`: the reference's published figures, and whether they are comparable.
3.  `selection`: which groups have optimistic scores, because the best epoch was chosen on them.
4.  `scenes_seen` and `recognition`: how much of the result may come from recognising scenes of the training set.
5.  `network_sigma`: whether σ is better than a constant.
6.  `coverage`: what to expect of the intervals on a new scene.
7.  `history_in_words`: how the training went.

Every sentence is plain text, which the template escapes. It claims only what its numbers support: it says when all
scenes were seen, when there are too few scenes for an interval, and when a baseline is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dali_pipes.samples.splits import VALIDATION
from dali_pipes.units import count, metres

from ..scores.evaluation import Evaluation, Part
from ..scores.metrics import CALIBRATED, LINEAR, MIN_SCENES_FOR_INTERVAL, NETWORK, POOLED, Float64, bootstrap_rmse
from ..scores.uncertainty import LEVEL, LEVELS

OFFICIAL = (1323, 1006, 259)  # samples, tiles and scenes of AI Hub's validation split

LIMITS = (
    "The figures of this page do not show how the network does on sensors, regions or seasons that this release lacks, "
    "or on polylines drawn less carefully than these. They do not show how far the labels are from the real chimneys "
    "either: where the closed form agrees with the labels, the labels follow its formula and are no measurement."
)


def headline(evaluation: Evaluation) -> str:
    """The error on the leading part, compared with a straight line in polyline length."""
    part = evaluation.leading
    if part is None:
        return "No samples were evaluated."
    network, line = part.rmse(NETWORK), part.rmse(LINEAR)
    if not math.isfinite(network):
        return f"The network's predictions for {part.group} are not all finite numbers: the training has failed."
    return (
        f"On {samples_of(part)}{', which chose the best epoch,' * part.optimistic} the network is off by "
        f"{metres(network)} (RMSE), {_compared(network, line)} the {metres(line)} of a straight line in polyline "
        "length."
    )


def samples_of(part: Part) -> str:
    """How many samples a part has, of which scenes: "24 samples of 3 scenes not seen in training"."""
    seen = part.predictions.seen
    scenes = "seen in training" if seen.all() else "partly seen in training" if seen.any() else "not seen in training"
    return f"{count(len(part), 'sample')} of {count(part.scenes, 'scene')} {scenes}"


def samples(evaluation: Evaluation) -> str:
    """Which samples the columns of the short table are of."""
    shown = [part for part in (evaluation.leading, evaluation.second) if part is not None]
    if not shown:
        return ""
    first, *others = shown
    sentences = [f"{samples_of(first)}: {first.title}. {first.predictions.description}"]
    sentences += [f"Last column: {samples_of(part)}, {part.title}." for part in others]
    if any(part.optimistic for part in shown):
        sentences.append("‡ The best epoch was chosen on these samples.")
    return " ".join(sentences)


def reference(evaluation: Evaluation) -> str:
    """The published figures of the reference, and which of the figures here they are comparable with."""
    published = (
        "The published RMSE of the reference is 4.098 m, and 4.091 m after a linear correction that was fitted on the "
        "same samples"
    )
    theirs = "AI Hub's validation split, whose 259 scenes are all in the training split"
    same = [part for part in evaluation.groups if _is_official(part)]
    if same:
        return (
            f"{published}: {theirs}. Compare it with the {metres(same[0].rmse(NETWORK))} of “{same[0].group}” here. "
            "The reference has no published figures on unseen scenes, and none of MAE, bias and NLL in metres."
        )
    return (
        f"{published}: the 1,323 samples of {theirs}. No figures here are of these samples, so none is comparable "
        "with it."
    )


def _is_official(part: Part) -> bool:
    """Whether `part` is the whole validation split of the release, by its numbers of samples, tiles and scenes."""
    table = part.predictions.table
    sizes = len(part), len(np.unique(table.tile)), part.scenes
    return part.group == VALIDATION and sizes == OFFICIAL and bool(part.predictions.seen.all())


def selection(evaluation: Evaluation) -> str:
    """Which scores are optimistic, because the best epoch was chosen on these samples; "" if none are."""
    chosen = next((part for part in evaluation.groups if part.optimistic), None)
    if chosen is None:
        return ""
    others = [part for part in evaluation.groups if not part.optimistic]
    sentence = (
        f"The best epoch was chosen on the {count(chosen.scenes, 'scene')} of “{chosen.group}”, so its scores there "
        "are optimistic"
    )
    if not others:
        return f"{sentence}, and there are no other samples to check them on."
    independent = " and ".join(f"“{part.group}”" for part in others)
    if any(not part.predictions.seen.all() for part in others):
        return f"{sentence}; {independent} had no part in the choice."
    return (
        f"{sentence}; {independent} had no part in the choice. No scene here is both new to the network and "
        "independent of the choice: train with --split scene to measure that."
    )


def scenes_seen(evaluation: Evaluation) -> str:
    """Whether the scenes of each group were seen in training."""
    sentences = []
    for part in evaluation.groups:
        table, scenes = part.predictions.table, part.scenes
        seen = len(np.unique(table.scene[part.predictions.seen]))
        if scenes == 1:
            sentence = f"The one scene in “{part.group}” was {'also' if seen else 'not'} trained on."
        elif seen == scenes:
            sentence = f"All {count(scenes, 'scene')} in “{part.group}” were also trained on."
        elif seen == 0:
            sentence = f"None of the {count(scenes, 'scene')} in “{part.group}” was trained on."
        else:
            sentence = f"Of the {count(scenes, 'scene')} in “{part.group}”, {seen:,} were also trained on."
        sentences.append(sentence)
    return " ".join(sentences)


def recognition(evaluation: Evaluation) -> str:
    """How much of the result may come from recognising scenes; "" without predictions."""
    seen, unseen = evaluation.largest(seen=True), evaluation.largest(seen=False)
    if seen is None and unseen is None:
        return ""
    if unseen is None:
        return (
            "Every evaluated scene was trained on, so these scores cannot show how much of the result comes from "
            "recognising the scene. Only held-out scenes can."
        )
    if seen is None:
        caveat = ", except that the best epoch was chosen on them" if unseen.optimistic else ""
        return (
            "So recognising a scene cannot help here: expect similar errors on an acquisition never seen "
            f"before{caveat}."
        )
    errors = [side.rmse(NETWORK) for side in (seen, unseen)]
    gap, (low, high) = errors[1] - errors[0], _gap_interval(seen, unseen)
    comparison = (
        f"On scenes it was trained on (“{seen.group}”) the network is off by {metres(errors[0])}, on unseen scenes "
        f"(“{unseen.group}”) by {metres(errors[1])}, a difference of {metres(gap)}"
    )
    if math.isnan(low):
        certainty = f"fewer than {MIN_SCENES_FOR_INTERVAL} scenes on a side: too few to say how much of it is chance"
    else:
        certainty = f"95% interval over scenes {metres(low)} to {metres(high)}"
    if gap <= 0 or low <= 0:
        return f"{comparison} ({certainty}). This does not show that the network recognises scenes."
    return (
        f"{comparison} ({certainty}). It is {_compared(errors[0], seen.rmse(LINEAR))} the straight line on the former "
        f"and {_compared(errors[1], unseen.rmse(LINEAR))} it on the latter. If both are equally hard, the difference "
        "is the benefit of recognising the scene. On a new acquisition expect the larger error."
    )


def network_sigma(part: Part) -> str:
    """Whether the network's σ is better than one constant; "" without finite predictions."""
    if not part.uncertainty:
        return ""
    own, constant = part.uncertainty[NETWORK]
    verdict = (
        "σ is better than a constant: the NLL of {:.2f} is lower than the {:.2f}"
        if own.nll < constant.nll
        else "σ is worse than a constant: the NLL of {:.2f} is not lower than the {:.2f}"
    ).format(own.nll, constant.nll)
    return (
        f"On {part.group}{' (optimistic)' * part.optimistic}, {verdict} of a constant σ equal to the RMSE of "
        f"{metres(part.rmse(NETWORK))}. The network's intervals of "
        f"{' and '.join(f'{level:.0%}' for level in (0.5, 0.95))} hold "
        f"{' and '.join(f'{own.coverage[level]:.0%}' for level in (0.5, 0.95))} of the heights."
    )


def coverage(part: Part) -> list[str]:
    """What to expect of the intervals on a new scene, for a reader without statistics."""
    group = part.predictions
    forecast = group.pooled or group.calibrated
    if forecast is None or not forecast.conformal:
        return [
            "No interval here was fitted on development scenes. Each is that of the predicted Gaussian, and nothing "
            "guarantees its level on a new scene."
        ]
    scores, _ = part.uncertainty[POOLED if group.pooled else CALIBRATED]
    impossible = [level for level in LEVELS if not math.isfinite(scores.width[level])]
    sentences = [] if LEVEL in impossible else _coverage(part, scores.by_scene[LEVEL], scores.width[LEVEL])
    if impossible:
        levels = " and ".join(f"{level:.0%}" for level in impossible)
        scenes = " and ".join(str(round(level / (1 - level))) for level in impossible)
        sentences.append(
            f"There is no finite interval at {levels}: that takes at least {scenes} development scenes, whatever the "
            "network."
        )
    return sentences


def history_in_words(history: Sequence[Mapping[str, Any]]) -> str:
    """The training in one line, as far as the history has values."""
    epochs, rmse = series(history, "rmse")
    facts = [count(len(history), "epoch")]
    if len(rmse):
        facts.append(f"best RMSE {metres(rmse.min())} after epoch {epochs[rmse.argmin()]:.0f}")
    if len(speed := series(history, "samples_per_s")[1]):
        facts.append(f"median {np.median(speed):,.0f} samples/s")
    if len(wait := series(history, "data_wait")[1]):
        facts.append(f"{np.median(wait):.0%} of the time spent waiting for data")
    return "; ".join(facts) + "."


def series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[Float64, Float64]:
    """Epochs and finite values of `key`, (E,) float64 each; an epoch without a number is counted from 1."""
    pairs = [(entry.get("epoch", i), entry[key]) for i, entry in enumerate(history, 1) if entry.get(key) is not None]
    points = np.array(pairs, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _coverage(part: Part, covered: Float64, width: float) -> list[str]:
    """The share of each scene's heights within the intervals, `covered` (scenes,), and whether it fits their level."""
    scenes, mean = len(covered), float(covered.mean())
    intervals = f"the {'pooled' if part.predictions.pooled else 'calibrated'} {LEVEL:.0%} intervals"
    if scenes < MIN_SCENES_FOR_INTERVAL:
        return [
            f"Here {intervals} are {metres(width)} wide on average and hold {mean:.0%} of the heights, on average over "
            f"scenes. The errors within a scene are correlated, so {count(scenes, 'scene')} are too few to check the "
            "level."
        ]
    sentence = (
        f"In each scene {intervals} hold {covered.min():.0%} to {covered.max():.0%} of the heights, on average over "
        f"scenes {mean:.0%}, and are {metres(width)} wide."
    )
    if mean + 2 * float(covered.std()) / scenes**0.5 < LEVEL:
        return [
            sentence,
            f"That is less than their level of {LEVEL:.0%}, by more than chance: these scenes differ from those that "
            "the intervals were fitted on. Expect no more on an acquisition like these.",
        ]
    if part.predictions.seen.all():
        return [sentence, "The level is meant for scenes not trained on, and none was evaluated here."]
    return [
        f"{sentence} So on acquisitions like these, expect them to hold nine heights of ten on average. Within one "
        "acquisition the errors are correlated, and all of its heights may lie outside."
    ]


def _gap_interval(seen: Part, unseen: Part) -> tuple[float, float]:
    """95 % interval of RMSE(unseen) − RMSE(seen) in metres, by bootstrap over scenes; NaN with too few scenes."""
    if min(seen.scenes, unseen.scenes) < MIN_SCENES_FOR_INTERVAL:
        return math.nan, math.nan
    of_unseen, of_seen = (
        bootstrap_rmse(side.predictions.table.height, side.predictions.mu, side.predictions.table.scene, seed=seed)
        for seed, side in enumerate((unseen, seen))
    )
    low, high = np.quantile(of_unseen - of_seen, (0.025, 0.975))
    return float(low), float(high)


def _compared(network: float, line: float) -> str:
    if not line > 0:  # with two samples or fewer, the line may fit them exactly
        return "against"
    return f"{1 - network / line:.0%} under" if network < line else f"{network / line - 1:.0%} above"
