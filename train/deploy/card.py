"""The model card of an exported file: its training data, its scores, and what it must not be used for.

Each score names its samples and says whether their scenes were seen in training. What the checkpoint does not record
is called unknown.
"""

from __future__ import annotations

from dali_pipes.units import count
from model.architecture import backbone_of

from ..engine.trained import Trained
from ..report.findings import network_sigma, scenes_seen
from ..scores.evaluation import Evaluation
from .exported import VIEWS_IN_WORDS, contract

USE = """\
Intended use: the height of a chimney and its uncertainty, from an RGB tile of KOMPSAT-3 or -3A and a polyline that a
person drew from the chimney's base to its top. The network reads no metadata.

Not for: other structures, other sensors or resolutions, polylines drawn by a detector, or any decision that depends
on a single height. If the tilt of the view and the resolution are known, the height follows from a closed form, which
is in the table. Use it instead of a network."""

LIMITS = """\
- The network may recognise a scene from training: for a new acquisition expect the scores of unseen scenes.
- All heights of a scene share a scale, so their errors are correlated: ten chimneys of one tile are not ten
  independent measurements.
- If the base or the top of a polyline is off by a percentage of its length, so is the height; σ does not include this.
- The training samples of the release used for this card are {low:.1f} to {high:.1f} m high.
  Nothing is known about other heights, or about countries that are not in the release."""


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

    `trained`: as loaded from the checkpoint. `evaluation`: of the release's evaluated samples, in fp32.
    `difference`: the largest between the file and eager in metres, None if they were not compared.
    `heights`: lowest and highest of the release's training samples, in metres.
    """
    stats = trained.statistics
    checked = "" if difference is None else f" On random and real tiles it is at most {difference:.1e} m from eager."
    network = f"{backbone_of(trained.model.state_dict())} at {trained.size}²"
    sections = {
        "": f"A {network} that sees {VIEWS_IN_WORDS[trained.view.kind]}, as a {kind} file.{checked}",
        "Use": USE,
        "Data": (
            f"{_trained_on(trained)} According to its statistics, the training heights are"
            f" {stats.height_mean:.1f} ± {stats.height_std:.1f} m. It was evaluated on:\n\n"
            + "\n".join(f"- **{part.group}**: {part.predictions.description}" for part in evaluation.groups)
        ),
        "Figures": "\n".join(_table(trained, evaluation)) + "\n\n" + _notes(trained, evaluation),
        "Limits": LIMITS.format(low=heights[0], high=heights[1]),
        "Inputs and outputs": "\n".join(f"- `{key}`: {value}" for key, value in contract(trained).items()),
    }
    parts = [f"# {name}"] + [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def _trained_on(trained: Trained) -> str:
    if trained.scenes is None:
        return "The training data are unknown: the checkpoint does not record them."
    held_out = count(len(trained.held_out), "scene")
    return f"Trained on {count(len(trained.scenes), 'scene')} of AI Hub 71805 (KOMPSAT, chimneys), {held_out} held out."


def _notes(trained: Trained, evaluation: Evaluation) -> str:
    notes = [scenes_seen(evaluation), *map(network_sigma, evaluation.groups)]
    if trained.scenes is None:
        notes = ["It is unknown whether these scenes were seen in training; if they were, the scores are optimistic."]
    if trained.calibration is not None:
        notes.append("The file returns calibrated heights; each development scene is calibrated by the other ones.")
    return " ".join(notes)


def _table(trained: Trained, evaluation: Evaluation) -> list[str]:
    lines = [
        "| samples | predictor | n | scenes seen in training | RMSE, m | MAE, m | bias, m | NLL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in evaluation.parts:
        if not len(part) or (trained.scenes is None and part.name != "all"):
            continue
        for row in part.rows.values():
            seen = "unknown" if trained.scenes is None else row.seen
            lines.append(f"| {' | '.join((part.title, row.title, str(row.scores.n), seen, *row.figures))} |")
    return lines
