"""The memory for streaming depends neither on the size of the release nor on the number of steps."""

from __future__ import annotations

from pathlib import Path

from bench.measure.fresh import resident


def test_a_release_of_two_thousand_times_the_samples_streams_in_the_same_memory(release: Path) -> None:
    small, large = (resident(release, "cpu", batch_size=16, batches=60, times=times) for times in (1, 2000))
    more = large["rows"] - small["rows"]
    assert more > 100_000
    # Allowed: an order and a few numbers per sample, and allocator noise. A tile has 150,528 bytes.
    assert large["bytes"] - small["bytes"] < 256 * more
    assert large["bytes"] - large["bytes_halfway"] < 64 << 20, "29 batches would add 116 MB if they were kept"
