"""Everything that is read has a limit, never waits, and is refused in a sentence."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.capacity import check_address_space
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import read_bounded, write_text
from dali_pipes.release import listing, tar_members, zip_members
from dali_pipes.release.archive import Archive
from dali_pipes.release.byte_range import ByteRange
from dali_pipes.release.listing import Listing
from dali_pipes.samples.polylines import read_polylines
from dali_pipes.samples.table import SampleTable
from model import CheckpointError, checkpoint
from model.backbone import _read
from model.torch_file import Unreadable, read_torch_file
from train.compare import read_run
from train.deploy.verdict import old_release_of
from train.engine.trained import read_statistics
from train.recipe.flags import flags_of_file, flags_of_run
from train.run.folder import _read_settings

NO_FILES = ("pipe", "socket", "/dev/zero", "/dev/tty", "folder", "/proc/kmsg")

READERS: dict[str, Callable[[Path], Any]] = {
    "polylines": read_polylines,
    "settings": flags_of_file,
    "statistics": read_statistics,
    "configuration": _read_settings,
    "archive": Archive,
    "checkpoint": checkpoint.load,
    "torch": read_torch_file,
    "weights": _read,
    "index": lambda path: SampleTable.load(path, Archive.__new__(Archive), "key"),
}


@pytest.fixture(autouse=True)
def never_waits() -> Iterator[None]:
    """End a test that waits for a pipe: SIGALRM ends the process."""
    signal.alarm(120)
    yield
    signal.alarm(0)


def no_file(kind: str, folder: Path) -> Path:
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = no_file(kind, tmp_path)
    with pytest.raises(OSError, match=r"file|evice|allowed|permitted|yet"):
        read_bounded(path, 100)
    for name, reader in READERS.items():
        if (name, kind) not in {("polylines", "folder"), ("statistics", "folder")}:  # these read folders, too
            with pytest.raises((InputError, CheckpointError, Unreadable, OSError, ValueError)):
                reader(path)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "predictions.csv", "samples.json"])
def test_a_run_folder_may_hold_pipes(name: str, tmp_path: Path) -> None:
    for other in ("config.json", "metrics.jsonl", "predictions.csv", "samples.json"):
        (tmp_path / other).write_text("{}")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError):
        read_run(tmp_path)
    assert old_release_of(tmp_path, tmp_path)[0] is None
    if name in ("config.json", "samples.json"):
        with pytest.raises(InputError):
            flags_of_run(tmp_path)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="more than"):
        read_bounded(tmp_path / "a", 4)
    with pytest.raises(OSError, match="more than"):
        read_bounded(Path("/proc/self/maps"), 10)  # its size is 0


def test_a_device_is_not_replaced_by_a_page(tmp_path: Path) -> None:
    pipe = no_file("pipe", tmp_path)
    with pytest.raises(OSError, match="no file that can be replaced"):
        write_text(pipe, "page")
    assert pipe.is_fifo()


BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['1'] * 9)}]\n" for i in range(9))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bomb.yaml", BOMB),
        ("deep.yaml", "[" * 5000),
        ("deep.json", "[" * 100_000),
        ("deep.json", '{"a":' * 900 + "1" + "}" * 900),
        ("large.yaml", "a: 1\n" * 100_000),
        ("list.json", "[1]"),
        ("number.yaml", "1: 2"),
        ("tag.yaml", "!!python/object/apply:os.system [ls]"),
        ("nul.json", '{"out": "a\\u0000b"}'),
        ("digits.json", '{"epochs": ' + "9" * 5000 + "}"),
    ],
)
def test_settings_of_another_shape_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError):
        flags_of_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", "[]", "config.json"),
        ("config.json", '{"data": 3}', "config.json"),
        ("config.json", "[" * 100_000, "config.json"),
        ("metrics.jsonl", '{"epoch": 1, "rmse": 3}\n{"epoch": 2, "rm', "line 2"),
        ("metrics.jsonl", "3\n", "line 1"),
        ("metrics.jsonl", '{"epoch": {}, "rmse": 3}\n', "line 1"),
        ("metrics.jsonl", '{"epoch": 1, "rmse": "3"}\n', "line 1"),
        ("predictions.csv", "", "none"),
        ("predictions.csv", 'group,"tile', "predictions.csv"),
        ("predictions.csv", "group,tile,polyline,height_m,mu_m,sigma_m\nv,a.jpg,1 2,nan,3,4\n", "line 2"),
        ("predictions.csv", "group,tile,polyline,height_m,mu_m,sigma_m\nv,a.jpg\n", "line 2"),
        ("predictions.csv", "group,height_m,mu_m,sigma_m\nv,1,3,4\n", "line 2"),
    ],
)
def test_a_run_of_another_shape_is_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "rmse": NaN}\n')
    (tmp_path / "predictions.csv").write_text("group,tile,polyline,height_m,mu_m,sigma_m\nv,a.jpg,1 2,5,3,4\n")
    assert read_run(tmp_path).groups["v"].n == 1
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_run(tmp_path)


def test_an_open_quote_in_the_first_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"tile,polyline\na.jpg,1 2;3 4\n')
    with pytest.raises(InputError, match="damaged in its first line"):
        read_polylines(tmp_path / "a.csv")


def test_listings_have_limits(
    write_split: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_split({"a_1.jpg": (b"x", {})})
    with tarfile.open(folder / "b.tar", "w") as tar:
        tar.add(folder / "TS_KS.zip", "TS_KS.zip")
    monkeypatch.setattr(zip_members, "LARGEST_DIRECTORY", 10)
    with pytest.raises(InputError, match="central directory has"):
        Archive(folder / "TS_KS.zip")
    monkeypatch.setattr(listing, "MOST_FILES", 2)
    with pytest.raises(InputError, match="at most 2 files"):
        Listing(folder)
    monkeypatch.setattr(tar_members, "MOST_HEADERS", 0)
    with pytest.raises(InputError, match="more than the 0 members"):
        Listing(folder / "b.tar")


def test_a_long_pax_header_is_read_in_linear_time() -> None:
    record = b"6 a=b\n"
    assert tar_members._pax(ByteRange([], "a.tar"), 0, record * 10_000 + b"\0" * 40) == {"a": "b"}


def test_a_compressed_index_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", format=3)
    with pytest.raises(InputError, match="compressed"):
        SampleTable.load(tmp_path / "a.npz", Archive.__new__(Archive), "key")


def test_a_small_address_space_is_refused_before_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    check_address_space()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 << 30, -1))
    with pytest.raises(InputError, match="ulimit -v unlimited"):
        check_address_space()
    import train.predict

    with pytest.raises(InputError, match="ulimit"):
        parse(
            train.predict.Arguments,
            ["--checkpoint", "a", "--images", "b", "--polylines", "c", "--out", "d.csv"],
            module="train.predict",
            description="",
        )


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUDA out of memory. x")],
)
def test_too_little_memory_is_a_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exits_with_one_sentence():
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: the memory ran out: ")


ENCODINGS = (
    {"PYTHONIOENCODING": "euc_kr"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)


@pytest.mark.parametrize("environment", ENCODINGS)
def test_every_command_prints_in_any_encoding(environment: dict[str, str], tmp_path: Path) -> None:
    """--help of all commands in one process per encoding, then signs, names and a warning of a library."""
    program = (
        "import sys, warnings\n"
        "from importlib import import_module\n"
        "from rich.console import Console\n"
        "from rich.table import Table\n"
        "from dali_pipes.errors import InputError, exits_with_one_sentence\n"
        "from train.cli import BENCHMARKS, COMMANDS\n"
        "for module, _ in {**COMMANDS, **BENCHMARKS}.values():\n"
        "    try: import_module(module).main(['--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "table = Table('σ²'); table.add_row('± 굴뚝 ½ −'); Console().print(table)\n"
        "with exits_with_one_sentence():\n"
        "    warnings.warn('a\\nb')\n"
        "    raise InputError('σ²±−½ 굴뚝 똠 \\n \\u202e ╭─╮')\n"
    )
    (tmp_path / "program.py").write_text(program, "utf-8")
    run = subprocess.run(
        [sys.executable, tmp_path / "program.py"], env={**os.environ, **environment}, capture_output=True, timeout=120
    )
    assert run.returncode == 2, run.stderr.decode("utf-8", "replace")
    assert b"Traceback" not in run.stderr
    *warned, error = run.stderr.splitlines()
    assert error.startswith(b"error: ")
    assert b"\\n \\u202e" in error
    assert len([line for line in warned if b"UserWarning" in line]) == 1
