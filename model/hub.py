"""The Hugging Face hub, from which timm downloads the weights of ImageNet: is a download needed, and is one possible?

huggingface_hub tries a hub that does not answer for a minute. Here one request decides within seconds.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, NoReturn

from .errors import BackboneError

PATIENCE = 6.0
"""Seconds to wait for the hub's first answer, which takes four round trips: a slow connection has it in three. A user
who sets HF_HUB_ETAG_TIMEOUT to more waits that long."""

GATEWAY_ERRORS = (502, 503, 504)


def cached_weights(backbone: str) -> Path | None:
    """The weights of ImageNet of `backbone` in the hub's cache, or None.

    `backbone`: timm's name, with or without its tag, such as convnext_tiny.in12k_ft_in1k.
    """
    from huggingface_hub import constants

    repository = f"models--timm--{backbone}{'' if '.' in backbone else '.*'}"
    files = Path(constants.HF_HUB_CACHE).glob(f"{repository}/snapshots/*/model.safetensors")
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def check_download(backbone: str) -> None:
    """Raise BackboneError if the ImageNet weights of `backbone` have to be downloaded and the hub does not answer.

    Uses the hub's own settings: its cache, its proxies, a mirror in HF_ENDPOINT, and HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants

    if cached_weights(backbone):
        return
    if constants.HF_HUB_OFFLINE:
        refuse_download(backbone, f"HF_HUB_OFFLINE is set, and nothing is in {constants.HF_HUB_CACHE}")
    patience = max(PATIENCE, float(os.environ.get("HF_HUB_ETAG_TIMEOUT", 0)))
    answers: list[str] = []
    # A thread, because the timeout of a request starts again at each address and at each byte.
    request = threading.Thread(target=lambda: answers.append(_fault(constants.ENDPOINT, patience)), daemon=True)
    request.start()
    request.join(patience)
    fault = answers[0] if answers else f"no answer within {patience:.0f} s"
    if fault:
        refuse_download(backbone, f"{constants.ENDPOINT}: {fault}")


def _fault(endpoint: str, patience: float) -> str:
    """Why `endpoint` cannot be reached; empty if it answers, whatever the answer is."""
    from huggingface_hub import get_session

    try:
        response: Any = get_session().head(endpoint, timeout=patience)
    except Exception as error:  # the types depend on the version of huggingface_hub
        return str(error).strip() or type(error).__name__
    return f"HTTP status {response.status_code}" if response.status_code in GATEWAY_ERRORS else ""


def refuse_download(backbone: str, reason: str) -> NoReturn:
    """Raise BackboneError, which says that the weights of ImageNet cannot be downloaded, and what to do."""
    raise BackboneError(
        f"the ImageNet weights of {backbone} could not be downloaded from the Hugging Face hub ({reason});"
        f" download timm's model.safetensors of {backbone} elsewhere and pass --weights FILE, or train from random"
        " weights with --weights none"
    )
