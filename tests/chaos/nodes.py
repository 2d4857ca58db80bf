"""Two nodes: two torchrun agents that meet by c10d rendezvous; one is killed with its rank.

    python -m tests.chaos.nodes

A node is a network namespace if the kernel allows one, else a loopback address.  With `--nnodes 1:2` and one restart
the job continues on the remaining node, and ends with one metrics line per epoch.  With `--nnodes 2` it stops: the
other agent ends with one sentence and status 1, and the last checkpoint is intact.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dali_pipes.command import parse
from tests.chaos.runs import SMALL, faults_of, metrics, workplace

EPOCHS = 5
# A dead node is dropped after 3 s; a rendezvous waits 6 s for more nodes.
CONF = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=6,join_timeout=60"


@dataclass(frozen=True)
class Arguments:
    """Kill one of two nodes: once if the job may continue without it, and once if it may not."""

    nnodes: tuple[Literal["1:2", "2"], ...] = ("1:2", "2")
    """The jobs: 1:2 may continue without a node, 2 may not."""

    release: Path | None = None
    """A small rendered release. Default: a new one."""


@dataclass(frozen=True)
class Node:
    """An address, the prefix that runs a command there, and the network interface for gloo."""

    address: str
    within: tuple[str, ...]
    interface: str


@contextmanager
def two_nodes() -> Iterator[tuple[str, list[Node]]]:
    """The kind of the nodes, and the nodes."""
    names = [f"chaos{os.getpid()}{side}" for side in "ab"]
    links = [f"v{os.getpid()}{side}" for side in "ab"]
    nodes = [
        Node(f"10.197.0.{i + 1}", ("ip", "netns", "exec", name), link)
        for i, (name, link) in enumerate(zip(names, links, strict=True))
    ]
    kind = "network namespaces"
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", links[0], "netns", names[0], "type", "veth", "peer", "name", links[1], "netns", names[1])
        for name, link, node in zip(names, links, nodes, strict=True):
            _ip("-n", name, "addr", "add", f"{node.address}/24", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
            _ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError):
        kind, nodes = "loopback addresses", [Node(f"127.0.0.{i + 1}", (), "lo") for i in range(2)]
    try:
        yield kind, nodes
    finally:
        with suppress(OSError):
            for name in names:
                subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Agent:
    """A torchrun agent on a node, with one rank."""

    def __init__(self, node: Node, host: Node, nodes: str, restarts: int, release: Path, folder: Path) -> None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host.address}:29417", "--rdzv-id", folder.name]
        torchrun += ["--rdzv-conf", f"{CONF},is_host={int(node is host)}", "--local-addr", node.address]
        torchrun += ["--max-restarts", str(restarts), "-m", "train"]
        train = ["--release", str(release), "--out", str(folder), *SMALL, "--epochs", str(EPOCHS)]
        self._output = Path(f"{folder}.{node.address}")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*node.within, *torchrun, *train],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GLOO_SOCKET_IFNAME": node.interface, "OMP_NUM_THREADS": "1"},
            )

    @property
    def output(self) -> str:
        """All output of the agent and its rank."""
        return self._output.read_text()

    def kill(self) -> None:
        """Kill the agent and its rank at once, as a power cut does."""
        for process in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


def descendants(process: int) -> list[int]:
    """The child processes of `process`, and their descendants."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, children) for each in (child, *descendants(child))]


def lose_a_node(nodes: list[Node], count: str, restarts: int, release: Path, folder: Path) -> dict[str, Any]:
    """Start a job on both nodes, kill the second during training, and return how the first one ends."""
    agents = [Agent(node, nodes[0], count, restarts, release, folder) for node in nodes]
    try:
        while not (folder / "metrics.jsonl").exists():
            for agent in agents:
                if agent.process.poll() is not None:
                    raise RuntimeError(f"a node ended by itself: {agent.output[-2000:]}")
            time.sleep(0.01)
        together = "ranks: 2" in (folder / "environment.txt").read_text()
        ranks = descendants(agents[0].process.pid)
        agents[1].kill()
        killed = time.monotonic()
        status = agents[0].process.wait(180)
    finally:
        for agent in agents:
            if agent.process.poll() is None:
                agent.kill()
    output = agents[0].output
    return {
        "two ranks before": together,
        "status": status,
        "seconds": round(time.monotonic() - killed, 1),
        "epochs": [line["epoch"] for line in metrics(folder)],
        "resumed": "resuming" in output,
        "sentences": [line for line in output.splitlines() if line.startswith("error: ")],
        "left running": [process for process in ranks if Path(f"/proc/{process}").exists()],
        "faults": faults_of(folder),
    }


def expect(results: Mapping[str, dict[str, Any]]) -> list[str]:
    """The differences from the expected results of each job."""
    wrong = []
    for count, result in results.items():
        ended, sentences = result["epochs"] == list(range(1, EPOCHS + 1)), result["sentences"]
        wrong += [f"--nnodes {count}: {fault}" for fault in result["faults"]]
        if not result["two ranks before"]:
            wrong.append(f"--nnodes {count}: the nodes did not meet")
        if result["left running"]:
            wrong.append(f"--nnodes {count}: ranks outlived their agent")
        if count == "1:2" and (result["status"] or not result["resumed"] or not ended):
            wrong.append("--nnodes 1:2 did not continue to the end")
        if count == "2" and (result["status"] != 1 or ended):
            wrong.append("--nnodes 2 did not stop")
        if count == "2" and (len(sentences) != 1 or "lost another rank" not in sentences[0]):
            wrong.append("--nnodes 2 stopped without one sentence")
    return wrong


def main(argv: list[str]) -> None:
    """Print the result of each job, then one JSON object; exits with 1 if they are not as expected."""
    arguments = parse(Arguments, argv, module="tests.chaos.nodes", description=__doc__)
    with workplace(arguments.release) as (work, release), two_nodes() as (kind, nodes):
        results: dict[str, dict[str, Any]] = {
            count: lose_a_node(nodes, count, int(count == "1:2"), release, work / f"job{number}")
            for number, count in enumerate(arguments.nnodes)
        }
    wrong = expect(results)
    for count, result in results.items():
        print(f"--nnodes {count} on two {kind}: {result}")
    print(json.dumps({"nodes": kind, **results, "wrong": wrong}))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
