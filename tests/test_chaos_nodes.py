"""A short version of tests/chaos/nodes.py, and of the scripts that disturb files instead of runs."""

from __future__ import annotations

from pathlib import Path

from tests.test_chaos import result_of


def test_after_losing_a_node_a_job_continues_on_the_other_one(release: Path) -> None:
    assert result_of("nodes", release, "--nnodes", "1:2")["wrong"] == []


def test_a_flipped_bit_is_never_silent(release: Path) -> None:
    tally = result_of("corruption", release, "--every", "60")
    assert (tally["silent"], tally["faults"]) == (0, [])
    assert tally["corruptions"] > 50


def test_killed_commands_leave_no_torn_or_stale_file_and_no_process(release: Path) -> None:
    tally = result_of("commands", release, "--kills", "2", "--only", "predict", "inspect")
    assert (tally["kills"], tally["faults"]) == (2, [])
