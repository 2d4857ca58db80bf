"""Put what benchmarks measured on a GPU into the README, in the places kept for them.

    python -m bench.fill README.md runs/gpu/loader.txt runs/gpu/step.txt

Each file is what one command printed, its name that of a place: the command itself as the first line,
`$ python -m bench.loader …`; as the last one the JSON object of a benchmark, whose tables are taken as they were
printed, or the summary of pytest.  The place is what stands between two comments, which stay:

    <!-- gpu:loader -->
    No GPU has run this yet.
    <!-- /gpu -->

The README is written whole or not at all, and not if any file was not measured on a GPU.  `bench/gpu.sh` does it all.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_text

NAMED = re.compile(r"torch|nvidia-dali-cuda\d+")  # packages whose versions a reader of the README is told


@dataclass(frozen=True)
class Arguments:
    """Put measurements into the README."""

    readme: tyro.conf.Positional[Path]
    """The file with the places."""
    printed: tyro.conf.Positional[tuple[Path, ...]]
    """What each command printed, one file a command, NAME.txt for the place gpu:NAME."""


def filled(readme: str, printed: Mapping[str, str]) -> str:
    """`readme` with each place filled by what its command printed.  Raises InputError where either cannot be."""
    for name, text in printed.items():
        block = in_words(name, text)
        place = re.compile(rf"(<!-- gpu:{re.escape(name)} -->\n).*?(<!-- /gpu -->)", re.DOTALL)
        if len(place.findall(readme)) != 1:
            raise InputError(f"expected one place <!-- gpu:{name} --> … <!-- /gpu --> in the README for {name}.txt")
        readme = place.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", readme)  # type: ignore[misc]
    return readme


def in_words(name: str, printed: str) -> str:
    """Markdown of what one command printed.  Raises InputError if it is cut short or was not measured on a GPU."""
    lines = printed.strip().splitlines() or [""]
    command = lines[0].removeprefix("$ ")
    if not lines[0].startswith("$ python -m "):
        raise InputError(f"expected the command, `$ python -m …`, as the first line of {name}.txt, found {command!r}")
    if re.fullmatch(r"=* ?\d+ passed\b[^=]*=*", lines[-1]) and not re.search("failed|error", lines[-1]):
        return f"`{command}`: {lines[-1].strip('= ')}"
    try:
        found = json.loads(lines[-1])
        hardware, tables = found["hardware"], [_markdown(table) for table in found["tables"]]
        if hardware["GPU"] == "none used":
            raise InputError(f"{name}.txt was not measured on a GPU; add --device cuda to its command")
        versions = ", ".join(f"{name} {version}" for name, version in hardware.items() if NAMED.fullmatch(name))
        machine = f"{hardware['GPU']}, {hardware['cores']} cores of {hardware['processor']}, {versions}"
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a benchmark's JSON object as the last line of {name}.txt, found none") from None
    return "\n\n".join([f"`{command}` on {machine}:", *tables])


def _markdown(table: Mapping[str, Any]) -> str:
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [table["columns"], *table["rows"]]]
    rule = ["---", *("---:" for _ in rows[0][1:])]
    lines = [f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]]
    around = [table["title"], "\n".join(lines), table["caption"]]
    return "\n\n".join(text for text in around if text)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.fill", description=__doc__)
        printed = {path.stem: path.read_text("utf-8") for path in arguments.printed}
        write_text(arguments.readme, filled(arguments.readme.read_text("utf-8"), printed))


if __name__ == "__main__":
    main(sys.argv[1:])
