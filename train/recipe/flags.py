"""Flags from files: from a configuration in JSON or YAML, and from the folder of a run that is resumed.

A file is turned into the flags that a user would type, so its values are checked and reported like typed ones, and
flags on the command line, which come later, override them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from dali_pipes.errors import InputError, first_line
from dali_pipes.files import read_text
from dali_pipes.release.paths import ReleasePaths

from .config import Config, flatten

DEEPEST = 8  # levels of YAML
LARGEST_SETTINGS = 64 << 10  # bytes of a file with settings or counts; config.json has 2 kB


def flags_of_file(path: Path) -> list[str]:
    """The flags in `path`: the config.json of a run, or YAML with the names of flags. Raises InputError."""
    return flags_of(_settings(path, "--config takes a run's config.json or a YAML file"))


def flags_of_run(run: Path) -> list[str]:
    """The flags that continue the run in the folder `run`: its configuration, its release and its folder.

    Raises InputError if there is no run.
    """
    if not (run / "config.json").is_file():
        raise InputError(f"--resume takes the folder of a run, found no config.json in {run}; check the path")
    settings = _settings(run / "config.json", "--resume needs the configuration of the run")
    samples = _read(run / "samples.json", "--resume needs samples.json of the run, which names the release")
    paths = {field.name: samples[field.name] for field in fields(ReleasePaths) if field.name in samples}
    if not all(isinstance(path, str) for path in paths.values()):
        raise InputError(f"--resume needs samples.json of the run, found at {run}: no paths; name the --release")
    return [*flags_of(settings), *flags_of(paths), f"--out={run}", "--resume"]


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """The flags of settings that are nested as in config.json, dotted, or named like flags."""
    flags = []
    for name, value in flatten(settings):
        name = PLAIN.get(name.replace("-", "_"), name).replace("_", "-")
        if isinstance(value, bool):
            group, dot, last = name.rpartition(".")
            flags.append(f"--{group}{dot}{'' if value else 'no-'}{last}")
        elif isinstance(value, (list, tuple)):
            raise InputError(f"expected one value for {name}, found a list of {len(value)}")
        elif "\0" in f"{name}{value}":  # a command line cannot contain it
            raise InputError(f"expected {name} without a NUL character, found {value!r}")
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
        text = read_text(path, LARGEST_SETTINGS)
        settings = json.loads(text) if path.suffix == ".json" else yaml.load(text, _WithoutAliases)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{expected}, found at {path}: {reason}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{expected}, found at {path}: no names with values")
    return settings


def _settings(path: Path, expected: str) -> dict[str, Any]:
    settings = _read(path, expected)
    if not is_settings(settings):
        raise InputError(f"{expected}, found at {path}: other levels than names with values, or other names than texts")
    return settings


def is_settings(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value from a file is nested as in config.json: names with values, or with names with values."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return False
    inner = [item for part in value.values() if isinstance(part, dict) for item in part.items()]
    return all(isinstance(name, str) and not isinstance(item, dict) for name, item in inner)


class _WithoutAliases(yaml.SafeLoader):
    """Plain values without aliases: a few aliases of aliases make a small file as large as the memory.

    Deeper levels than those of config.json end the reading, because the time grows with their square.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Raise YAMLError for an alias, and for a value that is nested too deeply."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{self.peek_event().anchor}, which is not supported: repeat its value")
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node
