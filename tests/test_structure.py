"""The direction of imports: each package imports only what lies below it, as docs/design.md says."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BELOW = {
    "model": (),
    "dali_pipes.base": (),
    "dali_pipes.release": ("dali_pipes.base",),
    "dali_pipes.samples": ("dali_pipes.base", "dali_pipes.release"),
    "dali_pipes.batches": ("dali_pipes.base", "dali_pipes.release", "dali_pipes.samples"),
    "dali_pipes.pages": ("dali_pipes.base",),
    "dali_pipes.inspect": ("dali_pipes.base", "dali_pipes.release", "dali_pipes.samples", "dali_pipes.pages"),
    "train.machine": ("dali_pipes",),
    "train.scores": ("dali_pipes", "model"),
    "train.recipe": ("dali_pipes", "model"),
    "train.report": ("dali_pipes", "model", "train.scores", "train.recipe"),
    "train.run": ("dali_pipes", "model", "train.scores", "train.recipe"),
    "train.engine": ("dali_pipes", "model", "train.machine", "train.scores", "train.recipe", "train.run"),
    "train.deploy": ("dali_pipes", "model", "train"),
    "train.measure": ("dali_pipes", "model", "train"),
    "bench.render": ("dali_pipes.base",),
    "bench.measure": ("dali_pipes", "model", "train"),
    "bench.ablate": ("dali_pipes", "model", "train", "bench.measure", "bench.render"),
}
"""Package → the packages that it may import.  A name without a dot stands for everything below it."""

COMMANDS = {"dali_pipes": ("dali_pipes",), "train": ("dali_pipes", "model", "train"), "bench": ("",)}
"""What the modules at the root of a folder may import; in dali_pipes these are only `__init__` and `__main__`."""

ONLY_IN = {
    "nvidia": ("dali_pipes.batches", "bench"),
    "matplotlib": ("train.report", "bench"),
    "jinja2": ("dali_pipes.pages",),
    "torch": ("dali_pipes.batches", "model", "train", "bench"),
    "onnx": ("train.deploy",),
    "fastapi": ("train.measure",),
    "uvicorn": ("train.measure",),
}
"""Library → the packages that may import it.  Benchmarks also time DALI alone."""

WITHOUT_TORCH = ("dali_pipes.base", "dali_pipes.release", "dali_pipes.samples", "dali_pipes.inspect", "train.scores")


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module; a package has the name of its folder."""
    for top in ("dali_pipes", "model", "train", "bench"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of what a module imports, also inside a function, but not what only type checkers import."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                is_module = any((ROOT / base.replace(".", "/") / f"{alias.name}{end}").exists() for end in (".py", ""))
                yield node.lineno, f"{base}.{alias.name}" if is_module else base


def package_of(module: str) -> str:
    """dali_pipes.batches.loader → dali_pipes.batches; modules at a folder's root → the folder, or dali_pipes.base."""
    top, *rest = module.split(".")
    if top == "model":
        return top
    if rest and (ROOT / top / rest[0]).is_dir():
        return f"{top}.{rest[0]}"
    return "dali_pipes.base" if top == "dali_pipes" and rest and rest[0] != "__main__" else top


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(not package or name == package or name.startswith(f"{package}.") for package in packages)


def test_every_package_imports_only_what_lies_below_it() -> None:
    wrong = []
    for name, path in modules():
        here = package_of(name)
        allowed = (here, *BELOW[here]) if here in BELOW else COMMANDS[here]
        for line, target in imported(name, path):
            if target.split(".")[0] not in ("dali_pipes", "model", "train", "bench"):
                continue
            there = package_of(target)
            if not is_within(there, allowed):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_circle() -> None:
    known = dict(modules())
    edges = {name: [t for _, t in imported(name, path) if t in known and t != name] for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in edges[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_each_library_is_imported_where_it_belongs() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in modules()
        for line, target in imported(name, path)
        if not is_within(name, ONLY_IN.get(target.split(".")[0], ("",)))
        or (target.split(".")[0] == "torch" and package_of(name) in WITHOUT_TORCH)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("train.engine.run", ("matplotlib", "jinja2", "train.report")),
        ("dali_pipes.inspect.inspection", ("torch", "nvidia", "matplotlib")),
        ("bench.render.release", ("torch", "nvidia", "matplotlib")),
    ],
)
def test_importing_a_module_does_not_load_what_it_must_not_know(module: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_every_folder_opens_with_what_it_takes_and_gives() -> None:
    for _, path in modules():
        if path.name == "__init__.py":
            opening = ast.get_docstring(ast.parse(path.read_text("utf-8")))
            assert opening, f"{path.relative_to(ROOT)} has no docstring"


def test_no_folder_holds_more_than_an_eye_does() -> None:
    for top in ("dali_pipes", "model", "train", "bench"):
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]:
            if not folder.is_dir() or folder.name == "__pycache__":
                continue
            entries = [path for path in folder.iterdir() if path.name not in ("__pycache__", "__init__.py", "py.typed")]
            assert len(entries) <= 16, f"{folder.relative_to(ROOT)} has {len(entries)} entries"
