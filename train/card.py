"""The model card beside an exported file: what it was trained on, how far off it is, and what it is not for.

Every figure says which samples it was measured on and whether their scenes were seen in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from model.architecture import backbone_of

from .evaluate import Trained
from .exported import contract
from .findings import count, honesty, scenes_seen
from .metrics import CLOSED_FORM
from .predictions import Predictions, score_rows

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
- Heights below 40 m or above 298 m, and countries that the release lacks, were never shown to it."""


def model_card(
    trained: Trained, predictions: Sequence[Predictions], *, name: str, kind: str, difference: float | None
) -> str:
    """The card of the file `name` in the format `kind`, as Markdown.

    `trained` with its scenes and baselines; `predictions`: of the release's evaluated samples; `difference`: how far
    the file is from eager in metres, None where nothing was to be compared.
    """
    assert trained.baselines is not None
    assert trained.scenes is not None
    shown = [group for group in predictions if len(group)]
    stats = trained.statistics
    checked = (
        "" if difference is None else f"  Compared with eager on random and real tiles: at most {difference:.1e} m off."
    )
    sections = {
        "": f"A {backbone_of(trained.model.state_dict())} at {trained.size}², as a {kind} file.{checked}",
        "Use": USE,
        "Data": (
            f"AI Hub 71805 (KOMPSAT, chimneys): trained on {count(len(trained.scenes), 'scene')},"
            f" {count(len(trained.held_out), 'scene')} held out.  Heights of the training samples:"
            f" {stats.height_mean:.1f} ± {stats.height_std:.1f} m.\n\n"
            + "\n".join(f"- **{group.name}**: {group.about}" for group in shown)
        ),
        "Figures": "\n".join(_table(trained, shown)) + "\n\n" + "  ".join([scenes_seen(shown), *map(honesty, shown)]),
        "Limits": LIMITS,
        "What it takes and gives": "\n".join(f"- `{key}`: {value}" for key, value in contract(trained).items()),
    }
    parts = [f"# {name}"] + [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def _table(trained: Trained, predictions: Sequence[Predictions]) -> list[str]:
    assert trained.baselines is not None
    lines = [
        "| samples | predictor | n | scenes seen in training | RMSE, m | MAE, m | bias, m | NLL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in score_rows(predictions, trained.baselines):
        score = row.scores
        group = row.group if row.part == "all" else f"{row.group}, {row.part} scenes"
        predictor = f"{row.predictor} (metadata)" if row.predictor == CLOSED_FORM else row.predictor
        figures = [f"{x:.2f}" if math.isfinite(x) else "–" for x in (score.rmse, score.mae, score.bias, score.nll)]
        lines.append(f"| {' | '.join((group, predictor, str(score.n), row.seen, *figures))} |")
    return lines
