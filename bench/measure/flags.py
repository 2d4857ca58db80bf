"""Checks of the flags of a benchmark."""

from __future__ import annotations

from dali_pipes.errors import InputError


def at_least(least: int, meaning: str = "", **flags: int) -> None:
    """Raise InputError if a flag is below `least`; the argument batch_size=0 is reported as --batch-size.

    `meaning` explains `least` to the user, such as "a batch".
    """
    for name, value in flags.items():
        if value < least:
            note = f" ({meaning})" if meaning else ""
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}{note}, found {value}")
