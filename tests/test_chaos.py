"""Short versions of the scripts in tests/chaos/: a few kills, and faults that no other test causes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def result_of(script: str, release: Path, *flags: str) -> Any:
    """The JSON line of `python -m tests.chaos.SCRIPT`, which must succeed."""
    command = [sys.executable, "-m", f"tests.chaos.{script}", "--release", str(release), *flags]
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_killed_ranks_lose_nothing(release: Path) -> None:
    tally = result_of("kills", release, "--kills", "2", "--epochs", "2")
    assert (tally["kills"], tally["faults"]) == (2, [])


def test_after_a_fault_a_run_continues_or_is_refused_in_one_sentence(release: Path) -> None:
    cases = "no locks, hard links or folder fsync", "two writers of one file"
    outcomes = result_of("faults", release, "--only", *cases)
    assert set(outcomes) == set(cases)
    assert all("continued" in outcome for outcome in outcomes.values())
