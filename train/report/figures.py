"""The figures of the report, as inline SVG.

1.  `scatter`: predicted against true heights.
2.  `curves`: training loss and RMSE by epoch.
3.  `coverage_figures`: reliability, and coverage by scene.
4.  `errors`: RMSE by height, length, number of polylines in the scene, and sensor.

Several figures can be in one page: their ids do not collide, their styles do not leak, and the same input gives the
same bytes. Names of groups, tiles and scenes come from untrusted files, and matplotlib would parse them as formulas.
Therefore they appear only in captions and labels, which the template escapes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from dali_pipes.geometry import polyline_length_px
from dali_pipes.units import count

from ..scores.evaluation import Part
from ..scores.metrics import CALIBRATED, LINEAR, MEAN, NETWORK, POOLED, Float64, score
from ..scores.predictions import Predictions
from ..scores.uncertainty import LEVEL
from .findings import series

HEIGHT_EDGES = (60.0, 80.0, 100.0, 130.0, 180.0)  # metres: about a sixth of the samples in each bin
LENGTH_EDGES = (40.0, 60.0, 80.0, 120.0)  # px
SCENE_EDGES = (2, 4, 8)  # polylines
SENSORS_SHOWN = 6  # sensors are read from file names, and there may be any number of them
MOST_POINTS = 2000  # in a scatter: about 100 kB
DOT = 0.05  # metres: matplotlib drops segments without a length
MOST_BARS = 300  # beyond this many samples their bars hide the points

ACCENT, SECOND, THIRD, RULE, MUTED = "#0a5ca8", "#b34700", "#767d87", "#dde0e4", "#5c636d"
VARIABLES = {  # matplotlib's colours → those of style.css, which follow the dark mode
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
    RULE: "var(--rule)",
    MUTED: "var(--muted)",
    "#ffffff": "var(--paper)",
    "#000000": "currentColor",
}
COLOURS = {NETWORK: THIRD, CALIBRATED: ACCENT, POOLED: SECOND}
MARKERS = {NETWORK: "o", CALIBRATED: "s", POOLED: "D"}
PERCENT = PercentFormatter(1, decimals=0)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the page's fonts, searchable, and smaller
    "font.size": 10,
    "path.simplify": False,  # which drops the points of `scatter`
    "axes.prop_cycle": cycler(color=[ACCENT, SECOND, THIRD, "#2e7d4f", "#7a4fa3", "#a3324a"]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": THIRD,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": MUTED,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}
WIDTH = 4.4  # inches: on a phone, 10 points of text are then 11 pixels

Captioned = tuple[str, Markup]  # a caption and its figure


def scatter(parts: Sequence[Part]) -> Captioned:
    """Predicted against true heights; a part with unseen scenes and one with seen scenes have two colours."""
    figure, axes = blank_figure(4.2)
    drawn = [_thinned(part.predictions) for part in parts]
    finite = [values[np.isfinite(values)] for group in drawn for values in (group.table.height, group.mu)]
    top = 1.05 * float(np.max(np.concatenate(finite)))
    axes.plot([0, top], [0, top], color=THIRD, linewidth=0.8, zorder=1)
    for seen, colour, cap in ((True, ACCENT, "round"), (False, SECOND, "projecting")):
        for group, part in zip(drawn, parts, strict=True):
            if not (mask := group.seen == seen).any():
                continue
            x, y, bar = group.table.height[mask], group.mu[mask], group.sigma[mask] * (len(group) <= MOST_BARS)
            # One broken path for all points, and one for all bars: a fifth of the bytes of markers.
            bars, points = (_segments(x, y - end, y + end) for end in (bar, np.full_like(x, DOT)))
            axes.plot(*bars, color=colour, linewidth=0.5, alpha=0.4, zorder=2)
            axes.plot(*points, color=colour, linewidth=3, alpha=0.75, solid_capstyle=cap, zorder=3)
            where = "scenes seen in training" if seen else "scenes not seen"
            axes.plot(
                [], [], "o" if seen else "s", color=colour, label=f"{where} ({np.sum(part.predictions.seen == seen):,})"
            )
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal", xlabel="true height, m", ylabel="predicted height, m")
    figure.legend(loc="outside upper left", fontsize=10, frameon=False, handletextpad=0.1)
    caption = "On the line, prediction and true height are equal."
    if any(len(group) <= MOST_BARS for group in drawn):
        caption += " Bars are ± 1 σ."
    if any(len(group) < len(part) for group, part in zip(drawn, parts, strict=True)):
        caption += f" A random choice of {MOST_POINTS:,} samples is drawn."
    samples = count(sum(map(len, parts)), "sample")
    return caption, to_svg(figure, f"Predicted against true height of {samples}", "scatter")


def _thinned(group: Predictions) -> Predictions:
    """At most `MOST_POINTS` samples of `group`, drawn at random with a fixed seed."""
    if len(group) <= MOST_POINTS:
        return group
    rows = np.random.default_rng(0).permutation(len(group))[:MOST_POINTS]
    return group.select(np.isin(np.arange(len(group)), rows))


def _segments(x: Float64, low: Float64, high: Float64) -> tuple[Float64, Float64]:
    """Vertical segments as one path with gaps: its x and y, (3·N,) each."""
    gap = np.full_like(x, np.nan)
    return np.stack([x, x, gap], 1).ravel(), np.stack([low, high, gap], 1).ravel()


def curves(history: Sequence[Mapping[str, Any]], measured_on: Part | None) -> list[Captioned]:
    """Training loss and RMSE by epoch. A figure without values in the history is skipped.

    `measured_on`: the group that the history's RMSE was measured on, for its name and its baselines.
    """
    figures = []
    epochs, loss = series(history, "train_loss")
    if len(loss):
        figure, axes = blank_figure(3.0)
        axes.plot(epochs, loss, "o-", color=THIRD, markersize=2.5, linewidth=1.2)
        axes.set(xlabel="epoch", ylabel="training loss (normalised)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        alt = f"Training loss by epoch, from {loss[0]:.3g} to {loss[-1]:.3g}"
        figures.append(("Training loss of the normalised target.", to_svg(figure, alt, "loss")))
    epochs, rmse = series(history, "rmse")
    if len(rmse):
        figure, axes = blank_figure(3.0)
        axes.plot(epochs, rmse, "o-", color=ACCENT, markersize=2.5, linewidth=1.2, label=NETWORK)
        axes.plot(epochs[rmse.argmin()], rmse.min(), "o", color=ACCENT, markersize=6, fillstyle="none")
        if measured_on is not None and len(measured_on):
            for name, dashes in ((LINEAR, "--"), (MEAN, ":")):
                level = measured_on.rmse(name)
                axes.axhline(level, color=THIRD, linestyle=dashes, linewidth=1, label=f"{name}, {level:.1f} m")
        _axes_of_epochs(axes)
        figure.legend(loc="outside upper left", fontsize=10, frameon=False, ncols=2)  # inside, it would cover a line
        where = f" on {measured_on.group}" if measured_on is not None else ""
        caption = f"RMSE{where}, logarithmic; the ring marks the best epoch."
        figures.append((caption, to_svg(figure, f"RMSE by epoch, best {rmse.min():.2f} m", "rmse")))
    return figures


def rmse_by_epoch(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """RMSE in metres by epoch, one line per run (by name), on the samples that chose the best epoch of the run."""
    figure, axes = blank_figure(4.0, width=6.0)
    lines = [axes.plot(*series(run, "rmse"), "o-", markersize=2.5, linewidth=1.2)[0] for run in histories.values()]
    _axes_of_epochs(axes)
    legend = figure.legend(lines, map(str, range(len(lines))), loc="outside upper left", frameon=False, ncols=2)
    for text, name in zip(legend.get_texts(), histories, strict=True):  # a legend would read $ as a formula, and skip _
        text.set_parse_math(False)
        text.set_text(name)
    return figure


def _axes_of_epochs(axes: Axes) -> None:
    """Whole epochs, and the RMSE in metres on a logarithmic axis with plain numbers."""
    axes.set(xlabel="epoch", ylabel="RMSE, m", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(_locator(axes))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _locator(axes: Axes) -> Locator:
    """1, 2, 5, 10, … where the axis has at least two of them, else round steps as on a linear axis."""
    low, high = axes.get_ylim()
    decades = [digit * 10.0**power for power in range(-6, 13) for digit in (1, 2, 5)]
    return LogLocator(subs=(1, 2, 5)) if sum(low <= value <= high for value in decades) > 1 else MaxNLocator(5)


def blank_figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """An empty figure of `width` × `height` inches, made without pyplot and its global state."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def to_svg(figure: Figure, alt: str, salt: str) -> Markup:
    """`figure` as an SVG element that can share a page with others; the same figure gives the same bytes."""
    buffer = io.StringIO()
    omitted = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{salt} {alt}"}):
        figure.savefig(buffer, format="svg", dpi=200, transparent=True, metadata=omitted)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # unused, and not unique in a page: ids count per figure
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # style.css has it
    text = re.sub("#[0-9a-f]{6}", lambda colour: VARIABLES[colour[0]], text)
    label = Markup('<svg class="plot" role="img" aria-label="{}" ').format(alt)
    return label + Markup(text.removeprefix("<svg "))


# --- Uncertainty.


def coverage_figures(part: Part) -> list[Captioned]:
    """Reliability, and coverage by scene."""
    return [reliability(part), scene_coverage(part)]


def reliability(part: Part) -> Captioned:
    """Share of heights within the central interval of N(mu, sigma²) against its level; markers: conformal intervals."""
    figure, axes = blank_figure(3.8)
    levels = np.arange(5, 100, 5) / 100
    axes.plot([0, 1], [0, 1], color=THIRD, linewidth=0.8, linestyle=":")
    for name, forecast in part.predictions.forecasts().items():
        z = np.abs(part.predictions.table.height - forecast.mu) / forecast.sigma
        covered = [float(np.mean(z <= NormalDist().inv_cdf((1 + level) / 2))) for level in levels]
        axes.plot(levels, covered, color=COLOURS[name], linewidth=1.4, label=name)
        if forecast.conformal:
            scores, _ = part.uncertainty[name]
            finite = [level for level, width in scores.width.items() if np.isfinite(width)]
            covered = [scores.scene_coverage[level] for level in finite]
            axes.plot(finite, covered, MARKERS[name], color=COLOURS[name], markersize=5, markeredgecolor="white")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", xlabel="level", ylabel="share of heights held")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="upper left", fontsize=10, frameon=False)
    return (
        "Reliability: lines are the central intervals of each Gaussian, over samples; markers are the conformal "
        "intervals, over scenes. Above the diagonal an interval holds more heights than its level.",
        to_svg(figure, f"Share of heights held against the level, {part.group}", "reliability"),
    )


def scene_coverage(part: Part) -> Captioned:
    """Share of each scene's heights within its 90 % intervals, in ascending order."""
    figure, axes = blank_figure(3.8)
    for name, (scores, _) in part.uncertainty.items():
        covered = np.sort(scores.by_scene[LEVEL])
        x = (np.arange(len(covered)) + 0.5) / len(covered)
        label = f"{name}: mean {covered.mean():.0%}"
        axes.plot(x, covered, f"{MARKERS[name]}-", color=COLOURS[name], markersize=3.5, linewidth=0.8, label=label)
    axes.axhline(LEVEL, color=THIRD, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.04), xlabel="scenes, by their share", ylabel="share of a scene's heights held")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="lower right", fontsize=10, frameon=False)
    return (
        f"Coverage by scene of the {LEVEL:.0%} intervals; the network's are those of its Gaussian. The level "
        "applies to the mean over scenes, not to each: after pooling, a scene is held or missed nearly as a whole.",
        to_svg(figure, f"Coverage by scene, {part.group}", "scenes"),
    )


def errors(group: Predictions) -> list[Captioned]:
    """RMSE by true height, polyline length, number of polylines in the scene, and sensor."""
    table = group.table
    sensor = np.array([name.partition("_")[0] for name in table.scene.tolist()])
    names, counts = np.unique(sensor, return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")[:SENSORS_SHOWN]].tolist()
    return [
        _rmse_by("true height", bins(table.height, HEIGHT_EDGES, "m"), group),
        _rmse_by("polyline length", bins(polyline_length_px(table.polyline), LENGTH_EDGES, "px"), group),
        _rmse_by("polylines in the scene", bins_of_scenes(table.scene), group),
        _rmse_by("sensor", [(name, sensor == name) for name in shown], group),
    ]


def bins(values: Float64, edges: Sequence[float], unit: str) -> list[tuple[str, NDArray[np.bool_]]]:
    """The non-empty bins of `values` (N,) between `edges`: names, such as "60–80 m", and masks (N,)."""
    which = np.searchsorted(edges, values, side="right")
    middle = (f"{low:g}–{high:g}" for low, high in pairwise(edges))
    names = [f"under {edges[0]:g}", *middle, f"from {edges[-1]:g}"]
    return [(f"{name} {unit}", which == i) for i, name in enumerate(names) if (which == i).any()]


def bins_of_scenes(scene: NDArray[np.str_]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Samples (N,) by the number of polylines that their scene has among them: names, such as "2–3", and masks (N,)."""
    _, group, counts = np.unique(scene, return_inverse=True, return_counts=True)
    names = ("1", "2–3", "4–7", "8 or more")
    which = np.searchsorted(SCENE_EDGES, counts[group], side="right")
    return [(name, which == i) for i, name in enumerate(names) if (which == i).any()]


def _rmse_by(quantity: str, parts: list[tuple[str, NDArray[np.bool_]]], group: Predictions) -> Captioned:
    """RMSE of each part, one marker per forecast."""
    figure, axes = blank_figure(3.0)
    x = np.arange(len(parts))
    for i, (name, forecast) in enumerate(group.forecasts().items()):
        rmse = [score(group.table.height[mask], forecast.mu[mask]).rmse for _, mask in parts]
        axes.plot(x + 0.16 * (i - 1), rmse, MARKERS[name], color=COLOURS[name], markersize=5, label=name)
    labels = [f"{name}\n{mask.sum():,}" for name, mask in parts]
    axes.set(xlim=(-0.6, len(parts) - 0.4), ylabel="RMSE, m")
    axes.set_xticks(x, labels, fontsize=9, parse_math=False)  # a sensor's name comes from a file and is not a formula
    # Matplotlib's margin is a share of the range. If the range is small, it clips a marker.
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
    figure.legend(loc="outside upper left", fontsize=10, frameon=False, ncols=2)
    caption = f"RMSE by {quantity}, with the number of samples."
    if quantity == "true height":
        caption += " An uncertain estimate leans towards the mean, so the heights of tall chimneys come out too low."
    if quantity == "polylines in the scene" and group.pooled:
        caption += " Pooled heights use all polylines of the scene, so pooling changes nothing where there is one."
    return caption, to_svg(figure, f"RMSE by {quantity}, {group.name}", quantity)
