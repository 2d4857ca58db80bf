"""How a command of this project says that its input is bad.

Every `python -m …` wraps its work in `exits_with_one_sentence`: an `InputError` raised anywhere below becomes
one line on stderr and exit status 2, without a traceback.  Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """The user's data, flags or files are wrong.

    The message is one sentence for the user: what was expected, what was found, where, and what to do.
    """


class CutShort(InputError):
    """An archive ends before its central directory does."""


class UnreadableMember(InputError):
    """One member of an archive cannot be read, while the others can: whoever lists samples leaves it out."""


@contextmanager
def exits_with_one_sentence(*also: type[Exception]) -> Iterator[None]:
    """Turn bad input into `error: <sentence>` on stderr and exit status 2, Ctrl-C into 130.

    Bad input is an `InputError`, one of `also`, or an OSError such as a full disk.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:  # a full disk, a folder where a file should be, no permission
        where = f" {error.filename}" if error.filename else ""
        print(f"error: cannot read or write{where}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        if not isinstance(error, (InputError, *also)):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
