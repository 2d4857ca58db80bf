"""What "auto" was resolved to on this machine."""

from typing import NamedTuple


class Choice(NamedTuple):
    """A chosen value, and the reason as a text for the console."""

    value: str
    reason: str
