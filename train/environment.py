"""Show what this machine offers for training, and what to change on it.

    python -m train.environment [--json]

Exit status: 0 if training can start, although advice may be shown; 1 if torch does not see the GPU that is installed,
or if there is not exactly one wheel of DALI.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from dali_pipes.command import parse
from dali_pipes.console import cell
from dali_pipes.errors import exits_with_one_sentence

from .machine.hardware import as_json, facts, look, ready, versions


@dataclass(frozen=True)
class Arguments:
    """Show what this machine offers for training, and what to change on it."""

    json: bool = False
    """Print one JSON object instead of the table."""


def main(argv: list[str]) -> None:
    """The command; see the docstring of this file for its exit status."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="train.environment", description=__doc__)
        machine = look()
        if arguments.json:
            print(json.dumps(as_json(machine)))
        else:
            table = Table("", "found", "what to change", title="This machine", box=None, title_justify="left")
            for row in (*facts(machine), *versions().items()):
                table.add_row(*map(cell, row))
            Console().print(table)
        if not ready(machine):
            raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
