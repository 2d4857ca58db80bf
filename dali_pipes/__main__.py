"""Inspect a release: its contents, its faults, and the samples to train on.

Shows counts by split, sensor and scene; what validation shares with training; the distributions of heights, lengths and
scales; everything that is skipped, with its reason; and an audit of the labels against the closed-form height.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from .command import parse
from .console import ProgressStyle, activity, open_console, printable
from .errors import exits_with_one_sentence
from .inspect.inspection import inspect
from .release.paths import ReleasePaths


@dataclass(frozen=True)
class _Paths(ReleasePaths):
    """The release to inspect."""

    release: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class Arguments:
    """What to inspect, and how to show it."""

    paths: Annotated[_Paths, tyro.conf.arg(name="")]
    json: bool = False
    """Print everything as a single JSON object."""
    html: Path | None = None
    """Also write an HTML page, with pictures of the flagged tiles, to this file."""
    against: Path | None = None
    """An earlier release; also show what was added, removed and changed since."""
    progress: ProgressStyle = "auto"
    """How to show progress. bar: a bar that moves. plain: at most one line in ten seconds.
    auto: bar on a terminal; plain elsewhere, and in notebooks and CI."""


def main(argv: list[str]) -> None:
    """Run the command. Bad input exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        run(parse(Arguments, argv, module="dali_pipes", description=__doc__))


def run(arguments: Arguments) -> None:
    """Inspect the release and show the result. Raises InputError."""
    shown = open_console(arguments.progress, stderr=True)
    with activity(shown, f"inspecting {arguments.paths.release}"):
        inspection = inspect(arguments.paths, arguments.against, shown)
        if arguments.html is not None:
            from .inspect.page import write_page

            write_page(arguments.html, inspection)
    if arguments.json:
        from .inspect.as_json import as_json

        print(json.dumps(as_json(inspection), allow_nan=False))
        return
    from .inspect.console import show

    show(inspection, Console())
    if arguments.html is not None:
        print(printable(f"page: {arguments.html}"))


if __name__ == "__main__":
    main(sys.argv[1:])
