"""Parse a command line into a frozen dataclass, and check an output file; errors are one sentence."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from contextvars import ContextVar
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from .capacity import check_address_space
from .errors import InputError

WITHOUT_TORCH = ("dali_pipes", "bench.render", "bench.fill", "train.compare")
"""Commands that run in a small address space."""

NO_VALUE = (["none"], ["None"])
"""What a user may type where an optional value is absent; a file of this name is ./none."""

Arguments = TypeVar("Arguments")

PROGRAM: ContextVar[str] = ContextVar("PROGRAM")
"""The command as `chimney` names it, such as "chimney train"; not set under `python -m`."""


def program(module: str) -> str:
    """How the user started the command of `module`, to show in sentences and examples."""
    return PROGRAM.get(f"python -m {module}")


def other_program(name: str, module: str) -> str:
    """How to start another command in the user's shell: "chimney predict", or `python -m` with this interpreter.

    A program that the shell would not find by its name has its path.
    """
    if PROGRAM.get("").startswith("chimney"):
        script = "chimney" if shutil.which("chimney") else str(Path(sys.executable).with_name("chimney"))
        return f"{shlex.quote(script)} {name}"
    return f"{this_python()} -m {module}"


def this_python() -> str:
    """This interpreter, as the user's shell would start it."""
    return "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)


def parse(
    arguments: type[Arguments],
    argv: Sequence[str],
    *,
    module: str,
    description: str | None,
    default: Arguments | None = None,
    aliases: Mapping[str, str] = {},
) -> Arguments:
    """Parse `argv` into `arguments`, for `python -m module`; `aliases`: other names of flags → the flags.

    Raises InputError if a flag is unknown, missing or has a bad value, or if `ulimit -v` leaves too little for torch.
    `--help` prints the help and exits with 0.
    """
    prog = program(module)
    stderr = io.StringIO()
    defaults: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(stderr):
            parsed = tyro.cli(
                arguments,
                args=[_without_alias(argument, aliases) for argument in argv],
                prog=prog,
                description=_reflowed(description or "").replace(f"python -m {module}", prog),
                registry=_registry(),
                **defaults,
            )
            if not module.startswith(WITHOUT_TORCH):
                check_address_space()
            return parsed
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(f"{_sentence(stderr.getvalue())}; see {prog} --help") from None


def _without_alias(argument: str, aliases: Mapping[str, str]) -> str:
    name, equals, value = argument.partition("=")
    return f"{aliases.get(name, name)}{equals}{value}"


def _reflowed(text: str) -> str:
    """`text` with each paragraph on one line; indented lines stay as they are. tyro wraps lines but joins none."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and lines[-1] and line and not line.startswith(" ") and not lines[-1].startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines).replace("\n\n ", "\n ")  # tyro begins a new line before each indented one


def _registry() -> ConstructorRegistry:
    """Rules for tyro: an optional value is shown as PATH, not as {None}|PATH; the words none and None mean no value."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        inner = [member for member in get_args(info.type) if member is not type(None)]
        if info.type_origin not in (Union, UnionType) or len(inner) != 1:
            return None
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(inner[0], info.markers))
        if not isinstance(spec, PrimitiveConstructorSpec):
            return None
        given = spec
        return replace(
            given,
            instance_from_str=lambda words: None if words in NO_VALUE else given.instance_from_str(words),
            is_instance=lambda value: value is None or given.is_instance(value),
            str_from_instance=lambda value: ["none"] if value is None else given.str_from_instance(value),
            choices=given.choices and (*given.choices, "none"),
        )

    return registry


def default_is(text: str) -> Any:
    """An annotation of a field whose help shows `text` as the default, because the value itself says nothing."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


def check_out(out: Path, flag: str = "--out") -> None:
    """Raise InputError if no file can be written to `out`, which `flag` named; commands call this before they start."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{flag} {out} lies in no folder; make {out.parent} first")
    if out.is_dir():
        raise InputError(f"{flag} takes a file, found a folder at {out}")
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permission bits do not show a read-only file system
    except OSError as error:
        raise InputError(f"{flag} {out} cannot be written: {error.strerror}; choose another folder") from None


def check_out_folder(out: Path) -> None:
    """Raise InputError if no folder can be made at `out`, or no file in it; commands call this before they start."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out takes a folder, found a file at {out}")
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
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
    lines = [re.sub(r"[─│╭╮╰╯]|-{9,}", "", line).rstrip() for line in box.splitlines()]
    lines = [line for line in lines if line.strip()][1:]
    error, _, hints = "\n".join(lines).partition("Perhaps you meant")
    error = re.split("For full helptext|Argument helptext|Arguments similar to", error)[0]
    missing, _, unknown = error.partition("Unrecognized options:\n")
    if flag := re.search(r"Missing value for argument '(--[^']+)'", missing):
        return f"{flag[1]} needs a value"
    if "Missing value for argument" in missing:  # of a path without a flag; tyro does not name what it found instead
        return "PATH is missing, or a flag before it is unknown"
    if "Missing from" in missing and (names := _named(missing) or ["PATH"]):
        also = f", and {' '.join(unknown.split())} is unknown" if unknown else ""
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing{also}"
    sentence, flags = " ".join(error.split()).rstrip("."), _named(hints)
    sentence = re.sub(r"Error parsing (\S+): .* int\(.*: ('.*')", r"\1 takes a whole number, found \2", sentence)
    sentence = re.sub(r"Error parsing (\S+): .* float.*: ('.*')", r"\1 takes a number, found \2", sentence)
    if choice := re.fullmatch(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)", sentence):
        names = re.findall(r"'([^']*)'", choice[3])
        close = get_close_matches(choice[1], names, 1)
        hint = f"; perhaps {close[0]}" if close else ""
        return f"{choice[2]} takes {', '.join(names[:-1])} or {names[-1]}, found {choice[1]!r}{hint}"
    sentence = re.sub(r"^Error parsing \S+: (?=--)", "", sentence)  # our own sentence, which names the flag itself
    return f"{sentence}; similar: {', '.join(flags)}" if flags else sentence


def _named(part: str) -> list[str]:
    """The flags that a part of tyro's box lists, with or without its frame; their help texts are further indented."""
    return re.findall(r"^ {5,6}(--[\w.-]+)", part, re.MULTILINE)
