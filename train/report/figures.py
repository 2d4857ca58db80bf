"""The figures of the report, as inline SVG.

1.  `scatter`: predicted against true heights of one group.
2.  `curves`: training loss and RMSE by epoch, each with its caption.
3.  `uncertainty_figures`: reliability, coverage by scene, RMSE by height, length and sensor.

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
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
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
SENSORS_SHOWN = 6  # sensors are read from file names, and there may be any number of them
VECTOR_POINTS = 3000  # beyond this many samples a scatter is smaller as pixels than as SVG

SEEN_COLOUR, UNSEEN_COLOUR, LINE_COLOUR = "#0072B2", "#D55E00", "#6b7280"  # distinct for colour-blind readers too
COLOURS = {NETWORK: LINE_COLOUR, CALIBRATED: SEEN_COLOUR, POOLED: UNSEEN_COLOUR}
MARKERS = {NETWORK: "o", CALIBRATED: "s", POOLED: "D"}
PERCENT = PercentFormatter(1, decimals=0)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the page's fonts, searchable, and smaller
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
}

Captioned = tuple[str, Markup]  # a caption and its figure


def scatter(group: Predictions) -> Markup:
    """Predicted heights with their σ against true heights; seen and unseen scenes in two colours."""
    figure, axes = blank_figure(5.0, 4.7)
    height, mu, sigma = group.table.height, group.mu, group.sigma
    top = 1.05 * float(np.max(np.concatenate([height, mu[np.isfinite(mu)]])))
    axes.plot([0, top], [0, top], color=LINE_COLOUR, linewidth=0.8, zorder=1)
    pixels = len(group) > VECTOR_POINTS
    for mask, colour, marker, label in (
        (group.seen, SEEN_COLOUR, "o", "scene seen in training"),
        (~group.seen, UNSEEN_COLOUR, "D", "scene not seen"),
    ):
        if not mask.any():
            continue
        x, y, bar = height[mask], mu[mask], sigma[mask]
        gap = np.full_like(x, np.nan)  # one broken path for all bars: a fifth of the bytes
        bars_x, bars_y = np.stack([x, x, gap], 1).ravel(), np.stack([y - bar, y + bar, gap], 1).ravel()
        axes.plot(bars_x, bars_y, color=colour, linewidth=0.4, alpha=0.4, zorder=2, rasterized=pixels)
        axes.plot(
            x, y, marker, color=colour, markersize=2.4, markeredgewidth=0, alpha=0.75, zorder=3, rasterized=pixels,
            label=f"{label} ({mask.sum():,})",
        )  # fmt: skip
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal", xlabel="true height, m", ylabel="predicted height ± σ, m")
    axes.legend(loc="upper left", markerscale=2, frameon=False)
    return to_svg(figure, f"Predicted against true height of {count(len(group), 'sample')}, {group.name}", "scatter")


def curves(history: Sequence[Mapping[str, Any]], measured_on: Part | None) -> list[Captioned]:
    """Training loss and RMSE by epoch. A figure without values in the history is skipped.

    `measured_on`: the group that the history's RMSE was measured on, for its name and its baselines.
    """
    figures = []
    epochs, loss = series(history, "train_loss")
    if len(loss):
        figure, axes = blank_figure(5.0, 3.3)
        axes.plot(epochs, loss, "o-", color=LINE_COLOUR, markersize=2.5, linewidth=1.2)
        axes.set(xlabel="epoch", ylabel="training loss (normalised)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        alt = f"Training loss by epoch, from {loss[0]:.3g} to {loss[-1]:.3g}"
        figures.append(("Training loss of the normalised target.", to_svg(figure, alt, "loss")))
    epochs, rmse = series(history, "rmse")
    if len(rmse):
        figure, axes = blank_figure(5.0, 3.3)
        axes.plot(epochs, rmse, "o-", color=SEEN_COLOUR, markersize=2.5, linewidth=1.2, label=NETWORK)
        axes.plot(epochs[rmse.argmin()], rmse.min(), "o", color=SEEN_COLOUR, markersize=6, fillstyle="none")
        if measured_on is not None and len(measured_on):
            for name, dashes in ((LINEAR, "--"), (MEAN, ":")):
                level = measured_on.rmse(name)
                axes.axhline(level, color=LINE_COLOUR, linestyle=dashes, linewidth=1, label=f"{name}, {level:.1f} m")
        axes.set(xlabel="epoch", ylabel="RMSE, m", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        figure.legend(loc="outside upper left", fontsize=9, frameon=False, ncols=2)  # inside, it would cover a line
        where = f" on {measured_on.group}" if measured_on is not None else ""
        caption = f"RMSE{where}, logarithmic; the ring marks the best epoch."
        figures.append((caption, to_svg(figure, f"RMSE by epoch, best {rmse.min():.2f} m", "rmse")))
    return figures


def rmse_by_epoch(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """RMSE in metres by epoch, one line per run (by name), on the samples that choose the best epoch of the run."""
    figure, axes = blank_figure(6.0, 4.0)
    lines = [axes.plot(*series(run, "rmse"), "o-", markersize=2.5, linewidth=1.2)[0] for run in histories.values()]
    axes.set(xlabel="epoch", ylabel="RMSE on the samples that choose the epoch, m", yscale="log")
    legend = axes.legend(lines, map(str, range(len(lines))), frameon=False)
    for text, name in zip(legend.get_texts(), histories, strict=True):  # a legend would read $ as a formula, and skip _
        text.set_parse_math(False)
        text.set_text(name)
    return figure


def blank_figure(width: float, height: float) -> tuple[Figure, Axes]:
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
    text = text.replace("*{", ".plot *{")  # the style must not leak into the page
    label = Markup('<svg class="plot" role="img" aria-label="{}" ').format(alt)
    return label + Markup(text.removeprefix("<svg "))


# --- Uncertainty.


def uncertainty_figures(part: Part) -> list[Captioned]:
    """The uncertainty figures of `part`, in the order in which they are shown."""
    return [reliability(part), scene_coverage(part), *errors(part.predictions)]


def reliability(part: Part) -> Captioned:
    """Share of heights within the central interval of N(mu, sigma²) against its level; markers: conformal intervals."""
    figure, axes = blank_figure(5.0, 4.4)
    levels = np.arange(5, 100, 5) / 100
    axes.plot([0, 1], [0, 1], color=LINE_COLOUR, linewidth=0.8, linestyle=":")
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
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    return (
        "Reliability: lines are the central intervals of each Gaussian, over samples; markers are the conformal "
        "intervals, over scenes. Above the diagonal an interval holds more heights than its level.",
        to_svg(figure, f"Share of heights held against the level, {part.group}", "reliability"),
    )


def scene_coverage(part: Part) -> Captioned:
    """Share of each scene's heights within its 90 % intervals, in ascending order."""
    figure, axes = blank_figure(5.0, 4.4)
    for name, (scores, _) in part.uncertainty.items():
        covered = np.sort(scores.by_scene[LEVEL])
        x = (np.arange(len(covered)) + 0.5) / len(covered)
        label = f"{name}: mean {covered.mean():.0%}"
        axes.plot(x, covered, f"{MARKERS[name]}-", color=COLOURS[name], markersize=3.5, linewidth=0.8, label=label)
    axes.axhline(LEVEL, color=LINE_COLOUR, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.04), xlabel="scenes, by their share", ylabel="share of a scene's heights held")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    return (
        f"Coverage by scene of the {LEVEL:.0%} intervals; the network's are those of its Gaussian. The level "
        "applies to the mean over scenes, not to each: after pooling, a scene is held or missed nearly as a whole.",
        to_svg(figure, f"Coverage by scene, {part.group}", "scenes"),
    )


def errors(group: Predictions) -> list[Captioned]:
    """RMSE by true height, polyline length and sensor."""
    table = group.table
    sensor = np.array([name.partition("_")[0] for name in table.scene.tolist()])
    names, counts = np.unique(sensor, return_counts=True)
    shown = names[np.argsort(-counts, kind="stable")[:SENSORS_SHOWN]].tolist()
    return [
        _rmse_by("true height", bins(table.height, HEIGHT_EDGES, "m"), group),
        _rmse_by("polyline length", bins(polyline_length_px(table.polyline), LENGTH_EDGES, "px"), group),
        _rmse_by("sensor", [(name, sensor == name) for name in shown], group),
    ]


def bins(values: Float64, edges: Sequence[float], unit: str) -> list[tuple[str, NDArray[np.bool_]]]:
    """The non-empty bins of `values` (N,) between `edges`: names, such as "60–80 m", and masks (N,)."""
    which = np.searchsorted(edges, values, side="right")
    middle = (f"{low:g}–{high:g}" for low, high in pairwise(edges))
    names = [f"under {edges[0]:g}", *middle, f"from {edges[-1]:g}"]
    return [(f"{name} {unit}", which == i) for i, name in enumerate(names) if (which == i).any()]


def _rmse_by(quantity: str, parts: list[tuple[str, NDArray[np.bool_]]], group: Predictions) -> Captioned:
    """RMSE of each part, one marker per forecast."""
    figure, axes = blank_figure(5.0, 3.0)
    x = np.arange(len(parts))
    for i, (name, forecast) in enumerate(group.forecasts().items()):
        rmse = [score(group.table.height[mask], forecast.mu[mask]).rmse for _, mask in parts]
        axes.plot(x + 0.16 * (i - 1), rmse, MARKERS[name], color=COLOURS[name], markersize=5, label=name)
    labels = [f"{name}\n{mask.sum():,}" for name, mask in parts]
    axes.set(xlim=(-0.6, len(parts) - 0.4), ylabel="RMSE, m")
    axes.set_xticks(x, labels, fontsize=8.5, parse_math=False)  # a sensor's name comes from a file and is not a formula
    # Matplotlib's margin is a share of the range. If the range is small, it clips a marker.
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
    figure.legend(loc="outside upper left", fontsize=9, frameon=False, ncols=3)
    caption = f"RMSE by {quantity}, with the number of samples."
    if quantity == "true height":
        caption += " An uncertain estimate leans towards the mean, so the heights of tall chimneys come out too low."
    return caption, to_svg(figure, f"RMSE by {quantity}, {group.name}", quantity)
