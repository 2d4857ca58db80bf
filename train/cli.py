"""`chimney`: all commands under one name. `chimney train …` is `python -m train …`, and works in any folder.

Only the module of the chosen command is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from dali_pipes.command import PROGRAM
from dali_pipes.errors import InputError, exits_with_one_sentence

COMMANDS = {
    "inspect": ("dali_pipes.__main__", "show what a release contains, its faults and its samples"),
    "train": ("train.__main__", "train a network on a release, and write its report"),
    "evaluate": ("train.evaluate", "report a checkpoint on a release"),
    "predict": ("train.predict", "predict heights from tiles and polylines"),
    "measure": ("train.measure.__main__", "open a page to draw chimneys, measure them and review labels"),
    "export": ("train.export", "write a trained network as one file for deployment"),
    "compare": ("train.compare", "compare runs in one table and one figure"),
    "promote": ("train.promotion", "decide whether a new network replaces the old one"),
    "environment": ("train.environment", "check this machine, and say what to change"),
    "render": ("bench.render.__main__", "render a synthetic release, to try the commands without data"),
}
"""Name → module with a function `main`, and a line of help."""

BENCHMARKS = {
    "loader": ("bench.loader", "throughput of loading, and memory"),
    "step": ("bench.step", "throughput of the training step"),
    "epoch": ("bench.epoch", "whole epochs, and the time to a target RMSE"),
    "scale": ("bench.scale", "growth with samples and ranks"),
    "index": ("bench.index", "the check of all images"),
    "views": ("bench.views", "what each view of a tile costs"),
    "cold": ("bench.cold", "a cold start to the end of the first epoch's data"),
    "ranks": ("bench.ranks", "steps on several ranks, and saving"),
    "ablate": ("bench.ablate.__main__", "the value of each option of the recipe"),
    "fill": ("bench.fill", "insert GPU measurements into a page"),
    "picture": ("bench.picture", "the picture of the README"),
}
"""The same for the commands of `chimney bench`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command by its name; exit statuses are those of the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print("chimney", version("chimney-height"))
        return
    with exits_with_one_sentence():
        if arguments[:1] == ["bench"]:
            module = _chosen("chimney bench", BENCHMARKS, arguments[1:2])
            name, rest = " ".join(arguments[:2]), arguments[2:]
        else:
            listed = {**COMMANDS, "bench": ("", f"measure {', '.join(BENCHMARKS)}")}
            module = _chosen("chimney", listed, arguments[:1])
            name, rest = arguments[0], arguments[1:]
    token = PROGRAM.set(f"chimney {name}")
    try:
        import_module(module).main(rest)
    finally:
        PROGRAM.reset(token)


def _chosen(program: str, commands: Mapping[str, tuple[str, str]], name: list[str]) -> str:
    """The module of the command in `name`; without one, or with --help, print the list and exit with 0."""
    if name in ([], ["-h"], ["--help"], ["help"]):
        width = max(map(len, commands))
        lines = [f"  {command:<{width}}  {line}" for command, (_, line) in commands.items()]
        print("\n".join([f"usage: {program} COMMAND …\n", *lines, f"\n{program} COMMAND --help lists its flags."]))
        raise SystemExit(0)
    if name[0] not in commands:
        close = get_close_matches(name[0], commands, 1)
        hint = f"did you mean {program} {close[0]}?" if close else f"see {program} --help"
        raise InputError(f"expected a command of {program}, found {name[0]!r}; {hint}")
    return commands[name[0]][0]


if __name__ == "__main__":
    main()
