"""A command line from a frozen dataclass, and a file to write, whose errors are one sentence like all others."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import tyro

from .errors import InputError

Arguments = TypeVar("Arguments")


def parse(
    arguments: type[Arguments],
    argv: Sequence[str],
    *,
    module: str,
    description: str | None,
    default: Arguments | None = None,
) -> Arguments:
    """Read `argv` into `arguments`, for `python -m module`.

    Raises InputError on a flag that is unknown, missing or has a bad value; `--help` prints and exits with 0.
    """
    prog = f"python -m {module}"
    options = (tyro.conf.FlagCreatePairsOff,)  # --resume, and no --no-resume
    said = io.StringIO()
    known: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(said):
            return tyro.cli(arguments, args=argv, prog=prog, description=description, config=options, **known)
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(f"{_sentence(said.getvalue())}; see {prog} --help") from None


def check_out(out: Path) -> None:
    """Raise InputError if no file can be made at `out`: better known before the work than after it."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"--out {out} lies in no folder; make {out.parent} first")
    if out.is_dir():
        raise InputError(f"--out takes a file, found a folder at {out}")
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permissions alone do not tell of read-only or odd file systems
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}; choose another folder") from None


def _sentence(box: str) -> str:
    """What stands in tyro's box, without its frame, its title and the help texts that it repeats."""
    lines = [re.sub(r"[─│╭╮╰╯]|-{9,}", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line][1:]
    told = []
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext", "Perhaps you meant")):
            break
        told.append(line)
    return " ".join(told).rstrip(".")
