"""`report.html`: the page that shows an evaluation and how the training went.

    write_report(run / "report.html", Evaluation.of(predictions, baselines), title="…", history=history, …)

The page is one file and loads nothing else. It first says how large the error is and on which samples, then how much of
the result may come from recognising scenes, and then shows the scores and figures. Every score says which samples it
was measured on, whether their scenes were seen in training, and whether metadata were used.

All names and paths are untrusted, so the template escapes them. The same input gives the same bytes. The sentences are
in findings.py, the figures in figures.py, the layout in page.html.j2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes.files import write_text
from dali_pipes.pages.picture import tile
from dali_pipes.pages.template import template
from dali_pipes.units import count, duration, number

from ..recipe.config import flatten
from ..scores.evaluation import Evaluation
from ..scores.metrics import NETWORK
from ..scores.predictions import Predictions
from ..scores.uncertainty import LEVELS
from . import findings
from .figures import curves, scatter, uncertainty_figures

TILES_SHOWN = 12


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the report as one HTML file. The file at `path` is replaced only once the new one is complete.

    `history`: one mapping per epoch with any of epoch, train_loss, rmse, mae, nll, learning_rate, samples_per_s,
    data_wait (share of the epoch's time, 0 to 1) and seconds; rmse, mae (metres) and nll are those of the group that
    chose the best epoch. It may be empty. `config`: nested. `training`: any of release, samples, tiles, scenes,
    left_out (reason → count) and seconds. A value of `config`, `environment` or `training` may be None.
    """
    groups = [part.predictions for part in evaluation.groups]
    shown = findings.uncertainty_part(evaluation)
    measured_on = next((part for part in evaluation.parts if part.optimistic and part.name == "all"), None)
    about_scenes = (
        findings.selection(evaluation),
        findings.scenes_seen(evaluation),
        findings.recognition(evaluation),
    )
    filters = {"number": number, "duration": duration, "count": count, "percent": "{:.0%}".format}
    text = template(Path(__file__).with_name("page.html.j2"), filters).render(
        title=title,
        headline=findings.headline(evaluation),
        findings=[sentence for sentence in about_scenes if sentence],
        parts=evaluation.parts,
        scatters=[(group, scatter(group)) for group in groups],
        curves=curves(history, measured_on),
        history=findings.history_in_words(history),
        worst=[_thumbnail(group, i, serial) for serial, (group, i) in enumerate(_worst_tiles(groups), 1)],
        network_sigma=[findings.network_sigma(part) for part in evaluation.groups if part.uncertainty],
        levels=LEVELS,
        infinity=math.inf,
        account=findings.account(shown) if shown else [],
        uncertainty_figures=uncertainty_figures(shown) if shown else [],
        left_out=dict(training.get("left_out") or {}),
        training={key: value for key, value in training.items() if key != "left_out"},
        config=list(flatten(config)),
        environment=environment,
        NETWORK=NETWORK,
    )
    write_text(Path(path), text)


def _worst_tiles(groups: Sequence[Predictions]) -> list[tuple[Predictions, int]]:
    """The tiles with the largest absolute error, worst first: (group, row) of each tile's worst sample."""
    errors = [(group, i, error) for group in groups for i, error in enumerate(np.abs(group.mu - group.table.height))]
    errors.sort(key=lambda entry: -entry[2] if math.isfinite(entry[2]) else -math.inf)
    worst: dict[str, tuple[Predictions, int]] = {}
    for group, i, _ in errors:
        if len(worst) < TILES_SHOWN:
            worst.setdefault(str(group.table.tile[i]), (group, i))
    return list(worst.values())


def _thumbnail(group: Predictions, i: int, serial: int) -> dict[str, Any]:
    """The values that the template shows of sample `i`; `serial` is unique in the page."""
    table, name, truth, mu = group.table, str(group.table.tile[i]), float(group.table.height[i]), float(group.mu[i])
    return {
        **tile(lambda: table.images.read(int(table.image[i])), table.width[i], table.height_px[i], table.polyline[i]),
        "label": f"Tile {name}, true height {number(truth)} m, predicted {number(mu)} m",
        "serial": serial,
        "name": name,
        "scene": str(table.scene[i]),
        "group": group.name,
        "seen": bool(group.seen[i]),
        "truth": truth,
        "mu": mu,
        "sigma": float(group.sigma[i]),
    }
