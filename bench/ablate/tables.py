"""The tables and the figure of the ablation, made from the results of its runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.ablate.recipes import OURS, REFERENCE, recipes
from bench.measure.report import grid
from dali_pipes.files import write_whole
from train.scores.metrics import CALIBRATED, NETWORK, POOLED

LINE = "linear in length"
SPLITS = {"scene": "unseen scenes (--split scene)", "official": "scenes of the official split (--split official)"}
SPLITS |= {f"{split}, other": f"another release, trained with --split {split}" for split in SPLITS}
PROPER = {"nll": 3, "constant_nll": 3, "crps": 2, "constant_crps": 2}
INTERVAL = {"coverage": 2, "width": 0}
"""Scores in the table of uncertainty → their decimals."""
Result = Mapping[str, Any]
BySeed = dict[int, Result]
Row = tuple[str, str]
"""Recipe and release."""


def tables_of(results: Sequence[Result]) -> list[Table]:
    """For each split: the errors of all recipes, their ratios to the reference's recipe, and the uncertainty.

    The same follows for other releases, if the networks were scored on some.
    """
    elsewhere = [
        {**result, "split": f"{result['split']}, other", "scores": result["other_scores"]}
        for result in results
        if "other_scores" in result
    ]
    results = [*results, *elsewhere]
    splits = [split for split in SPLITS if any(result["split"] == split for result in results)]
    tables = (height_table, ratio_table, uncertainty_table)
    return [table(results, split) for split in splits for table in tables]


def by_recipe(results: Sequence[Result], split: str) -> dict[Row, BySeed]:
    """The results of a split by recipe, in the order of the table, then by release, and by seed."""
    releases = dict.fromkeys(result["release"] for result in results)
    by_seed: dict[Row, BySeed] = {(name, release): {} for name in recipes() for release in releases}
    for result in results:
        if result["split"] == split:
            by_seed[result["recipe"], result["release"]][result["seed"]] = result
    return {row: of_seed for row, of_seed in by_seed.items() if of_seed}


def height_table(results: Sequence[Result], split: str) -> Table:
    """Validation RMSE by recipe, and the epochs until it reaches the reference."""
    columns = ("release", "runs", "samples seen", "RMSE, m", "pooled, m", "epochs to reach it")
    table = grid(f"Heights on {SPLITS[split]}: mean ± standard deviation", *columns, first="recipe")
    rows = by_recipe(results, split)
    for (name, release), of_seed in rows.items():
        if name == REFERENCE:
            lines = [result["scores"]["line"] for result in of_seed.values()]
            table.add_row(LINE, release, str(len(lines)), "", _spread(lines), "", "")
    for (name, release), of_seed in rows.items():
        table.add_row(
            name,
            release,
            str(len(of_seed)),
            f"{statistics.mean(result['samples_seen'] for result in of_seed.values()):,.0f}",
            *(_rmse(of_seed, predictor) for predictor in (NETWORK, POOLED)),
            _epochs_to(of_seed, rows.get((REFERENCE, release), {})),
        )
    table.caption = (
        "From random weights; the best epoch on held-out development scenes; pooled: calibrated on these"
        " scenes, then pooled by scene. Epochs to reach it: epochs until the development RMSE is as low as the lowest"
        " of the reference at that seed."
    )
    return table


def ratio_table(results: Sequence[Result], split: str) -> Table:
    """RMSE divided by that of the reference's recipe at the same seed."""
    columns = ("release", "RMSE ÷ reference", "pooled ÷ reference", "pooled ÷ reference, pooled")
    title = f"Relative to the reference's recipe on {SPLITS[split]}: mean (lowest–highest)"
    table = grid(title, *columns, first="recipe")
    rows = by_recipe(results, split)
    for (name, release), of_seed in rows.items():
        reference = rows.get((REFERENCE, release), {})
        pairs = ((NETWORK, NETWORK), (POOLED, NETWORK), (POOLED, POOLED))
        table.add_row(name, release, *(_ratio(of_seed, mine, reference, theirs) for mine, theirs in pairs))
    table.caption = "Each RMSE is divided by that of the reference's recipe at the same seed on the same samples."
    return table


def uncertainty_table(results: Sequence[Result], split: str) -> Table:
    """Scores of σ and of the 90 % interval: of the network, calibrated, and pooled; for comparison a constant σ."""
    columns = ("NLL", "constant σ", "CRPS, m", "constant σ", "beats it", "90 % covers", "width, m")
    table = grid(f"Uncertainty on {SPLITS[split]}: mean ± standard deviation", first="recipe")
    for name in ("release", ""):
        table.add_column(name)
    for name in columns:
        table.add_column(name, justify="right")
    for (recipe, release), of_seed in by_recipe(results, split).items():
        for predictor in (NETWORK, CALIBRATED, POOLED):
            proper, interval = (
                [_spread(_values(of_seed, predictor, name), digits) for name, digits in scores.items()]
                for scores in (PROPER, INTERVAL)
            )
            table.add_row(recipe, release, predictor, *proper, _beaten(of_seed, predictor), *interval)
    table.caption = (
        "Constant σ: the RMSE of the same means on the scored samples themselves; it is beaten where both NLL and CRPS"
        " are lower. Coverage is the mean over scenes; the interval of the network is Gaussian, the others are"
        " split-conformal by scene."
    )
    return table


def _values(of_seed: BySeed, predictor: str, name: str) -> list[float]:
    scores = [result["scores"] for result in of_seed.values()]
    return [score[predictor][name] for score in scores if predictor in score]


def _beaten(of_seed: BySeed, predictor: str) -> str:
    scores = [result["scores"][predictor] for result in of_seed.values() if predictor in result["scores"]]
    beaten = sum(s["nll"] < s["constant_nll"] and s["crps"] < s["constant_crps"] for s in scores)
    return f"{beaten} of {len(scores)}"


def _rmse(of_seed: BySeed, predictor: str) -> str:
    values = _values(of_seed, predictor, "rmse")
    # The other runs had too few scenes for a calibration.
    note = f", {len(values)} runs" if 0 < len(values) < len(of_seed) else ""
    return _spread(values) + note


def _spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation; "–" if a value is None: the width of an interval without a guarantee."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return "–"
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{spread}"


def _ratio(of_seed: BySeed, mine: str, reference: BySeed, theirs: str) -> str:
    both = (
        (of_seed[seed]["scores"].get(mine), reference[seed]["scores"].get(theirs))
        for seed in sorted(set(of_seed) & set(reference))
    )
    ratios = [a["rmse"] / b["rmse"] for a, b in both if a and b]
    return f"{statistics.mean(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})" if ratios else "–"


def _epochs_to(mine: BySeed, reference: BySeed) -> str:
    reached = []
    for seed in sorted(set(mine) & set(reference)):
        target = min(reference[seed]["development_rmse_by_epoch"])
        by_epoch = mine[seed]["development_rmse_by_epoch"]
        first = next((i for i, rmse in enumerate(by_epoch, start=1) if rmse <= target), None)
        reached.append("–" if first is None else str(first))
    return ", ".join(reached)


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw the validation RMSE on unseen scenes: a row per recipe and release, a dot per run, a bar for the mean."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = list(by_recipe(results, "scene").items())
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, ((name, _), of_seed) in enumerate(reversed(rows)):
        rmse = _values(of_seed, NETWORK, "rmse")
        colour = "#0072B2" if name.startswith(OURS) else "#6b7280"
        axes.plot(rmse, [y] * len(rmse), "o", color=colour, alpha=0.6, markersize=5)
        axes.plot(statistics.mean(rmse), y, "|", color=colour, markersize=14, markeredgewidth=2)
    several = len({release for (_, release), _ in rows}) > 1
    axes.set_yticks(range(len(rows)), [f"{name}, {at}" if several else name for (name, at), _ in reversed(rows)])
    axes.set(xlabel="validation RMSE on unseen scenes, m", xlim=(0, None))
    axes.grid(axis="x", color="#e5e7eb")
    with matplotlib.rc_context({"svg.hashsalt": "ablation"}):
        write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:] or "svg", dpi=200))
