"""The model card beside an exported file: what it was trained on, how far off it is, and what it is not for.

Every figure says which samples it was measured on and whether their scenes were seen in training; what the checkpoint
does not say is said to be unknown.
"""

from __future__ import annotations

import math

from dali_pipes.units import count
from model.architecture import backbone_of

from ..engine.trained import Trained
from ..report.findings import network_sigma, scenes_seen
from ..scores.evaluation import Evaluation
from .exported import SHOWN, contract

USE = """\
Intended use: the height of a chimney, and how sure it is of it, from an RGB tile of KOMPSAT-3 or -3A and a polyline
that a person drew from the chimney's base to its top.  It reads no metadata.

Not for: other structures, other sensors or resolutions, polylines that a detector drew, or any decision that rests
on one height alone.  The true height follows from the tilt of the view and the resolution where these are known;
use that closed form then, which the table shows, and not a network."""

LIMITS = """\
- A scene that training saw may be recognised: of a new acquisition expect the figures of scenes that were not seen.
- Of one scene all heights share a scale, so errors within it go together: ten chimneys of one tile are not ten
  independent measurements.
- A polyline whose base or top is off by a share is off by that share in height; σ does not know of it.
- The training samples of the release that this card was made with are {low:.1f} to {high:.1f} m high.
  Nothing is known of other heights, nor of countries that the release lacks."""


def model_card(
    trained: Trained,
    evaluation: Evaluation,
    *,
    name: str,
    kind: str,
    difference: float | None,
    heights: tuple[float, float],
) -> str:
    """The card of the file `name` in the format `kind`, as Markdown.

    `trained` as its checkpoint has it; `evaluation`: of the release's evaluated samples, in fp32; `difference`: how
    far the file is from eager in metres, None where nothing was to be compared; `heights`: lowest and highest of the
    release's training samples, metres.
    """
    stats = trained.statistics
    checked = (
        "" if difference is None else f"  Compared with eager on random and real tiles: at most {difference:.1e} m off."
    )
    network = f"{backbone_of(trained.model.state_dict())} at {trained.size}²"
    sections = {
        "": f"A {network}, which is shown {SHOWN[trained.view.kind]}, as a {kind} file.{checked}",
        "Use": USE,
        "Data": (
            f"{_trained_on(trained)}  By its statistics, the heights that it was trained on are"
            f" {stats.height_mean:.1f} ± {stats.height_std:.1f} m.  Measured on:\n\n"
            + "\n".join(f"- **{part.group}**: {part.predictions.description}" for part in evaluation.groups)
        ),
        "Figures": "\n".join(_table(trained, evaluation)) + "\n\n" + _notes(trained, evaluation),
        "Limits": LIMITS.format(low=heights[0], high=heights[1]),
        "What it takes and gives": "\n".join(f"- `{key}`: {value}" for key, value in contract(trained).items()),
    }
    parts = [f"# {name}"] + [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def _trained_on(trained: Trained) -> str:
    if trained.scenes is None:
        return "What it was trained on is unknown: the checkpoint does not say."
    held_out = count(len(trained.held_out), "scene")
    return f"Trained on {count(len(trained.scenes), 'scene')} of AI Hub 71805 (KOMPSAT, chimneys), {held_out} held out."


def _notes(trained: Trained, evaluation: Evaluation) -> str:
    notes = [scenes_seen(evaluation), *map(network_sigma, evaluation.groups)]
    if trained.scenes is None:
        notes = ["Whether training saw these scenes is unknown; if it did, the figures are optimistic."]
    if trained.calibration is not None:
        notes.append("The file gives the calibrated height; development scenes are each calibrated by the others.")
    return "  ".join(notes)


def _table(trained: Trained, evaluation: Evaluation) -> list[str]:
    lines = [
        "| samples | predictor | n | scenes seen in training | RMSE, m | MAE, m | bias, m | NLL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in evaluation.parts:
        if not len(part) or (trained.scenes is None and part.name != "all"):
            continue
        group = part.group if part.name == "all" else f"{part.group}, {part.name} scenes"
        group += " (optimistic)" if part.optimistic else ""
        for row in part.rows.values():
            score = row.scores
            predictor = f"{row.predictor} (metadata)" if row.metadata else row.predictor
            seen = "unknown" if trained.scenes is None else row.seen
            figures = [f"{x:.2f}" if math.isfinite(x) else "–" for x in (score.rmse, score.mae, score.bias, score.nll)]
            lines.append(f"| {' | '.join((group, predictor, str(score.n), seen, *figures))} |")
    return lines
