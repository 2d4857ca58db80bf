"""Figures of what an uncertainty is worth, each with its caption: of one group of samples, raw, calibrated and pooled.

1.  `reliability`: the share of heights that intervals hold, against the share that they promise.
2.  `by_scene`: the same for each scene by itself.
3.  `sparse`: the error of what is left when the least certain are left out.
4.  `errors`: RMSE by height, length and sensor.
5.  `pooling`: the error of a scene's scale against the number of polylines that it is pooled from.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from dali_pipes.geometry import polyline_length_px

from ..scores.metrics import CALIBRATED, NETWORK, POOLED, score
from ..scores.pooling import gain
from ..scores.predictions import Predictions
from ..scores.uncertainty import HEIGHT_EDGES, LEVEL, LEVELS, REMOVED, Forecast, bins, coverage_by_scene, sparsification
from .figures import LINE_COLOUR, SEEN_COLOUR, UNSEEN_COLOUR, blank, svg

COLOURS = {NETWORK: LINE_COLOUR, CALIBRATED: SEEN_COLOUR, POOLED: UNSEEN_COLOUR}
MARKERS = {NETWORK: "o", CALIBRATED: "s", POOLED: "D"}
LENGTH_EDGES = (40.0, 60.0, 80.0, 120.0)  # px
SENSORS_DRAWN = 6  # a release of other names may have as many as it likes
PERCENT = PercentFormatter(1, decimals=0)

Drawn = tuple[str, Markup]  # a caption and its figure


def uncertainty_figures(group: Predictions) -> list[Drawn]:
    """All figures of `group` that can be drawn, in their order."""
    figures = (reliability(group), by_scene(group), sparse(group), pooling(group), *errors(group))
    return [figure for figure in figures if figure is not None]


def reliability(group: Predictions) -> Drawn:
    """Share of heights within the central interval of N(mu, sigma²), against the share promised; markers: conformal."""
    figure, axes = blank(5.0, 4.4)
    promised = np.arange(5, 100, 5) / 100
    axes.plot([0, 1], [0, 1], color=LINE_COLOUR, linewidth=0.8, linestyle=":")
    height, scene = group.table.height, group.table.scene
    for name, said in group.forecasts().items():
        z = np.abs(height - said.mu) / said.sigma
        held = [np.mean(z <= NormalDist().inv_cdf((1 + level) / 2)) for level in promised]
        axes.plot(promised, held, color=COLOURS[name], linewidth=1.4, label=name)
        if said.conformal:
            kept = [level for level in LEVELS if np.isfinite(said.intervals[level][1]).all()]
            held = [coverage_by_scene(height, said.intervals[level], scene).mean() for level in kept]
            axes.plot(kept, held, MARKERS[name], color=COLOURS[name], markersize=5, markeredgecolor="white")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xlabel="promised share", ylabel="share of heights held")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    return (
        "Reliability: lines are the central intervals of each Gaussian, over samples; markers are the conformal "
        "intervals, over scenes. Above the diagonal an interval holds more than it promises.",
        svg(figure, f"Share of heights held against share promised, {group.name}", "reliability"),
    )


def by_scene(group: Predictions) -> Drawn:
    """Share of each scene's heights within its 90 % intervals, scenes in the order of that share."""
    figure, axes = blank(5.0, 4.4)
    for name, said in group.forecasts().items():
        held = np.sort(coverage_by_scene(group.table.height, said.intervals[LEVEL], group.table.scene))
        place = (np.arange(len(held)) + 0.5) / len(held)
        label = f"{name}: mean {held.mean():.0%}"
        axes.plot(place, held, f"{MARKERS[name]}-", color=COLOURS[name], markersize=3.5, linewidth=0.8, label=label)
    axes.axhline(LEVEL, color=LINE_COLOUR, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.04), xlabel="scenes, by their share", ylabel="share of a scene's heights held")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    return (
        f"Coverage by scene of the {LEVEL:.0%} intervals; of the network those of its Gaussian. The promise is "
        "of the mean over scenes, not of each: pooled, a scene is held or missed nearly as a whole.",
        svg(figure, f"Coverage by scene, {group.name}", "scenes"),
    )


def sparse(group: Predictions) -> Drawn:
    """RMSE of the samples that remain when those of largest σ are left out, and the best that any σ could do."""
    figure, axes = blank(5.0, 3.6)
    for name, said in group.forecasts().items():
        curve, oracle = sparsification(group.table.height, said.mu, said.sigma)
        axes.plot(REMOVED, curve, color=COLOURS[name], linewidth=1.4, label=name)
        axes.plot(REMOVED, oracle, color=COLOURS[name], linewidth=0.9, linestyle="--", alpha=0.7)
        axes.axhline(curve[0], color=COLOURS[name], linewidth=0.8, linestyle=":", alpha=0.7)
    axes.set(xlim=(0, 0.95), xlabel="share left out, largest σ first", ylabel="RMSE of the rest, m")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(PERCENT)
    figure.legend(loc="outside upper left", fontsize=9, frameon=False, ncols=3)
    return (
        "Sparsification: a σ that knows where the errors are falls towards the dashed line, which leaves out the "
        "largest errors themselves; a constant σ stays on the dotted one.",
        svg(figure, f"RMSE against the share of least certain samples left out, {group.name}", "sparsification"),
    )


def errors(group: Predictions) -> list[Drawn]:
    """RMSE by true height, polyline length and sensor."""
    table = group.table
    sensor = np.array([name.partition("_")[0] for name in table.scene.tolist()])
    names, counts = np.unique(sensor, return_counts=True)
    most = names[np.argsort(-counts, kind="stable")[:SENSORS_DRAWN]].tolist()
    return [
        _by("true height", bins(table.height, HEIGHT_EDGES, "m"), group),
        _by("polyline length", bins(polyline_length_px(table.polyline), LENGTH_EDGES, "px"), group),
        _by("sensor", [(name, sensor == name) for name in most], group),
    ]


def pooling(group: Predictions) -> Drawn | None:
    """Error of a scene's scale against the number of its polylines that are pooled; None without enough scenes."""
    if group.pooled is None:
        return None
    said = group.calibrated or Forecast.gaussian(group.mu, group.sigma)
    table, length = group.table, polyline_length_px(group.table.polyline)
    within_tile, between = group.shares
    numbers, measured, stated = gain(
        length, table.height, said.mu, said.sigma, table.tile, table.scene, (within_tile, between)
    )
    if len(numbers) < 2:
        return None
    figure, axes = blank(5.0, 3.6)
    axes.plot(numbers, 100 * measured, "D-", color=UNSEEN_COLOUR, markersize=4, linewidth=1.4, label="measured")
    axes.plot(numbers, 100 * stated, color=LINE_COLOUR, linewidth=1.2, linestyle="--", label="as σ states it")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="polylines pooled", ylabel="RMS error of a scene's scale, %", xticks=numbers)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", fontsize=9, frameon=False)
    return (
        f"Pooling: the scale (height ÷ length) of the same scenes, told by 1 to {numbers[-1]} of their polylines. "
        f"Of the variance of errors {within_tile:.0%} is taken to be common to the polylines of a tile, and of what a "
        f"tile then errs by, {between:.0%} to the tiles of a scene, which never averages out.",
        svg(figure, f"Error of the scale against the number of polylines pooled, {group.name}", "pooling"),
    )


def _by(what: str, parts: list[tuple[str, NDArray[np.bool_]]], group: Predictions) -> Drawn:
    """RMSE of each part, one dot a forecast."""
    figure, axes = blank(5.0, 3.0)
    places = np.arange(len(parts))
    for i, (name, said) in enumerate(group.forecasts().items()):
        rmse = [score(group.table.height[mask], said.mu[mask]).rmse for _, mask in parts]
        axes.plot(places + 0.16 * (i - 1), rmse, MARKERS[name], color=COLOURS[name], markersize=5, label=name)
    told = [f"{name}\n{mask.sum():,}" for name, mask in parts]
    axes.set(xlim=(-0.6, len(parts) - 0.4), ylabel="RMSE, m")
    axes.set_xticks(places, told, fontsize=8.5, parse_math=False)  # a sensor's name is somebody's, not a formula
    # Matplotlib's margin is a share of the spread, and cuts a marker in two where that is small.
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
    figure.legend(loc="outside upper left", fontsize=9, frameon=False, ncols=3)
    caption = f"RMSE by {what}, with the number of samples."
    if what == "true height":
        caption += " Any estimate that is not certain leans towards the middle, so that high chimneys come out too low."
    return caption, svg(figure, f"RMSE by {what}, {group.name}", what)
