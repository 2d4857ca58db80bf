"""Parse a command line into a frozen dataclass, and check an output file; errors are one sentence."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import tyro

from .errors import InputError

Arguments = TypeVar("Arguments")

PROGRAM: ContextVar[str] = ContextVar("PROGRAM")
"""The command as `chimney` names it, such as "chimney train"; not set under `python -m`."""


def program(module: str) -> str:
    """How the user started the command of `module`, to show in sentences and examples."""
    return PROGRAM.get(f"python -m {module}")


def parse(
    arguments: type[Arguments],
    argv: Sequence[str],
    *,
    module: str,
    description: str | None,
    default: Arguments | None = None,
) -> Arguments:
    """Parse `argv` into `arguments`, for `python -m module`.

    Raises InputError if a flag is unknown, missing or has a bad value. `--help` prints the help and exits with 0.
    """
    prog = program(module)
    description = (description or "").replace(f"python -m {module}", prog)
    options = (tyro.conf.FlagCreatePairsOff,)  # --resume without --no-resume
    stderr = io.StringIO()
    defaults: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(stderr):
            return tyro.cli(arguments, args=argv, prog=prog, description=description, config=options, **defaults)
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(f"{_sentence(stderr.getvalue())}; see {prog} --help") from None


def check_out(out: Path) -> None:
    """Raise InputError if no file can be written to `out`; commands ask this before their work."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--out {out} lies in no folder; make {out.parent} first")
    if out.is_dir():
        raise InputError(f"--out takes a file, found a folder at {out}")
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permission bits do not show a read-only file system
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}; choose another folder") from None


def at_least(least: int, meaning: str = "", **flags: int) -> None:
    """Raise InputError if a flag is below `least`; the argument batch_size=0 is reported as --batch-size.

    `meaning` explains `least` to the user, such as "a batch".
    """
    for name, value in flags.items():
        if value < least:
            note = f" ({meaning})" if meaning else ""
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}{note}, found {value}")


def _sentence(box: str) -> str:
    """Extract the error from tyro's box, without its frame, its title and its help texts."""
    lines = [re.sub(r"[─│╭╮╰╯]|-{9,}", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line][1:]
    sentence = []
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext", "Perhaps you meant")):
            break
        sentence.append(line)
    return " ".join(sentence).rstrip(".")
