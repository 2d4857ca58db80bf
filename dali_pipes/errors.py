"""Errors of bad input, and how commands report them.

Each command runs inside `exits_with_one_sentence`: an `InputError` becomes one line on stderr and exit status 2,
without a traceback. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path

from .console import accept_all_characters, printable

MORE_MEMORY = "free some, raise the limit of the container or of ulimit -v, or lower --batch-size"

_NO_MEMORY = (  # phrases of torch, CUDA, C++, the kernel, the dynamic linker and Python's threads
    *("can't allocate memory", "out of memory", "bad_alloc", "Cannot allocate memory", "failed to map segment"),
    *("can't start new thread", "cannot allocate memory in static TLS"),
)


class InputError(ValueError):
    """The data, flags or files of the user are wrong.

    The message is one sentence for the user: what was expected, what was found, where, and what to do.
    """


class CutShort(InputError):
    """An archive has no central directory at its end: the file is incomplete, or not a ZIP."""


class OtherKind(InputError):
    """An archive or a folder has no file of the expected kind."""


class UnreadableMember(InputError):
    """A single member of an archive cannot be read; its samples are skipped."""


@contextmanager
def exits_with_one_sentence(*also: type[Exception]) -> Iterator[None]:
    """Turn bad input into `error: <sentence>` on stderr and exit status 2, and Ctrl-C into exit status 130.

    Bad input is an `InputError`, one of `also`, an OSError such as a full disk, or too little memory. A command runs
    inside it, so that it can also print every name and sign. If the reader of stdout has ended, such as `| head -1`,
    the command ends quietly with status 141, like a Unix tool.
    """
    accept_all_characters()
    try:
        yield
        if sys.stdout:
            sys.stdout.flush()  # otherwise Python flushes at its end, and reports a closed pipe by a traceback
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        raise SystemExit(141) from None  # 128 + SIGPIPE
    except OSError as error:  # a full disk, a folder where a file should be, no permission
        where, why = str(error.filename or "a file"), error.strerror or str(error)
        print(f"error: cannot read or write {printable(where)}: {printable(why)}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        if lacks_memory(error):
            print(f"error: the memory ran out: {printable(first_line(error))}; {MORE_MEMORY}", file=sys.stderr)
            raise SystemExit(2) from None
        if not isinstance(error, (InputError, *also)):
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None


def lacks_memory(error: BaseException) -> bool:
    """Whether Python, numpy, torch, CUDA or the dynamic linker could not allocate memory."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _NO_MEMORY)


def first_line(error: BaseException) -> str:
    """The first line of an error of a library, or the name of its type; at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def refuse_hidden_packages(*names: str) -> None:
    """Raise InputError if a file or folder of the user hides one of these packages of this project.

    `python -m` and notebooks look for modules in the working folder first. `train` and `bench` call this before they
    import anything; under `python -m`, where no command runs yet, the sentence ends the process.
    """
    root = Path(__file__).parents[1]
    with exits_with_one_sentence() if sys.argv[:1] == ["-m"] else nullcontext():
        for name in names:
            spec = find_spec(name)
            places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
            foreign = [place for place in places if place and root not in Path(place).parents]
            if foreign:
                raise InputError(
                    f"{foreign[0]} hides the package {name} of this project, because Python looks into the working"
                    " folder first; use the command chimney instead of python -m, or another working folder"
                )
