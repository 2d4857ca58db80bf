"""How a step scales with GPUs, on paper: gradient bytes, link bandwidth and step time; nothing here was measured.

    python -m bench.scaling_model

A ring all-reduce of P bytes over n ranks sends 2 (n - 1) / n · P over the slowest link of each, in 2 (n - 1) messages
(Patarasuk and Yuan, 2009); NCCL's trees need about 2 log2(n) of them, which is what is counted here.  Of it, what
fits into the backward, two thirds of a step, is hidden, since the gradients of one bucket travel while the next ones
are computed:

    reduce(n) = 2 (n - 1) / n · P / bandwidth + 2 log2(n) · latency
    step(n)   = compute + max(0, reduce(n) - 2/3 · compute),    efficiency(n) = compute / step(n)
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from dali_pipes.command import parse

BACKWARD = 2 / 3  # of a step: it multiplies twice what the forward does
WITHIN_A_NODE = 8  # ranks


@dataclass(frozen=True)
class Arguments:
    """What is assumed; the defaults are ConvNeXt-base on GPUs of 2020 with NVLink and one 200 Gbit/s port each."""

    parameters: float = 88.6e6
    """Of the network; ConvNeXt-base has 88.6 million."""

    bytes_each: int = 4
    """Of a gradient on the link: 4 for fp32, 2 with --runtime.reduce bf16."""

    batch: int = 64
    """Samples a rank and step."""

    samples_per_s: float = 500
    """Of one rank alone."""

    within: float = 200e9
    """Bytes a second of a rank's link to the others of its node."""

    between: float = 20e9
    """Bytes a second of a rank's link to other nodes."""

    latency: float = 10e-6
    """Seconds a message."""


@dataclass(frozen=True)
class Scaling:
    """A row of the table; times in seconds."""

    ranks: int
    compute: float
    reduce: float
    step: float
    efficiency: float
    samples_per_s: float


def scaling(assumed: Arguments, ranks: int) -> Scaling:
    """The step of `ranks` ranks with a batch of `assumed.batch` each."""
    compute = assumed.batch / assumed.samples_per_s
    bandwidth = assumed.within if ranks <= WITHIN_A_NODE else assumed.between
    sent = 2 * (ranks - 1) / ranks * assumed.parameters * assumed.bytes_each
    reduce = sent / bandwidth + 2 * math.log2(ranks) * assumed.latency
    step = compute + max(0.0, reduce - BACKWARD * compute)
    return Scaling(ranks, compute, reduce, step, compute / step, ranks * assumed.batch / step)


def main(argv: list[str]) -> None:
    """Print the table, and as the last line one JSON object."""
    assumed = parse(Arguments, argv, module="bench.scaling_model", description=__doc__)
    table = Table(box=None)
    for name in ("ranks", "batch", "compute, ms", "reduce, ms", "step, ms", "efficiency", "samples/s"):
        table.add_column(name, justify="right")
    rows = [scaling(assumed, ranks) for ranks in (1, 8, 64, 1024)]
    for row in rows:
        times = (f"{1000 * seconds:.1f}" for seconds in (row.compute, row.reduce, row.step))
        batch = f"{row.ranks * assumed.batch:,}"
        table.add_row(f"{row.ranks:,}", batch, *times, f"{row.efficiency:.0%}", f"{row.samples_per_s:,.0f}")
    Console().print(table)
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main(sys.argv[1:])
