"""The scripts of tests/chaos/ in short: a few kills, the faults that are made quickly, and two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def told(script: str, *flags: str) -> Any:
    """The JSON line of `python -m tests.chaos.SCRIPT`, which must end well."""
    command = [sys.executable, "-m", f"tests.chaos.{script}", *flags]
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_ranks_that_are_killed_lose_nothing() -> None:
    tally = told("kills", "--kills", "3")
    assert (tally["kills"], tally["faults"]) == (3, [])


def test_after_a_fault_a_run_goes_on_or_is_refused_in_one_sentence() -> None:
    cases = "SIGUSR1", "a full disk", "the release cut short", "a foreign last.pt"
    outcomes = told("faults", "--only", *cases)
    assert set(outcomes) == set(cases)
    assert all("continued" in outcome or outcome.startswith("skipped: ") for outcome in outcomes.values())


def test_of_two_nodes_one_is_lost_and_the_job_goes_on_or_stops_as_configured() -> None:
    assert told("nodes")["wrong"] == []
