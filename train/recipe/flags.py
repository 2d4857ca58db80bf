"""Flags from files: from a configuration in JSON or YAML, and from the folder of a run that is resumed.

A file is turned into the flags that a user would type, so its values are checked and reported like typed ones, and
flags on the command line, which come later, override them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from dali_pipes.errors import InputError
from dali_pipes.release.paths import ReleasePaths

from .config import Config, flatten


def flags_of_file(path: Path) -> list[str]:
    """The flags in `path`: the config.json of a run, or YAML with the names of flags. Raises InputError."""
    return flags_of(_read(path, "--config takes a run's config.json or a YAML file"))


def flags_of_run(run: Path) -> list[str]:
    """The flags that continue the run in the folder `run`: its configuration, its release and its folder.

    Raises InputError if there is no run.
    """
    if not (run / "config.json").is_file():
        raise InputError(f"--resume takes the folder of a run, found no config.json in {run}; check the path")
    settings = _read(run / "config.json", "--resume needs the configuration of the run")
    samples = _read(run / "samples.json", "--resume needs samples.json of the run, which names the release")
    paths = {field.name: samples[field.name] for field in fields(ReleasePaths) if field.name in samples}
    return [*flags_of(settings), *flags_of(paths), f"--out={run}", "--resume"]


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """The flags of settings that are nested as in config.json, dotted, or named like flags."""
    flags = []
    for name, value in flatten(settings):
        name = PLAIN.get(name.replace("-", "_"), name).replace("_", "-")
        if isinstance(value, bool):
            flags += [f"--{name}"] if value else []
        elif isinstance(value, (list, tuple)):
            raise InputError(f"expected one value for {name}, found a list of {len(value)}")
        else:
            flags.append(f"--{name}={value}")
    return flags


PLAIN = {
    f"{name}.{setting.name}": setting.name
    for name, part in vars(Config()).items()
    if is_dataclass(part)
    for setting in fields(part)
    if "AsPlainFlag" in str(setting.type)
}
"""Dotted name → flag of the settings whose flags have no prefix, such as data.split."""


def _read(path: Path, expected: str) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{expected}, found at {path}: {reason}") from None
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise InputError(f"{expected}, found at {path}: no names with values")
    return settings
