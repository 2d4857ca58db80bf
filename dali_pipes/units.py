"""Numbers as texts with their units: counts, metres and durations."""

from __future__ import annotations

import math


def count(n: int, noun: str) -> str:
    """A count with its noun: "1 scene", "2,000 scenes"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def metres(value: float) -> str:
    """`value` in metres with its unit."""
    return f"{number(value)}\N{NO-BREAK SPACE}m"


def number(value: float, digits: int = 2) -> str:
    """`value` with a real minus sign, a dash if it is not finite; from a million on only four digits are shown."""
    rounded = round(value, digits) + 0.0 if math.isfinite(value) else value  # -0.001 is 0.00, not −0.00
    text = f"{rounded:.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"
    return text.replace("-", "−") if math.isfinite(value) else "–"


def duration(seconds: float | None) -> str:
    """`seconds` in the two units that matter, a dash if they are unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def byte_size(count: int) -> str:
    """`count` bytes in GiB, or in MiB below half a GiB: "1.2 GiB", "310 MiB"."""
    return f"{count / 2**20:.0f} MiB" if count < 2**29 else f"{count / 2**30:.1f} GiB"
