"""Short versions of the scripts in tests/chaos/: a few kills, the quick faults, and two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def result_of(script: str, *flags: str) -> Any:
    """The JSON line of `python -m tests.chaos.SCRIPT`, which must succeed."""
    command = [sys.executable, "-m", f"tests.chaos.{script}", *flags]
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_killed_ranks_lose_nothing() -> None:
    tally = result_of("kills", "--kills", "3")
    assert (tally["kills"], tally["faults"]) == (3, [])


def test_after_a_fault_a_run_continues_or_is_refused_in_one_sentence() -> None:
    cases = "SIGUSR1", "a full disk", "the release cut short", "a foreign last.pt"
    outcomes = result_of("faults", "--only", *cases)
    assert set(outcomes) == set(cases)
    assert all("continued" in outcome or outcome.startswith("skipped: ") for outcome in outcomes.values())


def test_after_losing_a_node_a_job_continues_or_stops_as_configured() -> None:
    assert result_of("nodes")["wrong"] == []
