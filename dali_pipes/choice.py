"""What "auto" was resolved to on this machine."""

from typing import NamedTuple


class Choice(NamedTuple):
    """A value that was chosen, and the reason in words for the console."""

    value: str
    reason: str
