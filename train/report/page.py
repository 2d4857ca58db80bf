"""`report.html`: the page that shows an evaluation and how the training went.

    write_report(run / "report.html", Evaluation.of(predictions, baselines), title="…", history=history, …)

The page is one file and loads nothing else. It answers first: the headline, the scores on unseen scenes, predicted
against true heights, tiles, where the network looks, and the commands to use the network. The rest is folded:
uncertainty, errors, training, audit of the labels, data and environment. Every score says which samples it was measured
on, and whether their scenes were seen in training.

All names and paths are untrusted, so the template escapes them. The same input gives the same bytes. The sentences are
in findings.py, the figures in figures.py, the tiles in tiles.py, the layout in page.html.j2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count as numbers
from pathlib import Path
from typing import Any

from dali_pipes.files import write_text
from dali_pipes.pages.template import template
from dali_pipes.units import count, duration, number

from ..recipe.config import flatten
from ..scores.evaluation import Evaluation, Part, headline_rows
from ..scores.metrics import CLOSED_FORM, NETWORK
from ..scores.uncertainty import LEVEL
from . import findings, tiles
from .figures import coverage_figures, curves, errors, scatter

SECTIONS = {
    "scores": "Scores",
    "tiles": "Tiles",
    "looks": "Where the network looks",
    "use": "Use this model",
    "uncertainty": "Uncertainty",
    "errors": "Errors by height, length and sensor",
    "training": "Training curves",
    "audit": "Audit of the labels",
    "data": "Data and environment",
}
SHORT = {"errors": "Errors", "training": "Training", "audit": "Audit", "data": "Data"}  # in the line of contents


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    training: Mapping[str, Any],
    commands: Mapping[str, str],
    looks: tiles.Looks | None = None,
) -> None:
    """Write the report as one HTML file. The file at `path` is replaced only once the new one is complete.

    `history`: one mapping per epoch with any of epoch, train_loss, rmse, mae, nll, learning_rate, samples_per_s,
    data_wait (share of the epoch's time, 0 to 1) and seconds; rmse, mae (metres) and nll are those of the group that
    chose the best epoch. It may be empty. `config`: nested. `training`: any of release, audit (of the labels, as a
    sentence), samples, tiles, scenes, left_out (reason → count) and seconds. A value of `config`, `environment` or
    `training` may be None. `commands`: what to do with the network → the command. `looks`: of the typical tiles in
    `tiles.chosen` of the leading part.
    """
    always = dict.fromkeys(("use", "data"), True)
    sections = dict.fromkeys(SECTIONS) | _answers(evaluation, looks) | _details(evaluation, history) | always
    filters = {"number": number, "duration": duration, "count": count, "percent": "{:.0%}".format}
    text = template(Path(__file__).with_name("page.html.j2"), filters).render(
        title=title,
        headline=findings.headline(evaluation),
        notices=[
            text
            for text in (
                _sentence(training.get("audit") or ""),
                findings.selection(evaluation),
                findings.recognition(evaluation),
            )
            if text
        ],
        contents=[(name, SHORT.get(name, SECTIONS[name])) for name in SECTIONS if sections[name]],
        titles=SECTIONS,
        sections=sections,
        commands=commands,
        left_out=dict(training.get("left_out") or {}),
        training={key: value for key, value in training.items() if key not in ("audit", "left_out")},
        config=list(flatten(config)),
        environment=environment,
        samples_of=findings.samples_of,
        NETWORK=NETWORK,
        CLOSED_FORM=CLOSED_FORM,
    )
    write_text(Path(path), text)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _answers(evaluation: Evaluation, looks: tiles.Looks | None) -> dict[str, Any]:
    """The sections before the folds, by name; a section without samples is missing."""
    part, second = evaluation.leading, evaluation.second
    if part is None:
        return {}
    serials, group = numbers(1), part.predictions
    chosen = tiles.chosen(group)
    sections: dict[str, Any] = {
        "scores": {
            "part": part,
            "second": second,
            "rows": headline_rows(evaluation),
            "samples": findings.samples(evaluation),
            "reference": findings.reference(evaluation),
            "scatter": scatter([part, *([second] if second else [])]),
        },
        "tiles": {name: [tiles.tile_of(group, row, next(serials)) for row in rows] for name, rows in chosen.items()},
    }
    if looks is not None:
        sections["looks"] = [
            tiles.look_of(group, row, next(serials), looks, (sample, view))
            for sample, row in enumerate(chosen["typical"])
            for view in range(looks.frames.views)
        ]
    return sections


def _details(evaluation: Evaluation, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The folded sections by name; a section without content is missing."""
    part = evaluation.leading
    sections: dict[str, Any] = {}
    if part is not None and part.uncertainty:
        sections["uncertainty"] = {
            "sentences": [findings.network_sigma(part), *findings.coverage(part)],
            "figures": coverage_figures(part),
            "rows": _uncertainty_rows(part),
        }
    if part is not None:
        sections["errors"] = {"figures": errors(part.predictions), "parts": evaluation.parts, "limits": findings.LIMITS}
        sections["audit"] = evaluation.groups
    measured_on = next((part for part in evaluation.parts if part.optimistic and part.name == "all"), None)
    if figures := curves(history, measured_on):
        sections["training"] = {"sentence": findings.history_in_words(history), "figures": figures}
    return sections


def _uncertainty_rows(part: Part) -> list[tuple[str, list[str]]]:
    """Name, and NLL, CRPS, share of heights held and mean width of the intervals at `LEVEL` of each forecast."""
    forecasts = {name: own for name, (own, _) in part.uncertainty.items()}
    forecasts["network, with a constant σ"] = part.uncertainty[NETWORK][1]
    return [
        (name, [number(own.nll), number(own.crps), f"{own.scene_coverage[LEVEL]:.0%}", number(own.width[LEVEL], 1)])
        for name, own in forecasts.items()
    ]
