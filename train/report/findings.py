"""What the report says in words: every sentence that depends on a figure.

1.  `headline`: how far off the model is on the first samples, against a straight line in polyline length.
2.  `selection`: on which samples the best epoch was chosen, whose figures are optimistic for that.
3.  `scenes_seen` and `recognition`: how much of that is the recognition of scenes it was trained on.
4.  `honesty`: whether its σ says more than one constant would.
5.  `history_in_words`: how the training went.

A sentence is plain text, for the template to escape, and claims no more than its figures can show: it says when
all scenes were seen, when there are too few of them for an interval, and when a predictor is not the better one.
Below the sentences are their figures, and how numbers are spelt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dali_pipes.units import count, metres

from ..scores.metrics import Baselines, Float64, bootstrap_rmse, constant_sigma_nll, coverage, score
from ..scores.predictions import Predictions

FEWEST_SCENES = 10  # below this a bootstrap over scenes gives an interval that is too narrow to print


def headline(groups: Sequence[Predictions], baselines: Baselines) -> str:
    """How far off the model is on the first group, against a straight line in polyline length."""
    if not groups:
        return "No samples were evaluated."
    group = groups[0]
    network, line = group.rmse(), _line_rmse(group, baselines)
    if not math.isfinite(network):
        return f"The network's predictions for {group.name} are not all finite numbers: the training has failed."
    return (
        f"On the {count(len(group), 'sample')} of {group.name}{', which chose the best epoch,' * group.selection} the "
        f"network is off by {metres(network)} (RMSE), "
        f"{_against(network, line)} the {metres(line)} of a straight line in polyline length."
    )


def selection(groups: Sequence[Predictions]) -> str:
    """Which figures are optimistic, because the best epoch was chosen by them, and which are not."""
    chosen = next((group for group in groups if group.selection), None)
    if chosen is None:
        return ""
    others = [group for group in groups if not group.selection]
    scenes = count(len(np.unique(chosen.table.scene)), "scene")
    told = f"The best epoch was chosen on the {scenes} of “{chosen.name}”, so its figures there are optimistic"
    if not others:
        return f"{told}, and no samples are left that had no part in the choice."
    looked_at = " and ".join(f"“{group.name}”" for group in others)
    unseen = [group for group in others if not group.seen.all()]
    without = (
        ""
        if unseen
        else (" Of scenes that were neither trained on nor chosen by, nothing is known here: --split scene would tell.")
    )
    return f"{told}; {looked_at} had no part in the choice.{without}"


def scenes_seen(groups: Sequence[Predictions]) -> str:
    """Whether the scenes of each group were seen in training."""
    sentences = []
    for group in groups:
        scenes, seen = len(np.unique(group.table.scene)), len(np.unique(group.table.scene[group.seen]))
        if scenes == 1:
            told = f"The one scene in “{group.name}” was {'also' if seen else 'not'} trained on."
        elif seen == scenes:
            told = f"All {count(scenes, 'scene')} in “{group.name}” were also trained on."
        elif seen == 0:
            told = f"None of the {count(scenes, 'scene')} in “{group.name}” was trained on."
        else:
            told = f"Of the {count(scenes, 'scene')} in “{group.name}”, {seen:,} were also trained on."
        sentences.append(told)
    return " ".join(sentences)


def recognition(groups: Sequence[Predictions], baselines: Baselines) -> str:
    """How much of the result is the recognition of scenes, as far as the figures can tell."""
    seen, unseen = _seen_and_unseen(groups)
    if seen is None and unseen is None:
        return ""
    if unseen is None:
        return (
            "No scene outside the training was evaluated: these figures cannot tell how much of the result is "
            "recognition of the scene. Only scenes that were held out could."
        )
    if seen is None:
        flattered = ", but for the choice of the epoch, which flatters it" if unseen.selection else ""
        return (
            "So nothing here is recognition of a scene: this is what to expect of an acquisition never seen before"
            f"{flattered}."
        )
    gap, (low, high) = unseen.rmse() - seen.rmse(), _gap_interval(seen, unseen)
    compared = (
        f"On scenes it was trained on (“{seen.name}”) the network is off by {metres(seen.rmse())}, on scenes it was "
        f"not (“{unseen.name}”) by {metres(unseen.rmse())}, a difference of {metres(gap)}"
    )
    if math.isnan(low):
        certainty = f"fewer than {FEWEST_SCENES} scenes on a side: how much of it is chance cannot be told"
    else:
        certainty = f"95% interval over scenes {metres(low)} to {metres(high)}"
    if gap <= 0 or low <= 0:
        return f"{compared} ({certainty}): no recognition of scenes is visible in it."
    return (
        f"{compared} ({certainty}). It is {_against(seen.rmse(), _line_rmse(seen, baselines))} the straight line on "
        f"the former and {_against(unseen.rmse(), _line_rmse(unseen, baselines))} it on the latter: as far as the "
        "two are equally hard, that is what recognising the scene is worth. Of a new acquisition expect the latter."
    )


def honesty(group: Predictions) -> str:
    """Whether the model's σ says more than one constant would."""
    height = group.table.height
    model, rmse = score(height, group.mu, group.sigma).nll, group.rmse()
    constant = constant_sigma_nll(rmse)
    verdict = (
        "σ is worth having: the model's NLL of {:.2f} beats the {:.2f}"
        if model < constant
        else "σ is worse than a constant: the model's NLL of {:.2f} does not beat the {:.2f}"
    ).format(model, constant)
    return (
        f"On {group.name}{' (optimistic)' * group.selection}, {verdict} of a constant σ equal to its own RMSE of "
        f"{metres(rmse)}, and {coverage(height, group.mu, group.sigma):.0%} of the heights lie within 1 σ, "
        f"{coverage(height, group.mu, group.sigma, 2):.0%} within 2 σ (a Gaussian has 68% and 95%)."
    )


def history_in_words(history: Sequence[Mapping[str, Any]]) -> str:
    """The epochs in one line, as far as the history has figures for them."""
    epochs, rmse = series(history, "rmse")
    told = []
    if len(rmse):
        told.append(f"best RMSE {metres(rmse.min())} after epoch {epochs[rmse.argmin()]:.0f}")
    if len(speed := series(history, "samples_per_s")[1]):
        told.append(f"median {np.median(speed):,.0f} samples/s")
    if len(wait := series(history, "data_wait")[1]):
        told.append(f"{np.median(wait):.0%} of the time spent waiting for data")
    return "; ".join([count(len(history), "epoch"), *told]) + "."


def _seen_and_unseen(groups: Sequence[Predictions]) -> tuple[Predictions | None, Predictions | None]:
    """The two sides to compare: of all groups' seen parts the largest, and of their unseen parts the largest."""
    seen = max((group.select(group.seen) for group in groups), key=len, default=None)
    unseen = max((group.select(~group.seen) for group in groups), key=len, default=None)
    return seen or None, unseen or None  # an empty part is no side


def _gap_interval(seen: Predictions, unseen: Predictions) -> tuple[float, float]:
    """95 % interval of RMSE(unseen) − RMSE(seen) in metres, by bootstrap over scenes; NaN with too few scenes."""
    if min(len(np.unique(side.table.scene)) for side in (seen, unseen)) < FEWEST_SCENES:
        return math.nan, math.nan
    ours, theirs = (
        bootstrap_rmse(side.table.height, side.mu, side.table.scene, seed=seed)
        for seed, side in enumerate((unseen, seen))
    )
    low, high = np.quantile(ours - theirs, (0.025, 0.975))
    return float(low), float(high)


def _line_rmse(group: Predictions, baselines: Baselines) -> float:
    return score(group.table.height, baselines.linear(group.table.length)[0]).rmse


def series(history: Sequence[Mapping[str, Any]], key: str) -> tuple[Float64, Float64]:
    """Epochs and finite values of `key`, (E,) float64 each; an epoch without its number counts from 1."""
    pairs = [(entry.get("epoch", i), entry[key]) for i, entry in enumerate(history, 1) if entry.get(key) is not None]
    points = np.array(pairs, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _against(network: float, line: float) -> str:
    if not line > 0:  # two samples, or none: a line fits them exactly
        return "against"
    return f"{1 - network / line:.0%} under" if network < line else f"{network / line - 1:.0%} above"
