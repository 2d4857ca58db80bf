"""The tables and the figure of the ablation: results of `bench.ablate`, by recipe, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.table import Table

from bench.ablate.recipes import OURS, REFERENCE, recipes
from bench.measure.timing import as_plain
from dali_pipes.files import write_whole
from train.scores.metrics import CALIBRATED, NETWORK, POOLED

LINE = "linear in length"
WHERE = {"scene": "unseen scenes (--split scene)", "official": "seen scenes (--split official)"}
FIGURES = {"nll": 3, "constant_nll": 3, "crps": 2, "constant_crps": 2, "coverage": 2, "width": 0}
"""What the table of uncertainty tells, with how many digits."""
Result = Mapping[str, Any]
BySeed = dict[int, Result]


def tables_of(results: Sequence[Result]) -> list[Table]:
    """For each split: heights by recipe, then the uncertainty of the reference's recipe and ours."""
    splits = [split for split in WHERE if any(result["split"] == split for result in results)]
    return [table(results, split) for split in splits for table in (heights, uncertainty)]


def by_recipe(results: Sequence[Result], split: str) -> dict[str, BySeed]:
    """The results of a split by recipe, in the order of the table, and by seed."""
    found: dict[str, BySeed] = {name: {} for name in recipes()}
    for result in results:
        if result["split"] == split:
            found[result["recipe"]][result["seed"]] = result
    return {name: of_seed for name, of_seed in found.items() if of_seed}


def heights(results: Sequence[Result], split: str) -> Table:
    """Validation RMSE by recipe, beside ours at the same seeds, and the epochs to what the reference reaches."""
    table = Table(title=f"Heights on {WHERE[split]}: mean ± standard deviation", title_justify="left", box=None)
    for name in ("recipe", "runs", "samples seen", "RMSE, m", "pooled, m", "RMSE of ours", "epochs to reach it"):
        table.add_column(name, justify="left" if name == "recipe" else "right")
    recipe = by_recipe(results, split)
    lines = [result["scores"]["line"] for result in recipe.get(REFERENCE, {}).values()]
    if lines:
        table.add_row(LINE, str(len(lines)), "", _spread(lines), "", "", "")
    for name, of_seed in recipe.items():
        table.add_row(
            name,
            str(len(of_seed)),
            f"{statistics.mean(result['samples_seen'] for result in of_seed.values()):,.0f}",
            *(_rmse(of_seed, predictor) for predictor in (NETWORK, POOLED)),
            _against(of_seed, recipe.get(OURS, {})),
            _epochs_to(of_seed, recipe.get(REFERENCE, {})),
        )
    table.caption = (
        "convnext_atto from random weights; the best epoch by held-out development scenes; pooled by scene after"
        " calibration on these. RMSE of ours: this recipe's over it, seed by seed. Epochs to reach it: until"
        " development RMSE is the lowest that the reference reaches at that seed."
    )
    return table


def uncertainty(results: Sequence[Result], split: str) -> Table:
    """What σ and the 90 % interval are worth, as the network says, calibrated and pooled, beside constant σ."""
    table = Table(title=f"Uncertainty on {WHERE[split]}: mean ± standard deviation", title_justify="left", box=None)
    columns = ("recipe", "", "NLL", "of constant σ", "CRPS, m", "of constant σ", "beats it", "90 % covers", "width, m")
    for name in columns:
        table.add_column(name, justify="left" if name in ("recipe", "") else "right")
    for recipe, of_seed in by_recipe(results, split).items():
        if recipe not in (REFERENCE, OURS):
            continue
        for predictor in (NETWORK, CALIBRATED, POOLED):
            figures = {
                figure: _spread(_values(of_seed, predictor, figure), digits) for figure, digits in FIGURES.items()
            }
            proper, interval = list(figures.values())[:4], list(figures.values())[4:]
            table.add_row(recipe, predictor, *proper, _beaten(of_seed, predictor), *interval)
    table.caption = (
        "Constant σ is the RMSE of hindsight on the very samples that are scored, for the same means; it is beaten"
        " where both NLL and CRPS are lower. Coverage has one vote a scene; the network's own"
        " interval is its Gaussian's, the others are split-conformal by scene."
    )
    return table


def _values(of_seed: BySeed, predictor: str, figure: str) -> list[float]:
    scores = [result["scores"] for result in of_seed.values()]
    return [score[predictor][figure] for score in scores if predictor in score]


def _beaten(of_seed: BySeed, predictor: str) -> str:
    scores = [result["scores"][predictor] for result in of_seed.values() if predictor in result["scores"]]
    beaten = sum(s["nll"] < s["constant_nll"] and s["crps"] < s["constant_crps"] for s in scores)
    return f"{beaten} of {len(scores)}"


def _rmse(of_seed: BySeed, predictor: str) -> str:
    values = _values(of_seed, predictor, "rmse")
    some = (
        f", {len(values)} runs" if 0 < len(values) < len(of_seed) else ""
    )  # too few scenes to calibrate the others on
    return _spread(values) + some


def _spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation; "–" where one is None, such as the width of an interval that cannot be promised."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return "–"
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{spread}"


def _against(mine: BySeed, ours: BySeed) -> str:
    both = sorted(set(mine) & set(ours))
    ratios = [_values({0: mine[i]}, NETWORK, "rmse")[0] / _values({0: ours[i]}, NETWORK, "rmse")[0] for i in both]
    return f"{statistics.mean(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–"


def _epochs_to(mine: BySeed, reference: BySeed) -> str:
    reached = []
    for seed in sorted(set(mine) & set(reference)):
        target = min(reference[seed]["development_rmse_by_epoch"])
        by_epoch = mine[seed]["development_rmse_by_epoch"]
        first = next((i for i, rmse in enumerate(by_epoch, start=1) if rmse <= target), None)
        reached.append("–" if first is None else str(first))
    return ", ".join(reached)


def markdown_of(tables: Sequence[Table]) -> str:
    """The tables as Markdown, each with its title before and its caption after it."""

    def one(table: Table) -> str:
        plain = as_plain(table)
        rows = [plain["columns"], ["---"] * len(plain["columns"]), *plain["rows"]]
        return "\n".join(
            ["", plain["title"], "", *(f"| {' | '.join(row)} |" for row in rows), "", plain["caption"], ""]
        )

    return "\n".join(map(one, tables))


def draw(results: Sequence[Result], path: Path) -> None:
    """Every run's validation RMSE on unseen scenes as a dot, a recipe a line; the mean as a bar."""
    rows = list(by_recipe(results, "scene").items())
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (name, of_seed) in enumerate(reversed(rows)):
        rmse = _values(of_seed, NETWORK, "rmse")
        colour = "#0072B2" if name.startswith(OURS) else "#6b7280"
        axes.plot(rmse, [y] * len(rmse), "o", color=colour, alpha=0.6, markersize=5)
        axes.plot(statistics.mean(rmse), y, "|", color=colour, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set(xlabel="validation RMSE on unseen scenes, m", xlim=(0, None))
    axes.grid(axis="x", color="#e5e7eb")
    with matplotlib.rc_context({"svg.hashsalt": "ablation"}):
        write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:] or "svg", dpi=200))
