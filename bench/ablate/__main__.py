"""Measure the effect of each option of the training recipe: each option alone, the reference's recipe, and ours.

    python -m bench.ablate --release runs/release [runs/coast …] [--other …] --seeds 3 [--markdown FILE] [--figure FILE]

Every run trains the same small network, `--backbone` at `--size`², from random weights on the same samples. Its best
epoch is chosen on held-out scenes, and evaluated once on the validation samples. `--splits scene` validates on a fold
of unseen scenes. `--splits official` validates the reference's recipe and ours, or all that `--only` names, on scenes
seen in training; if a release was rendered with `--disjoint`, on unseen ones. The seed sets the weights, the order of
the samples, the fold and the held-out scenes. Recipes are compared seed by seed, because folds differ more than recipes
do.

It prints three tables for each split: the errors of all recipes, the same relative to the reference's recipe, and the
quality of the uncertainty. With `--other`, they follow for another release. They are valid for training from random
weights on rendered tiles, and say nothing about fine-tuning ImageNet weights on real ones.

Each finished run is one line of `results.jsonl` in `--out`, identified by a digest of its configuration and release.
The command therefore resumes where it was stopped, and more seeds or other options cost only the new runs. Start it
several times with the same `--out` to train in several processes: no run is trained twice. `--finished` prints the
tables of the runs that have finished. To merge two folders, join their `results.jsonl` into one file.
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

    release: tuple[Path, ...]
    """One or more releases in any form, preferably rendered ones of 1,000 tiles or more."""
    other: Annotated[tuple[Path, ...], default_is("none")] = ()
    """For each --release another one, of other scenes; each network is scored on all its samples as well.
    More scenes give more precise scores than the few of a validation split."""
    out: Path = Path("runs/ablation")
    """Folder for results.jsonl and for the unfinished run."""
    seeds: int = 3
    """Number of seeds per recipe, starting at 0."""
    epochs: int = 6
    """Epochs of each run."""
    splits: tuple[Literal["scene", "official"], ...] = ("scene", "official")
    """Validation samples to compare on."""
    only: Annotated[tuple[str, ...], default_is("all")] = ()
    """Names of the recipes to run, on all --splits."""
    size: int = 80
    """Side of the letterboxed frame in pixels."""
    backbone: str = "convnext_atto"
    """Any ConvNeXt of timm. test_convnext costs a fifth, and allows more epochs or larger frames."""
    finished: bool = False
    """Print the tables of the runs that have finished, and train none."""
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
        names = [release.resolve().name for release in self.release]
        if len(set(names)) < len(names):
            raise InputError(
                f"--release needs folders of different names, which the tables show; found {', '.join(names)}"
            )
        if self.other and len(self.other) != len(self.release):
            raise InputError(
                f"--other needs one release for each of the {len(self.release)} of --release, found {len(self.other)}"
            )
        unknown = sorted(set(self.only) - set(recipes()))
        if unknown:
            raise InputError(f"--only knows no recipe {unknown[0]!r}; expected some of: {', '.join(recipes())}")


def planned(arguments: Arguments) -> list[Run]:
    """All runs: the chosen recipes on every release, split and seed; by default two recipes on the official split."""
    only, seeds, epochs, size = arguments.only, arguments.seeds, arguments.epochs, arguments.size
    if arguments.quick:
        only, seeds, epochs, size = (REFERENCE, OURS), 1, 2, 32

    others = dict(zip(arguments.release, arguments.other, strict=bool(arguments.other)))

    def one(release: Path, split: str, name: str, seed: int) -> Run:
        config = configuration(name, split=split, seed=seed, epochs=epochs, size=size, backbone=arguments.backbone)
        data = replace(config.data, threads=arguments.threads)
        return Run(release, split, name, seed, replace(config, device=arguments.device, data=data), others.get(release))

    return [
        one(release, split, name, seed)
        for seed in range(seeds)
        for release in arguments.release
        for split in arguments.splits
        for name in recipes()
        if name in (only or (recipes() if split == "scene" else (REFERENCE, OURS)))
    ]


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.ablate", description=__doc__, aliases=ALIASES)
        from bench.ablate.runs import results_of
        from bench.ablate.tables import draw, tables_of
        from train.machine.choices import choose_device

        results = results_of(planned(arguments), arguments.out, train=not arguments.finished)
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
