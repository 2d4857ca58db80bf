"""Train a chimney-height model on a release of AI Hub 71805, and write its report.

On one device, and on the eight GPUs of a machine:

    python -m train --release DIR --preset reference --out runs/one
    torchrun --nproc-per-node 8 -m train --release DIR --preset reference --out runs/one
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dali_pipes import command
from dali_pipes.command import default_is
from dali_pipes.console import ProgressStyle, activity, open_console
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.release.paths import ALIASES as RELEASE_ALIASES
from dali_pipes.release.paths import ReleasePaths
from model import BackboneError, CheckpointError
from model.hub import check_download

from .recipe.config import ALIASES, Config
from .recipe.flags import flags_of_file, flags_of_run
from .recipe.presets import PRESETS, Preset
from .run.console import RunConsole
from .run.lease import lease
from .run.output import output_may_close
from .run.parent import end_with_torchrun
from .run.place import LostRank, Place, one_error_per_node
from .run.signals import Signals, Stopped, ignore_echoes

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Arguments:
    """Train on a release, and write the run folder."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    out: Annotated[Path | None, default_is("runs/DATE-PRESET")] = None
    """Run folder to write: checkpoints, metrics.jsonl, report.html and predictions.csv."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    """The preset gives the defaults."""

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """File with settings: the config.json of a run, or YAML with the names of flags.
    Flags on the command line override it."""

    preset: Preset = "reference"
    """The recipe that gives the other flags their defaults."""

    resume: bool = False
    """--resume RUN continues the run in the folder RUN where it stopped, even within an epoch, without other flags.
    --resume with --out and all other flags does the same, and starts the run if there is none."""

    progress: ProgressStyle = "auto"
    """How to show progress. bar: a bar that moves. plain: at most one line in ten seconds.
    auto: bar on a terminal; plain elsewhere, and in notebooks and CI."""


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line, a file of --config and the run of --resume.

    --preset is read first, since it gives the other flags their defaults. Raises InputError.
    """
    argv, run = _without_resumed_run(argv)
    run = str(Path(run).parent) if Path(run).name == "last.pt" else run  # as other trainers want it
    files = flags_of_run(Path(run)) if run else []
    for file in _values(argv, "--config"):
        flags = flags_of_file(Path(file))
        try:
            _parse([f"--release={file}", *flags])
        except InputError as error:
            raise InputError(f"{file} has a wrong setting: {error}") from None
        files += flags
    try:
        arguments = _parse([*files, *argv])
    except InputError as error:
        if "--release is missing" not in str(error) or not ("--resume" in argv or _values(argv, "--config")):
            raise
        why = "to continue a run, name its folder: --resume RUN" if "--resume" in argv else "the --config names none"
        raise InputError(f"--release is missing; {why}") from None
    if run and arguments.out != Path(run):
        raise InputError(f"--resume {run} names the run folder, found --out {arguments.out} as well; leave out --out")
    return arguments


def _parse(argv: Sequence[str]) -> Arguments:
    preset = PRESETS.get(next(reversed(_values(argv, "--preset")), "reference"), PRESETS["reference"])
    default = Arguments(paths=ReleasePaths(tyro.MISSING), config=preset())
    aliases = {**ALIASES, **RELEASE_ALIASES}
    return command.parse(Arguments, argv, module="train", description=__doc__, default=default, aliases=aliases)


def _values(argv: Sequence[str], flag: str) -> list[str]:
    """The values of a flag, from `--flag value` and `--flag=value`."""
    return [
        value
        for argument, following in pairwise([*argv, ""])
        for value in ([following] if argument == flag else [argument.partition("=")[2]])
        if argument.partition("=")[0] == flag
    ]


def _without_resumed_run(argv: Sequence[str]) -> tuple[list[str], str]:
    """`argv` without `--resume RUN`, and RUN; `--resume` without a value stays, and RUN is empty."""
    for i, (argument, following) in enumerate(pairwise([*argv, "-"])):
        if argument == "--resume" and not following.startswith("-"):
            return [*argv[:i], *argv[i + 2 :]], following
        if argument.startswith("--resume="):
            return [*argv[:i], *argv[i + 1 :]], argument.partition("=")[2]
    return list(argv), ""


def default_out(preset: str, place: Place) -> Path:
    """runs/DATE-PRESET, with a number if there is such a folder.

    Raises InputError under torchrun, where a restart has to find the folder of the first start.
    """
    if place.world_size > 1:
        raise InputError("under torchrun a restart has to find the run folder; name it with --out")
    first = Path("runs") / f"{date.today():%Y-%m-%d}-{preset}"
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(folder for folder in chain([first], others) if not folder.exists())


def run(
    config: Config, release: ReleasePaths | Path, out: Path, *, resume: bool, console: RunConsole | None = None
) -> None:
    """Train on every rank, then write the report on rank 0. Arguments and errors are those of `train`.

    Meanwhile no other process can write into `out`.
    """
    is_rank_zero = Place.from_environment().is_rank_zero
    console = console or RunConsole(open_console(quiet=not is_rank_zero))
    only_writer = lease(out) if is_rank_zero else nullcontext()
    with Signals(), only_writer, console:  # also between training and report, and while torch is imported
        if config.pretrained(out) == "imagenet":
            check_download(config.backbone)  # before torch is imported, which takes seconds
        console.stage("loading PyTorch and DALI")
        from .engine.run import train
        from .evaluate import report

        finished = train(config, release, out, resume=resume, console=console)
        if finished.training.place.is_rank_zero:
            report(finished)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input; run/signals.py lists the statuses of signals."""
    end_with_torchrun()
    place = Place.from_environment()
    with (
        output_may_close(),
        exits_with_one_sentence(BackboneError, CheckpointError, LostRank),
        one_error_per_node(place),
    ):
        arguments = parse(argv)
        try:
            if arguments.out is None and arguments.resume:
                raise InputError("--resume needs the folder of the run; use --resume RUN, or add --out RUN")
            out = arguments.out or default_out(arguments.preset, place)
            console = open_console(arguments.progress, quiet=not place.is_rank_zero)
            run(arguments.config, arguments.paths, out, resume=arguments.resume, console=RunConsole(console))
            if arguments.config.init_from and place.is_rank_zero:
                with Signals(), activity(console, "comparing both networks"):
                    _promote_or_keep(arguments, out, console)
        except Stopped as stopped:
            ignore_echoes()
            if place.is_rank_zero:
                print(stopped, file=sys.stderr)
            raise SystemExit(stopped.status) from None


def _promote_or_keep(arguments: Arguments, out: Path, console: Console) -> None:
    """Exit with status 3 if the network of --init-from should be kept; see promotion.py."""
    from torch.distributed import is_torchelastic_launched

    from .deploy.verdict import EXIT_KEEP, judge_runs

    config = arguments.config
    decided, _ = judge_runs(
        Path(str(config.init_from)),
        out,
        arguments.paths,
        device=config.device,
        statistics=None if config.statistics is None else Path(config.statistics),
        console=console,
    )
    if decided == "keep" and not is_torchelastic_launched():  # torchrun would restart the ranks
        raise SystemExit(EXIT_KEEP)


if __name__ == "__main__":
    main(sys.argv[1:])
