"""Open a page to measure chimneys with: draw from base to top, review labels, take the results away.

    python -m train.measure --checkpoint best.pt
    python -m train.measure --checkpoint best.pt --images DIR/VS_KS.zip --polylines DIR/VL_KS_LINE.zip

It is one process on this machine, and works without the internet. Nothing in the input is changed: what you draw and
decide is kept in a file next to it, such as DIR/VL_KS_LINE.decisions.json. Ctrl-C ends the program.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from rich.console import Console

from dali_pipes import command
from dali_pipes.command import default_is
from dali_pipes.console import say
from dali_pipes.errors import InputError, exits_with_one_sentence
from model import BackboneError, CheckpointError


@dataclass(frozen=True)
class Arguments:
    """Serve a page to measure chimneys with, until Ctrl-C."""

    checkpoint: Path
    """A run folder, its best.pt or last.pt, or a .pth in the reference's layout."""

    images: tuple[Path, ...] = ()
    """Pictures to open at once, in any form that the command predict takes; the page can open others."""

    polylines: tuple[Path, ...] = ()
    """Their polylines, or their labels to review, in any form that the command predict takes."""

    decisions: Annotated[Path | None, default_is("next to --polylines, or to --images")] = None
    """Where what you draw and decide is kept."""

    port: int = 8710
    """The port of the page; 0 takes a free one."""

    host: str = "127.0.0.1"
    """The address to bind. Any other than this machine's own opens the page, and the pictures, to the network."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto for a GPU if there is one."""


def measure(arguments: Arguments) -> None:
    """Load the network and serve the page until it is interrupted. Raises InputError or CheckpointError."""
    if arguments.polylines and not arguments.images:
        raise InputError("--polylines needs the pictures that they were drawn on; name them with --images")
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise InputError(f"the page needs {' and '.join(missing)}; pip install -e .[page]")
    bound = _bound(arguments.host, arguments.port)
    console = Console()
    say(console, "loading the network …")
    import uvicorn

    from ..deploy.height_model import load
    from .server import application
    from .uploads import Uploads
    from .work import Work

    model = load(arguments.checkpoint, device=arguments.device)
    work = None
    if arguments.images:
        work = Work.opened(model, arguments.images, arguments.polylines, arguments.decisions)
        say(console, f"decisions are kept in {work.decisions.path}")
    host, port = bound.getsockname()[:2]
    say(console, f"open http://{f'[{host}]' if ':' in host else host}:{port}/ in a browser; Ctrl-C ends the program")
    served = application(model, work, Uploads(), arguments.host)
    config = uvicorn.Config(
        served,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=1 << 16,
    )
    uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError if the address or the port cannot be had."""
    if not 0 <= port < 1 << 16:
        raise InputError(f"--port takes a number from 0 to 65535, found {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port} cannot be bound: {error.strerror or error}; choose another --port"
        ) from None
    return bound


def main(argv: list[str]) -> None:
    """The command: on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        measure(command.parse(Arguments, argv, module="train.measure", description=__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
