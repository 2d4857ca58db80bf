"""Make a virtual environment with this project, torch, DALI and the tools of the tests in it. `make` runs this.

    python -m install FOLDER [--cuda 12|13] [--lowest]

The versions and their hashes come from install/cuda12.txt or install/cuda13.txt, whichever fits this machine. With
--lowest they are the lower bounds of setup.cfg. Run again, it installs only what is missing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from .cuda import choose, installed_gpus
from .lowest import lowest

ROOT = Path(__file__).parents[1]
OF_TORCH = "import torch; print(torch.version.cuda or '')"


def main(argv: list[str]) -> None:
    """The command; a failure of venv or pip ends it with their own output and exit status."""
    parser = argparse.ArgumentParser("python -m install", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the virtual environment")
    parser.add_argument("--cuda", choices=["12", "13"], help="default: what fits this machine")
    parser.add_argument("--lowest", action="store_true", help="install the lower bounds of setup.cfg")
    arguments = parser.parse_args(argv)
    try:
        python = make_environment(arguments.folder)
        if arguments.lowest:
            install_lowest(python)
        else:
            install_locked(python, arguments.cuda)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


def make_environment(folder: Path) -> Path:
    """The Python of a virtual environment with pip in `folder`, which is made if there is none."""
    python = folder / "bin/python"
    if python.exists() and _runs(python, "import pip"):
        return python
    venv = [sys.executable, "-m", "venv", str(folder)]  # completes a folder that is there
    if find_spec("ensurepip"):
        subprocess.run(venv, check=True)
    elif find_spec("pip"):  # Debian and Ubuntu have ensurepip in a package of its own; pip can install itself
        subprocess.run([*venv, "--without-pip"], check=True)
        subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "pip"], check=True)
    else:
        sys.stderr.write(
            f"error: expected a Python with ensurepip or pip, found neither in {sys.executable}; on Debian and Ubuntu"
            " sudo apt install python3-venv, or name another Python, such as make PYTHON=python3.12\n"
        )
        sys.exit(2)
    return python


def install_locked(python: Path, requested: str | None) -> None:
    """Install what is locked for the CUDA that fits, or for the `requested` one; every file is checked by its hash.

    pip cannot check the hash of this project itself, which is a folder. It is therefore installed by a second command,
    which downloads nothing: the first one has installed setuptools, too. Python compiles a module when it is first
    imported; pip would compile all 14,000 of them, which takes a minute.
    """
    cuda, reason = (requested, "as requested") if requested else choose(installed_gpus(), _output(python, OF_TORCH))
    print(f"torch and DALI for CUDA {cuda} (install/cuda{cuda}.txt): {reason}", flush=True)
    other = f"nvidia-dali-cuda{'13' if cuda == '12' else '12'}0"
    if _runs(python, f"from importlib.metadata import version; version({other!r})"):
        _pip(python, "uninstall", "--yes", other)  # both wheels have the same files, so only one may be there
    _pip(python, "install", "--no-compile", "--require-hashes", "--requirement", f"{ROOT}/install/cuda{cuda}.txt")
    _pip(python, "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def install_lowest(python: Path) -> None:
    """Install the lower bounds of setup.cfg. The lowest torch was built for CUDA 12."""
    constraints = python.parents[1] / "lowest.txt"
    constraints.write_text("\n".join(lowest(ROOT / "setup.cfg")) + "\n")
    wheels = ("--only-binary", ":all:", "--constraint", str(constraints))
    _pip(python, "install", *wheels, "--editable", f"{ROOT}[dev,cuda12]")


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", *arguments], check=True)


def _output(python: Path, script: str) -> str:
    """What `script` prints; empty if it fails."""
    return subprocess.run([str(python), "-c", script], capture_output=True, text=True).stdout.strip()


def _runs(python: Path, script: str) -> bool:
    return subprocess.run([str(python), "-c", script], capture_output=True).returncode == 0


if __name__ == "__main__":
    main(sys.argv[1:])
