"""The lower bounds of setup.cfg as a constraints file for pip."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path


def lowest(setup: Path) -> list[str]:
    """`name==version` for each `name>=version` in setup.cfg, extras included.

    Packages without a bound are left to pip. Raises ValueError for a requirement of another form.
    """
    config = ConfigParser()
    config.read_string(setup.read_text("utf-8"))
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    pins: dict[str, None] = {}  # in order, each once: extras repeat each other
    for line in "\n".join(lists).splitlines():
        requirement = line.split("#")[0].strip()
        found = re.fullmatch(r"([\w.-]+)(?:>=([\w.]+))?", requirement)
        if requirement and not found:
            raise ValueError(f"expected NAME or NAME>=VERSION in {setup}, found {requirement!r}")
        if found and found[2]:
            pins[f"{found[1]}=={found[2]}"] = None
    return list(pins)
