"""Measure the effect of each option of the training recipe: each option alone, the reference's recipe, and ours.

    python -m bench.ablate --release runs/release --seeds 3 [--markdown FILE] [--figure FILE]

Every run trains the same small network, convnext_atto at 80², from random weights on the same samples. Its best epoch
is chosen on held-out scenes, and evaluated once on the validation samples. `--split scene` validates all recipes of
`recipes.py` on a fold of unseen scenes. `--split official` validates the reference's recipe and ours on scenes seen in
training. The seed sets the weights, the order of the samples, the fold and the held-out scenes. Recipes are compared
seed by seed, because folds differ more than recipes do.

It prints two kinds of tables: the errors of all recipes, and the quality of the uncertainty of two of them. They are
valid for training from random weights on rendered tiles, and say nothing about fine-tuning ImageNet weights on real
ones.

Each finished run is one line of `results.jsonl` in `--out`, identified by a digest of its configuration. The command
therefore resumes where it was stopped, and more seeds or other options cost only the new runs.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from bench.ablate.recipes import OURS, REFERENCE, configuration, recipes
from bench.ablate.runs import Run
from bench.measure.report import Output, as_markdown, as_plain, report
from dali_pipes.command import at_least, default_is, parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_text
from dali_pipes.release.paths import ALIASES


@dataclass(frozen=True)
class Arguments(Output):
    """Compare training recipes."""

    release: Path
    """A release in any form, preferably a rendered one of 1,000 tiles or more."""
    out: Path = Path("runs/ablation")
    """Folder for results.jsonl and for the unfinished run."""
    seeds: int = 3
    """Number of seeds per recipe, starting at 0."""
    epochs: int = 6
    """Epochs of each run."""
    splits: tuple[Literal["scene", "official"], ...] = ("scene", "official")
    """Validation samples to compare on."""
    only: Annotated[tuple[str, ...], default_is("all")] = ()
    """Names of the recipes to run."""
    size: int = 80
    """Side of the letterboxed frame in pixels."""
    threads: int = 0
    """Threads of DALI; 0 means all cores of this process."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    quick: bool = False
    """Run the reference's recipe and ours with one seed, two epochs and 32² only, to check that the command works."""
    markdown: Path | None = None
    """File for the tables in Markdown."""
    figure: Path | None = None
    """File for a figure of the validation RMSE of every run; its suffix sets the format."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, seeds=self.seeds, epochs=self.epochs)
        unknown = sorted(set(self.only) - set(recipes()))
        if unknown:
            raise InputError(f"--only knows no recipe {unknown[0]!r}; expected some of: {', '.join(recipes())}")


def planned(arguments: Arguments) -> list[Run]:
    """All runs: every seed of the chosen recipes on the scene split, and of two of them on the official split."""
    chosen = [name for name in recipes() if not arguments.only or name in arguments.only]
    seeds, epochs, size = arguments.seeds, arguments.epochs, arguments.size
    if arguments.quick:
        chosen, seeds, epochs, size = [REFERENCE, OURS], 1, 2, 32

    def one(split: str, name: str, seed: int) -> Run:
        config = configuration(name, split=split, seed=seed, epochs=epochs, size=size)
        data = replace(config.data, threads=arguments.threads)
        return Run(split, name, seed, replace(config, device=arguments.device, data=data))

    return [
        one(split, name, seed)
        for seed in range(seeds)
        for split in arguments.splits
        for name in chosen
        if split == "scene" or name in (REFERENCE, OURS)
    ]


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.ablate", description=__doc__, aliases=ALIASES)
        from bench.ablate.runs import results_of
        from bench.ablate.tables import draw, tables_of
        from train.machine.choices import choose_device

        results = results_of(planned(arguments), arguments.release, arguments.out)
        tables = tables_of(results)
        if arguments.markdown:
            write_text(arguments.markdown, "\n\n".join(as_markdown(as_plain(table)) for table in tables) + "\n")
        if arguments.figure:
            draw(results, arguments.figure)
        report(
            tables,
            {"bench": "ablate", **asdict(arguments), "results": results},
            choose_device(arguments.device),
            arguments.json,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
