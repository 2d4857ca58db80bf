"""What each option of the recipe is worth: the reference's recipe and ours at equal samples seen, each option alone.

    python -m bench.ablate --release runs/release --seeds 3 [--markdown FILE] [--figure FILE]

Every run trains the same small network from random weights, convnext_atto at 112², on the same samples, chooses its
best epoch on scenes that are held out for it, and looks at the validation samples once: `--split scene`, a fold whose
scenes it never saw, for every recipe; `--split official`, whose scenes training knows, for the reference's recipe and
ours.  A seed draws the weights, the order of the samples, the fold and the held-out scenes; recipes are compared seed
by seed, since folds differ more than recipes do.

The rows: the recipe of preset reference; one of our options added to it at a time; ours, that of preset fast; one
option taken out of it at a time; what was tried and not taken, added to it; and ours in a third of the epochs, which
is what being three times faster comes down to, since an epoch costs the same.  So a row tells of training from random
weights on rendered tiles; of fine-tuning ImageNet weights on real ones it tells nothing.

Each finished run is a line of `results.jsonl` under `--out`, named by a digest of its configuration: the command goes
on where it was stopped, and more seeds or other options cost only what is new.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench.timing import as_plain, report
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from model import checkpoint
from model.whole_file import write_text, write_whole
from train.config import MAY_CHANGE, Config, Data, fast, flatten
from train.console import RunConsole
from train.environment import choose_device
from train.loop import run
from train.metrics import Baselines, score

Settings = Mapping[str, Any]
"""Fields of the configuration by their dotted names, such as {"optimizer.learning_rate": 1e-3}."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "log-scale target": ("model.target",),
    "flips and quarter turns": ("data.hflip", "data.vflip", "data.rot90"),
    "warm-up and cosine": ("optimizer.schedule",),
    "larger steps": ("optimizer.learning_rate", "optimizer.weight_decay"),
}
"""What preset fast does otherwise than preset reference, apart from backbone and length: the fields of each option."""

TRIED: dict[str, Settings] = {
    "EMA .99": {"optimizer.ema": 0.99},
    "β-NLL .5": {"optimizer.beta": 0.5},
    "brightness and contrast": {"data.brightness": 0.2, "data.contrast": 0.2},
    "layer scale 1": {"model.layer_scale": 1.0},
}
"""What was tried and is no part of ours."""

REFERENCE, OURS, THIRD = "reference", "ours", "ours, a third of the epochs"
LINE = "linear in length"


@dataclass(frozen=True)
class Arguments:
    """What to compare, and on what."""

    release: Path
    """A release in any form, best a rendered one of 1,000 tiles or more: a run of ours has to be short."""
    out: Path = Path("runs/ablation")
    """Folder for results.jsonl; a run that is under way keeps its folder there, too."""
    seeds: int = 3
    """Seeds of each recipe, from 0."""
    epochs: int = 6
    """Passes of each run over its samples."""
    splits: tuple[Literal["scene", "official"], ...] = ("scene", "official")
    """Which validation samples to compare on."""
    only: tuple[str, ...] = ()
    """Recipes to run, by the names of their rows; if not given, all."""
    size: int = 112
    """Side of the letterboxed frame, in pixels."""
    threads: int = 0
    """DALI's threads; 0 for all cores that this process may use."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    quick: bool = False
    """One seed, two epochs at 32² of the reference's recipe and ours: shows that the command works, and no more."""
    markdown: Path | None = None
    """File to write the tables to as Markdown."""
    figure: Path | None = None
    """File to draw the validation RMSE of every run to; its suffix names the format."""

    def __post_init__(self) -> None:
        for name, value in (("--seeds", self.seeds), ("--epochs", self.epochs)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        unknown = sorted(set(self.only) - set(recipes()))
        if unknown:
            raise InputError(f"--only knows no recipe {unknown[0]!r}; expected some of: {', '.join(recipes())}")


@dataclass(frozen=True)
class Run:
    """One training: a row of the table at one seed."""

    split: str
    recipe: str
    seed: int
    config: Config

    @property
    def named(self) -> dict[str, Any]:
        """Where its result stands in the table."""
        return {"split": self.split, "recipe": self.recipe, "seed": self.seed}

    @property
    def key(self) -> str:
        """A digest of the settings that the result depends on and that are not the defaults, which may grow."""
        default = dict(flatten(asdict(Config())))
        settings = {
            name: value
            for name, value in flatten(asdict(self.config))
            if name not in MAY_CHANGE and value != default[name]
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


# --- Which runs there are.


def recipes() -> dict[str, Settings]:
    """The rows of the table, in their order: name → what differs from the reference's recipe."""
    preset = dict(flatten(asdict(fast())))
    ours = {name: preset[name] for option in OPTIONS.values() for name in option}
    rows: dict[str, Settings] = {REFERENCE: {}}
    rows |= {f"reference + {name}": {k: ours[k] for k in option} for name, option in OPTIONS.items()}
    rows[OURS] = ours
    rows |= {f"ours − {name}": {k: v for k, v in ours.items() if k not in option} for name, option in OPTIONS.items()}
    rows |= {f"ours + {name}": {**ours, **option} for name, option in TRIED.items()}
    rows[THIRD] = ours
    return rows


def runs(arguments: Arguments) -> list[Run]:
    """All runs, every seed of the chosen recipes on the scene split, two of them on the official one."""
    chosen = {name: row for name, row in recipes().items() if not arguments.only or name in arguments.only}
    if arguments.quick:
        chosen = {name: row for name, row in chosen.items() if name in (REFERENCE, OURS)}
    return [
        Run(split, name, seed, configuration(arguments, split, name, seed, settings))
        for seed in range(1 if arguments.quick else arguments.seeds)
        for split in arguments.splits
        for name, settings in chosen.items()
        if split == "scene" or name in (REFERENCE, OURS)
    ]


def configuration(arguments: Arguments, split: Any, recipe: str, seed: int, settings: Settings) -> Config:
    """The reference's configuration at this scale, changed by `settings`."""
    epochs = 2 if arguments.quick else arguments.epochs
    if recipe == THIRD:
        epochs = max(1, epochs // 3)
    config = Config(
        epochs=epochs,
        device=arguments.device,
        seed=seed,
        backbone="convnext_atto",
        weights="none",
        data=Data(
            size=32 if arguments.quick else arguments.size,
            split=split,
            holdout=0.15,
            select_on="development",
            index_cache=str(arguments.out / "index-cache"),
            threads=arguments.threads,
            cache="disk",  # all runs show the same tiles
        ),
    )
    # The reference trains the mean alone for 4 epochs of 40.
    return changed(config, {"optimizer.variance_warmup": max(1, epochs // 10), **settings})


def changed(config: Any, settings: Settings) -> Any:
    """`config`, a dataclass, with other values in the fields of these dotted names."""
    for name, value in settings.items():
        field, _, rest = name.partition(".")
        inner = getattr(config, field)
        config = replace(config, **{field: changed(inner, {rest: value}) if is_dataclass(inner) else value})
    return config


# --- Running them.


def finish(arguments: Arguments) -> list[dict[str, Any]]:
    """Do all runs that have no result yet → the results of all, in their order."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    known = {result["key"]: result for result in map(json.loads, lines)}
    wanted, release = runs(arguments), str(arguments.release.resolve())
    results = []
    for i, item in enumerate(wanted, start=1):
        key = f"{item.key}-{hashlib.sha256(release.encode()).hexdigest()[:8]}"
        if key not in known:
            print(
                f"run {i} of {len(wanted)}: {item.split}, {item.recipe}, seed {item.seed}", file=sys.stderr, flush=True
            )
            known[key] = {"key": key, **item.named, **result_of(item, arguments.release, arguments.out / key)}
            write_text(path, "".join(json.dumps(result) + "\n" for result in known.values()))
            shutil.rmtree(arguments.out / key)
        results.append({**known[key], **item.named})  # a recipe's name may have changed, its configuration has not
    return results


def result_of(item: Run, release: Path, folder: Path) -> dict[str, Any]:
    """Train, in `folder`, and read the run folder as anybody could."""
    began = time.process_time()
    run(item.config, release, folder, resume=True, console=RunConsole(Console(file=io.StringIO())))
    seconds = time.process_time() - began
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    samples = json.loads((folder / "samples.json").read_text("utf-8"))["training"]["samples"]
    line = Baselines.from_dict(checkpoint.load(folder / "best.pt")["about"]["baselines"]).linear
    scores = {}
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for group in dict.fromkeys(row["group"] for row in rows):
        height, length, mu, sigma = _columns(rows, group, "height_m", "length", "mu_m", "sigma_m")
        scores[group] = asdict(score(height, mu, sigma)) | {"line": score(height, *line(length)).rmse}
        if all(row["pooled_mu_m"] for row in rows if row["group"] == group):
            scores[group]["pooled_rmse"] = score(height, *_columns(rows, group, "pooled_mu_m", "pooled_sigma_m")).rmse
    return {
        "samples": samples,
        "epochs": item.config.epochs,
        "samples_seen": samples // item.config.batch_size * item.config.batch_size * item.config.epochs,
        "cpu_s": round(seconds, 1),
        "development_rmse_by_epoch": [record["rmse"] for record in history],
        "scores": scores,
    }


def _columns(rows: Sequence[Mapping[str, str]], group: str, *names: str) -> Iterator[np.ndarray]:
    return (np.array([float(row[name]) for row in rows if row["group"] == group]) for name in names)


# --- Telling what they gave.


def summaries(results: Sequence[Mapping[str, Any]], split: str) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """The results of a split by recipe, in the order of the table."""
    for name in recipes():
        of_recipe = [result for result in results if (result["split"], result["recipe"]) == (split, name)]
        if of_recipe:
            yield name, of_recipe


def table_of(results: Sequence[Mapping[str, Any]], split: str) -> Table:
    """One split: validation RMSE, beside ours at the same seeds, and the epochs to what the reference reaches."""
    where = "unseen scenes (--split scene)" if split == "scene" else "seen scenes (--split official)"
    table = Table(title=f"Validation on {where}: mean ± standard deviation over seeds", title_justify="left", box=None)
    for name in ("recipe", "runs", "samples seen", "RMSE, m", "pooled, m", "NLL", "RMSE of ours", "epochs to reach it"):
        table.add_column(name, justify="left" if name == "recipe" else "right")
    by_seed = {name: {result["seed"]: result for result in of_recipe} for name, of_recipe in summaries(results, split)}
    lines = [result["scores"]["validation"]["line"] for result in by_seed.get(REFERENCE, {}).values()]
    if lines:
        table.add_row(LINE, str(len(lines)), "", _spread(lines), "", "", "", "")
    for name, of_seed in by_seed.items():
        scores = [result["scores"]["validation"] for result in of_seed.values()]
        pooled = [value["pooled_rmse"] for value in scores if "pooled_rmse" in value]
        table.add_row(
            name,
            str(len(scores)),
            f"{statistics.mean(result['samples_seen'] for result in of_seed.values()):,.0f}",
            _spread([value["rmse"] for value in scores]),
            _spread(pooled) if pooled else "–",
            _spread([value["nll"] for value in scores]),
            _against(of_seed, by_seed.get(OURS, {})),
            _epochs_to(of_seed, by_seed.get(REFERENCE, {})),
        )
    table.caption = (
        "convnext_atto from random weights; the best epoch by held-out development scenes. RMSE of ours: this recipe's"
        " over it, seed by seed. Epochs to reach it: until development RMSE is what the reference reaches at that seed."
    )
    return table


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _against(mine: Mapping[int, Any], ours: Mapping[int, Any]) -> str:
    ratios = [
        mine[seed]["scores"]["validation"]["rmse"] / ours[seed]["scores"]["validation"]["rmse"]
        for seed in mine
        if seed in ours
    ]
    return f"{statistics.mean(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–"


def _epochs_to(mine: Mapping[int, Any], reference: Mapping[int, Any]) -> str:
    reached = []
    for seed in sorted(set(mine) & set(reference)):
        target = min(reference[seed]["development_rmse_by_epoch"])
        by_epoch = mine[seed]["development_rmse_by_epoch"]
        first = next((i for i, rmse in enumerate(by_epoch, start=1) if rmse <= target), None)
        reached.append("–" if first is None else str(first))
    return ", ".join(reached)


def as_markdown(table: Table) -> str:
    """The table as Markdown, its title before and its caption after it."""
    plain = as_plain(table)
    rows = [plain["columns"], ["---"] * len(plain["columns"]), *plain["rows"]]
    return "\n".join(["", plain["title"], "", *(f"| {' | '.join(row)} |" for row in rows), "", plain["caption"], ""])


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every run's validation RMSE on unseen scenes as a dot, a recipe a line; the mean as a bar."""
    rows = list(summaries(results, "scene"))
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (name, of_recipe) in enumerate(reversed(rows)):
        rmse = [result["scores"]["validation"]["rmse"] for result in of_recipe]
        colour = "#0072B2" if name.startswith(OURS) else "#6b7280"
        axes.plot(rmse, [y] * len(rmse), "o", color=colour, alpha=0.6, markersize=5)
        axes.plot(statistics.mean(rmse), y, "|", color=colour, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set(xlabel="validation RMSE on unseen scenes, m", xlim=(0, None))
    axes.grid(axis="x", color="#e5e7eb")
    with matplotlib.rc_context({"svg.hashsalt": "ablation"}):
        write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:] or "svg", dpi=200))


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.ablate", description=__doc__)
        results = finish(arguments)
        splits = [split for split in arguments.splits if any(result["split"] == split for result in results)]
        tables = [table_of(results, split) for split in splits]
        if arguments.markdown:
            write_text(arguments.markdown, "\n".join(map(as_markdown, tables)))
        if arguments.figure:
            draw(results, arguments.figure)
        report(tables, {"bench": "ablate", **asdict(arguments), "results": results}, choose_device(arguments.device))


if __name__ == "__main__":
    main(sys.argv[1:])
