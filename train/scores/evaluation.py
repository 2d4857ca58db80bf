"""All predictors scored on all evaluated samples: report, console and model card render the same `Evaluation`.

    evaluation = Evaluation.of([validation, development], baselines)
    evaluation.parts    # each group, and its seen and unseen scenes where it has both

Scenes seen and not seen in training are scored separately, because a network may recognise a scene that it was trained
on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dali_pipes.notebook import as_html
from dali_pipes.units import number

from .metrics import (
    CALIBRATED,
    CLOSED_FORM,
    LINEAR,
    MEAN,
    MIN_SCENES_FOR_INTERVAL,
    NETWORK,
    POOLED,
    Baselines,
    Float64,
    Scores,
    score,
)
from .predictions import Predictions
from .uncertainty import UncertaintyScores


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one predictor on one set of samples, with the facts needed to interpret them."""

    predictor: str
    """`NETWORK`, its refinements `CALIBRATED` and `POOLED`, or `LINEAR`, `MEAN`, `CLOSED_FORM`."""
    scores: Scores
    seen: str
    """Which of the samples' scenes were seen in training: "all", "none", a percentage, or "" without samples."""

    @property
    def metadata(self) -> bool:
        """Whether the predictor reads roll, pitch and resolution, which the network must not use."""
        return self.predictor == CLOSED_FORM

    @property
    def title(self) -> str:
        """The predictor, marked if it reads metadata."""
        return self.predictor + " (metadata)" * self.metadata

    @property
    def figures(self) -> list[str]:
        """RMSE, MAE, bias and NLL, as they are shown."""
        return [number(value) for value in (self.scores.rmse, self.scores.mae, self.scores.bias, self.scores.nll)]


@dataclass(frozen=True)
class Part:
    """One group of predictions, or only its seen or its unseen scenes, with the scores of every predictor."""

    name: Literal["all", "seen", "unseen"]
    predictions: Predictions
    """Only those of this part."""
    rows: Mapping[str, ScoreRow]
    """By predictor, in the order in which they are shown."""
    uncertainty: Mapping[str, tuple[UncertaintyScores, UncertaintyScores]]
    """By forecast: its own scores, and those of the same means with a constant σ. Empty if there are no samples, or if
    the network's predictions are not all finite."""

    @property
    def group(self) -> str:
        """The name of the group that this part is or belongs to."""
        return self.predictions.name

    @property
    def title(self) -> str:
        """The name of this part on a terminal and in a model card, marked if it is optimistic."""
        part = "" if self.name == "all" else f", {self.name} scenes"
        return f"{self.group}{part}{' (optimistic)' * self.optimistic}"

    @property
    def optimistic(self) -> bool:
        """Whether the best epoch was chosen on these samples."""
        return self.predictions.optimistic

    @property
    def scenes(self) -> int:
        """Number of scenes."""
        return len(np.unique(self.predictions.table.scene))

    def rmse(self, predictor: str) -> float:
        """Root mean squared error of a predictor in metres."""
        return self.rows[predictor].scores.rmse

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True)
class Evaluation:
    """Predictions and their scores. The headline is about the `leading` part."""

    predictions: tuple[Predictions, ...]
    parts: tuple[Part, ...]
    """For each group "all", then "seen" and "unseen" if it has both."""

    @classmethod
    def of(cls, predictions: Sequence[Predictions], baselines: Baselines) -> Evaluation:
        """Score `predictions`, and `baselines` on the same samples."""
        parts = []
        for group in predictions:
            parts.append(_part("all", group, baselines))
            if group.seen.any() and not group.seen.all():
                parts.append(_part("seen", group.select(group.seen), baselines))
                parts.append(_part("unseen", group.select(~group.seen), baselines))
        return cls(tuple(predictions), tuple(parts))

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(map(repr, self.predictions))})"

    def _repr_html_(self) -> str:
        names = ("RMSE (m)", "MAE (m)", "bias (m)", "NLL")
        rows = [{"": row.title, **dict(zip(names, row.figures, strict=True))} for row in headline_rows(self)]
        return as_html(f"{self.leading.title}: {len(self.leading):,} samples" if self.leading else "no samples", rows)

    @property
    def groups(self) -> list[Part]:
        """The whole groups that have samples."""
        return [part for part in self.parts if part.name == "all" and len(part)]

    @property
    def leading(self) -> Part | None:
        """The part that answers how good the network is: of scenes not seen in training, else the first group.

        A part that did not choose the best epoch comes first if it has enough scenes, then the largest one. None
        without samples.
        """
        unseen = [part for part in self.parts if part.uncertainty and not part.predictions.seen.any()]
        independent = [part for part in unseen if not part.optimistic and part.scenes >= MIN_SCENES_FOR_INTERVAL]
        return max(independent or unseen, key=len, default=next(iter(self.groups), None))

    @property
    def second(self) -> Part | None:
        """The part shown next to the leading one: of scenes seen in training, else the next group."""
        others = [self.largest(seen=True), *self.groups]
        return next((part for part in others if part is not None and part is not self.leading), None)

    def largest(self, *, seen: bool) -> Part | None:
        """The largest part with finite predictions in which every scene was seen in training, or none was."""
        sides = (part for part in self.parts if part.uncertainty and (part.predictions.seen == seen).all())
        return max(sides, key=len, default=None)


HEADLINE = (NETWORK, CALIBRATED, POOLED, LINEAR, MEAN)
"""The predictors in the short table of the console and of the report."""


def headline_rows(evaluation: Evaluation) -> list[ScoreRow]:
    """The scores of `HEADLINE` on the leading part; an uncalibrated network has one row less. Empty without samples."""
    rows = evaluation.leading.rows if evaluation.leading else {}
    return [rows[predictor] for predictor in HEADLINE if predictor in rows]


def _part(name: Literal["all", "seen", "unseen"], predictions: Predictions, baselines: Baselines) -> Part:
    height, length, scene = predictions.table.height, predictions.table.length, predictions.table.scene
    forecasts, closed_form = predictions.forecasts(), predictions.closed_form()
    estimates: dict[str, tuple[Float64, Float64 | None]] = {
        **{name: (forecast.mu, forecast.sigma) for name, forecast in forecasts.items()},
        LINEAR: baselines.linear(length),
        MEAN: baselines.mean(length),
        CLOSED_FORM: (closed_form, None),
    }
    finite = len(predictions) > 0 and math.isfinite(predictions.rmse())
    return Part(
        name,
        predictions,
        rows={name: _row(name, predictions, *estimate) for name, estimate in estimates.items()},
        uncertainty={
            name: (
                UncertaintyScores.of(height, forecast, scene),
                UncertaintyScores.of(height, forecast.constant(height), scene),
            )
            for name, forecast in (forecasts.items() if finite else ())
        },
    )


def _row(predictor: str, predictions: Predictions, mu: Float64, sigma: Float64 | None) -> ScoreRow:
    """The closed form is scored only on samples with metadata, the others on all."""
    known = np.isfinite(mu) if predictor == CLOSED_FORM else np.ones(len(mu), bool)
    _, first = np.unique(predictions.table.scene[known], return_index=True)
    share = float(predictions.seen[known][first].mean()) if len(first) else math.nan
    return ScoreRow(
        predictor,
        score(predictions.table.height[known], mu[known], None if sigma is None else sigma[known]),
        seen={0.0: "none", 1.0: "all"}.get(share, "" if math.isnan(share) else f"{share:.0%}"),
    )
