"""What the report shows: inline SVG figures, and a contact sheet of the worst tiles.

1.  `scatter`: predicted against true heights of one group.
2.  `curves`: training loss and RMSE by epoch, each with the caption that says what it was measured on.
3.  `worst_tiles` and `thumbnail`: the tiles with the largest errors, and what the template draws of each.

A figure can stand in a page beside others: its ids do not collide, its style does not leak, and the same input
gives the same bytes.  Names of groups, tiles and scenes come from files of others: matplotlib, which would read
them as formulas, is never handed one; they go into captions and labels, where they are escaped.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dali_pipes.html import jpeg_uri
from dali_pipes.units import count

from ..scores.metrics import LINEAR, MEAN, NETWORK, Baselines, score
from ..scores.predictions import Predictions
from .findings import series

TILES_SHOWN = 12
TILE_PX = 448  # the longer side of a tile in the page: sharp at twice its printed size, about 30 kB each
VECTOR_POINTS = 3000  # beyond this many samples a scatter is smaller as pixels than as SVG

SEEN_COLOUR, UNSEEN_COLOUR, LINE_COLOUR = "#0072B2", "#D55E00", "#6b7280"  # apart for colour-blind readers too
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


def scatter(group: Predictions) -> Markup:
    """Predicted against true heights with their σ; seen and unseen scenes apart."""
    figure, axes = blank(5.0, 4.7)
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
        gap = np.full_like(x, np.nan)  # all bars as one broken path: a fifth of the bytes of a path each
        bars_x, bars_y = np.stack([x, x, gap], 1).ravel(), np.stack([y - bar, y + bar, gap], 1).ravel()
        axes.plot(bars_x, bars_y, color=colour, linewidth=0.4, alpha=0.4, zorder=2, rasterized=pixels)
        axes.plot(
            x, y, marker, color=colour, markersize=2.4, markeredgewidth=0, alpha=0.75, zorder=3, rasterized=pixels,
            label=f"{label} ({mask.sum():,})",
        )  # fmt: skip
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal", xlabel="true height, m", ylabel="predicted height ± σ, m")
    axes.legend(loc="upper left", markerscale=2, frameon=False)
    return svg(figure, f"Predicted against true height of {count(len(group), 'sample')}, {group.name}", "scatter")


def curves(
    history: Sequence[Mapping[str, Any]], group: Predictions | None, baselines: Baselines
) -> list[tuple[str, Markup]]:
    """Training loss and RMSE by epoch, each with its caption; those that the history has no figures for are absent.

    `group`: the one that the history's RMSE was measured on, for its name and for the baselines' RMSE on it.
    """
    drawn = []
    epochs, loss = series(history, "train_loss")
    if len(loss):
        figure, axes = blank(5.0, 3.3)
        axes.plot(epochs, loss, "o-", color=LINE_COLOUR, markersize=2.5, linewidth=1.2)
        axes.set(xlabel="epoch", ylabel="training loss (normalised)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        alt = f"Training loss by epoch, from {loss[0]:.3g} to {loss[-1]:.3g}"
        drawn.append(("Training loss, of the normalised target.", svg(figure, alt, "loss")))
    epochs, rmse = series(history, "rmse")
    if len(rmse):
        figure, axes = blank(5.0, 3.3)
        axes.plot(epochs, rmse, "o-", color=SEEN_COLOUR, markersize=2.5, linewidth=1.2, label=NETWORK)
        axes.plot(epochs[rmse.argmin()], rmse.min(), "o", color=SEEN_COLOUR, markersize=6, fillstyle="none")
        if group is not None and len(group):
            for name, line, dashes in ((LINEAR, baselines.linear, "--"), (MEAN, baselines.mean, ":")):
                level = score(group.table.height, line(group.table.length)[0]).rmse
                axes.axhline(level, color=LINE_COLOUR, linestyle=dashes, linewidth=1, label=f"{name}, {level:.1f} m")
        axes.set(xlabel="epoch", ylabel="RMSE, m", yscale="log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        figure.legend(loc="outside upper left", fontsize=9, frameon=False, ncols=2)  # over no line
        alt = f"RMSE by epoch, best {rmse.min():.2f} m"
        caption = f"RMSE{f' on {group.name}' if group is not None else ''}, logarithmic; the ring marks the best epoch."
        drawn.append((caption, svg(figure, alt, "rmse")))
    return drawn


def rmse_by_epoch(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """RMSE by epoch of runs by name, metres, logarithmic, on the samples that each one's best epoch is chosen on."""
    figure, axes = blank(6.0, 4.0)
    for name, history in histories.items():
        axes.plot(*series(history, "rmse"), "o-", markersize=2.5, linewidth=1.2, label=name)
    axes.set(xlabel="epoch", ylabel="RMSE on the samples of selection, m", yscale="log")
    axes.legend(frameon=False)
    return figure


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of `width` × `height` inches, without pyplot and its global state."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def svg(figure: Figure, alt: str, salt: str) -> Markup:
    """`figure` as an SVG element that can stand in a page beside others, the same bytes each time."""
    buffer = io.StringIO()
    unwritten = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{salt} {alt}"}):
        figure.savefig(buffer, format="svg", dpi=200, transparent=True, metadata=unwritten)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # counted per figure, hence not unique in a page, and never used
    text = text.replace("*{", ".plot *{")  # a style of the figure, not of the page
    label = Markup('<svg class="plot" role="img" aria-label="{}" ').format(alt)
    return label + Markup(text.removeprefix("<svg "))


# --- The contact sheet.


def worst_tiles(groups: Sequence[Predictions], most: int = TILES_SHOWN) -> list[tuple[Predictions, int]]:
    """The `most` tiles with the largest absolute error, each by its worst sample, worst first: (group, row)."""
    errors = [(group, i, error) for group in groups for i, error in enumerate(np.abs(group.mu - group.table.height))]
    errors.sort(key=lambda entry: -entry[2] if math.isfinite(entry[2]) else -math.inf)
    worst: dict[str, tuple[Predictions, int]] = {}
    for group, i, _ in errors:
        if len(worst) < most:
            worst.setdefault(str(group.table.tile[i]), (group, i))
    return list(worst.values())


def thumbnail(group: Predictions, i: int) -> dict[str, Any]:
    """What the template needs to show sample `i`: the tile as a data-URI, the polyline in the tile's pixels."""
    table, points = group.table, group.points(i)
    return {
        "uri": jpeg_uri(table.images.read(int(table.image[i])), TILE_PX),
        "width": int(table.width[i]),
        "height": int(table.height_px[i]),
        "points": " ".join(f"{x:g},{y:g}" for x, y in points),
        "base": points[0],
        "tile": str(table.tile[i]),
        "scene": str(table.scene[i]),
        "group": group.name,
        "seen": bool(group.seen[i]),
        "truth": float(table.height[i]),
        "mu": float(group.mu[i]),
        "sigma": float(group.sigma[i]),
    }
