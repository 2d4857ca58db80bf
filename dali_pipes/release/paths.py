"""The paths of a release, and of its images, labels and index if they are elsewhere: one value for all commands.

    paths = ReleasePaths(Path("DIR"), train_labels=Path("corrected.zip"))

Each command takes these fields as flags, under the same names and with the same help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Literal

from ..errors import InputError

Split = Literal["train", "validation"]
Role = Literal["images", "labels"]
SPLITS: tuple[Split, ...] = ("train", "validation")
ROLES: tuple[Role, ...] = ("images", "labels")
ALIASES = {"--data": "--release", "--data-dir": "--release"}
"""Other names of flags, under which users of other trainers look for them."""


@dataclass(frozen=True)
class ReleasePaths:
    """The release to read. Raises InputError if, for example, both `images` and `train_images` are given."""

    release: Path
    """The release in any form: ZIPs, parts of ZIPs, tars or folders below a folder; or a single tar or ZIP.
    --data and --data-dir mean the same."""

    images: Path | None = None
    """The images of both splits, if the release lacks them or has them twice.
    A ZIP, one of its parts, a folder of JPEGs, or anything that --release takes."""

    labels: Path | None = None
    """The labels of both splits; same forms as --images."""

    train_images: Path | None = None
    """The images of the training split alone; same forms as --images."""

    train_labels: Path | None = None
    """The labels of the training split alone; same forms as --images."""

    validation_images: Path | None = None
    """The images of the validation split alone; same forms as --images."""

    validation_labels: Path | None = None
    """The labels of the validation split alone; same forms as --images."""

    stage: Path | None = None
    """Local folder to copy the release to before it is read, once. For releases on Google Drive or a network mount.
    A copy that was interrupted is continued."""

    index_cache: Path | None = None
    """Folder for the checked sample tables and the lists of what was skipped, shared by runs.
    none: the folder index-cache next to the output; an inspection keeps no index."""

    def __post_init__(self) -> None:
        for split, role in product(SPLITS, ROLES):
            if getattr(self, role) and getattr(self, f"{split}_{role}"):
                raise InputError(
                    f"--{role} is for both splits, found --{split}-{role} as well; give --train-{role} and"
                    f" --validation-{role} instead of --{role}"
                )

    def override(self, split: Split, role: Role) -> Path | None:
        """Return the path that was given for the images or labels of `split`; None means: look in the release."""
        return getattr(self, f"{split}_{role}") or getattr(self, role)

    def sources(self) -> list[Path]:
        """Return the release, and the paths that were given for images and labels."""
        names = [*ROLES, *(f"{split}_{role}" for split, role in product(SPLITS, ROLES))]
        return [self.release, *filter(None, (getattr(self, name) for name in names))]

    def moved(self, to: Mapping[Path, Path]) -> ReleasePaths:
        """Return these paths with each source that `to` contains in its new place."""
        paths = {field.name: getattr(self, field.name) for field in fields(self)}
        kept = {"stage", "index_cache"}
        return ReleasePaths(**{name: path if name in kept else to.get(path, path) for name, path in paths.items()})

    def cached_in(self, folder: Path) -> ReleasePaths:
        """Return these paths with the index in `folder`, unless --index-cache was given."""
        return replace(self, index_cache=self.index_cache or folder)

    def given(self) -> dict[str, str]:
        """Return the absolute paths that were given, by field name, for a record of the run."""
        paths = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(path.absolute()) for name, path in paths.items() if path is not None}
