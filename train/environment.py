"""What is made of this machine: device, precision, compilation, each with its reason.

    python -m train.environment [--json]

As a command it tells what was found (train/machine/hardware.py) and what to change.  It exits with 0 where training can
begin, be it slower than it could be, and with 1 where a GPU is there that could not be used or DALI is missing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dali_pipes.command import parse
from dali_pipes.errors import exits_with_one_sentence

from .machine.hardware import Machine, advice, as_json, as_rows, blocks, look, versions


@dataclass(frozen=True)
class Arguments:
    """What was found on this machine, and what to change."""

    json: bool = False
    """Print one JSON object instead of the table."""


def main(argv: list[str]) -> None:
    """The command: exits with 1 where something keeps a GPU or DALI from being used."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="train.environment", description=__doc__)
        machine = look()
        if arguments.json:
            print(json.dumps(as_json(machine)))
        else:
            Console().print(table_of(machine))
        if blocks(machine):
            raise SystemExit(1)


def table_of(machine: Machine) -> Table:
    """A row a fact: what was found, and what to change."""
    found = advice(machine)
    table = Table(title="This machine", box=None, title_justify="left")
    for name in ("", "found", "what to change"):
        table.add_column(name)
    for name, value in as_rows(machine).items():
        table.add_row(name, escape(value), escape(found.get(name, "")))
    for package, version in versions().items():
        table.add_row(package, version, "")
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
