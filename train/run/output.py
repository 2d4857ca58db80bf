"""Training goes on when its output is closed: by `| head`, or by a terminal that is gone.

Everything that matters is in the run folder. A command whose output is its result ends instead: see
dali_pipes/errors.py.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

CLOSED = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)  # a pipe without a reader, a terminal that is gone


@contextmanager
def output_may_close() -> Iterator[None]:
    """Within this block, what is printed to a closed stdout or stderr is lost, and no error is raised."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _MayClose(stream)) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _MayClose:
    """A stream that drops what it cannot write. `stream` is None if the process was started without it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`, or drop it."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop what is buffered."""
        with self._dropping():
            self._stream.flush()

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in CLOSED:
                raise
            with suppress(OSError, ValueError):  # also what is still buffered, and what libraries print
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
