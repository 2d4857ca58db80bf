"""Refuses requests that no page of this server makes, and sends headers that keep a page from doing more than it must.

Any web site can make a browser send requests to a local server. Three checks refuse them:

    Host              a name that an attacker owns may resolve to 127.0.0.1 (DNS rebinding); only local names pass
    Sec-Fetch-Site    a browser states whether a request comes from this page; only `same-origin` and `none` pass
    Origin            for browsers without the former, and for each request that changes something
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """An ASGI application around another one. `host`: the address that the server is bound to."""

    def __init__(self, application: Application, host: str) -> None:
        self._application, self._host = application, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with 403 and a sentence, or pass it on and add the headers to its response."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in present)]
            await send(message)

        opens_page = scope["method"] == "GET" and scope["path"] == "/"  # a link on any site may lead to the page itself
        if refusal := self._refusal(scope["method"], headers, opens_page):
            await _refuse(send_guarded, refusal)
        else:
            await self._application(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: dict[str, str], opens_page: bool) -> str:
        host = headers.get("host", "")
        if not _is_allowed(host, self._host):
            return "This server answers only to its own address."
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not opens_page:
            return "This server answers only its own page."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "This server answers only its own page."
        if method not in ("GET", "HEAD") and origin is None and "sec-fetch-site" not in headers:
            return "A request that changes something needs the header Origin."
        return ""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_allowed(header: str, bound: str) -> bool:
    """Whether a Host header names this server: no domain passes but localhost and the one that was asked for."""
    host = header.rpartition("]")[0] + "]" if header.startswith("[") else header.partition(":")[0]
    if host.lower() in ("localhost", bound.lower()):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(bound)


async def _refuse(send: Send, sentence: str) -> None:
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
