"""Insert the figures that benchmarks measured on a GPU into a page, in the places reserved for them.

    python -m bench.fill docs/benchmarks.md runs/gpu/loader.txt runs/gpu/step.txt

Each text file is the output of one command, and is named after a place. The first line is the command itself, `$ python
-m bench.loader …`. The last line is the JSON object of a benchmark, which contains its tables, or the summary of
pytest. A place is the text between two comments, which are kept:

    <!-- gpu:loader -->
    No GPU has run this yet.
    <!-- /gpu -->

The page is changed only if all files were measured on a GPU. `bench/gpu.sh` runs all benchmarks and this command.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.measure.report import as_markdown
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import read_text, write_text

LARGEST = 16 << 20  # bytes of an output, or of the page
SHOWN = re.compile(r"torch|nvidia-dali-cuda\d+")  # packages whose versions the page shows


@dataclass(frozen=True)
class Arguments:
    """Insert measurements into a page."""

    page: tyro.conf.Positional[Path]
    """The Markdown file with the places, such as docs/benchmarks.md."""
    outputs: tyro.conf.Positional[tuple[Path, ...]]
    """Output of the commands, one file each: NAME.txt for the place gpu:NAME."""


def filled(page: str, outputs: Mapping[str, str]) -> str:
    """`page` with each place replaced by the output of its command. Raises InputError if that is impossible."""
    for name, output in outputs.items():
        block = described(name, output)
        place = re.compile(rf"(<!-- gpu:{re.escape(name)} -->\n).*?(<!-- /gpu -->)", re.DOTALL)
        if len(place.findall(page)) != 1:
            raise InputError(f"expected one place <!-- gpu:{name} --> … <!-- /gpu --> in the page for {name}.txt")
        page = place.sub(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", page)  # type: ignore[misc]
    return page


def described(name: str, output: str) -> str:
    """The output of one command in Markdown. Raises InputError if it is incomplete or was not measured on a GPU."""
    lines = output.strip().splitlines() or [""]
    command = lines[0].removeprefix("$ ")
    if not lines[0].startswith("$ python -m "):
        raise InputError(f"expected the command, `$ python -m …`, as the first line of {name}.txt, found {command!r}")
    if re.fullmatch(r"=* ?\d+ passed\b[^=]*=*", lines[-1]) and not re.search("failed|error", lines[-1]):
        return f"`{command}`: {lines[-1].strip('= ')}"
    try:
        result = json.loads(lines[-1])
        hardware, tables = result["hardware"], [as_markdown(table) for table in result["tables"]]
        if hardware["GPU"] == "none used":
            raise InputError(f"{name}.txt was not measured on a GPU; add --device cuda to its command")
        versions = ", ".join(f"{name} {version}" for name, version in hardware.items() if SHOWN.fullmatch(name))
        machine = f"{hardware['GPU']}, {hardware['cores']} cores of {hardware['processor']}, {versions}"
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a benchmark's JSON object as the last line of {name}.txt, found none") from None
    return "\n\n".join([f"`{command}` on {machine}:", *tables])


def main(argv: list[str]) -> None:
    """Run the command; on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.fill", description=__doc__)
        outputs = {path.stem: read_text(path, LARGEST) for path in arguments.outputs}
        write_text(arguments.page, filled(read_text(arguments.page, LARGEST), outputs))


if __name__ == "__main__":
    main(sys.argv[1:])
