"""Inspect a release: counts, what was left out and why, and an audit of the labels."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from .command import parse
from .errors import exits_with_one_sentence
from .inspection import inspect


@dataclass(frozen=True)
class Arguments:
    """What to inspect."""

    release: tyro.conf.Positional[Path]
    """Folder with the release's four ZIP archives, TS_KS.zip and its sisters, at any depth."""


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        inspect(parse(Arguments, argv, module="dali_pipes", description=__doc__).release)


if __name__ == "__main__":
    main(sys.argv[1:])
