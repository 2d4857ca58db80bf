"""What a run learned, for its reader: `report.html`, `predictions.csv` and the rows of the score table.

    validation = Predictions("validation", "The release's own validation split.", table, mu, sigma, seen)
    write_predictions(run / "predictions.csv", [validation, held_out])
    write_report(run / "report.html", title=…, predictions=[validation, held_out], baselines=…, …)

The page is one file that asks nothing of the network.  It states first how far off the model is and on what,
then how much of that is the recognition of scenes it was trained on, and only then shows figures.  Every figure
says which samples it was measured on, whether their scenes were seen in training and whether metadata were used.

The first of the predictions is the one that the headline is about: of a run, "validation".  The history was
measured on those that selected the best epoch, whose figures are therefore optimistic and marked so.  All names
and paths come from files of others, and the template escapes them.  The same input gives the same bytes.

This file puts the page together.  Its data are in predictions.py, its sentences in findings.py, its figures in
figures.py and its layout in page.html.j2; what it says and draws of uncertainty, in uncertainty_findings.py and
uncertainty_figures.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dali_pipes.files import write_text
from dali_pipes.html import template
from dali_pipes.units import count, duration, number

from ..recipe.config import flatten
from ..scores.metrics import NETWORK, Baselines, ScoreRow
from ..scores.predictions import Predictions, score_rows, write_predictions
from ..scores.uncertainty import LEVELS
from .figures import curves, scatter, thumbnail, worst_tiles
from .findings import headline, history_in_words, honesty, recognition, scenes_seen, selection
from .uncertainty_figures import uncertainty_figures
from .uncertainty_findings import CONSTANT, account, height_blocks, telling, verdicts
from .uncertainty_findings import blocks as uncertainty_blocks

__all__ = ["Predictions", "ScoreRow", "score_rows", "write_predictions", "write_report"]


def write_report(
    path: str | Path,
    *,
    title: str,
    predictions: Sequence[Predictions],
    baselines: Baselines,
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the report as one self-contained HTML file, replacing `path` only when the whole of it is written.

    `history`: a mapping an epoch with any of epoch, train_loss, rmse, mae, nll, learning_rate, samples_per_s,
    data_wait (share of the epoch's time, 0 to 1) and seconds; rmse, mae (metres) and nll are of the group that
    selected.  It may be empty.  `config`: nested.  `training`: any of release, samples, tiles, scenes, left_out
    (reason → count) and seconds.  A value of `config`, `environment` or `training` may be None.
    """
    shown = [group for group in predictions if len(group)]
    finite = [group for group in shown if math.isfinite(group.rmse())]
    drawn = telling(finite)
    uncertain = uncertainty_blocks(finite)
    table = score_rows(predictions, baselines)
    blocks = [(group, part, list(block)) for (group, part), block in groupby(table, lambda row: (row.group, row.part))]
    filters = {"number": number, "duration": duration, "count": count, "percent": "{:.0%}".format}
    text = template(Path(__file__).with_name("page.html.j2"), filters).render(
        title=title,
        headline=headline(shown, baselines),
        findings=[
            sentence for sentence in (selection(shown), scenes_seen(shown), recognition(finite, baselines)) if sentence
        ],
        blocks=blocks,
        about={group.name: group.about for group in predictions},
        scatters=[(group, scatter(group)) for group in shown],
        curves=curves(history, next((group for group in predictions if group.selection), None), baselines),
        history=history_in_words(history),
        worst=[thumbnail(group, i) for group, i in worst_tiles(shown)],
        honesty=[honesty(group) for group in finite],
        verdicts=verdicts(uncertain),
        uncertain=uncertain,
        levels=LEVELS,
        infinity=math.inf,
        by_height=height_blocks(drawn) if drawn else [],
        drawn=drawn,
        account=account(drawn) if drawn else [],
        uncertainty_figures=uncertainty_figures(drawn) if drawn else [],
        left_out=dict(training.get("left_out") or {}),
        training={key: value for key, value in training.items() if key != "left_out"},
        config=list(flatten(config)),
        environment=environment,
        NETWORK=NETWORK,
        CONSTANT=CONSTANT,
    )
    write_text(Path(path), text)
