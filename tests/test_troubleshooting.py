"""Every sentence that the code may end with has its row in docs/troubleshooting.md, and every row has its sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ERRORS = {"InputError", "CheckpointError", "BackboneError", "CutShort", "OtherKind", "UnreadableMember", "LostRank"}
HOLE = "…"


def text(node: ast.expr) -> str | None:
    """A message's template, with … for what is filled in; None where it is put together elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text(node.left) or HOLE) + (text(node.right) or HOLE)
    return None


TOLD_ELSEWHERE = {
    (
        "dali_pipes/inspect/inspection.py",
        "InputError(next(iter(missing.values())))",
    ): "sentences of InputErrors caught above it",
    ("train/measure/uploads.py", "InputError(str(error).replace("): "InputErrors of archives, with the file's own name",
    ("dali_pipes/batches/loader.py", "InputError(str(error))"): "plan.py's ValueErrors, which REPEATED adds",
    ("dali_pipes/release/zip_members.py", "CutShort(str(_damaged("): "_damaged makes an InputError, which has its row",
    (
        "train/run/folder.py",
        "CheckpointError(f'{error}; {advice}')",
    ): "a CheckpointError's sentence, and where to go on",
}
"""(file, what its call begins with): why no template can be read there."""

REPEATED = ("dali_pipes/batches/plan.py",)
"""Files whose ValueErrors reach the user as InputErrors with the same words."""


def sentences(source: Path) -> Iterator[tuple[int, str | None]]:
    """(line, template) of each error that `source` makes, also of those whose words a function of it returns.

    None where no template with words in it can be read.
    """
    tree = ast.parse(source.read_text("utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    file = str(source.relative_to(ROOT))
    errors = ERRORS | ({"ValueError"} if file in REPEATED else set())
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name, said = _name(call.func), call.args[0]
        template = text(said)
        if name == "print" and template and template.startswith("error: ") and _words(template[7:]):
            yield call.lineno, template[7:]
        if name not in errors:
            continue
        if any(file == where and begins in ast.unparse(call) for where, begins in TOLD_ELSEWHERE):
            continue
        if template is None and isinstance(said, ast.Call) and _name(said.func) in functions:
            returned = [node.value for node in ast.walk(functions[_name(said.func)]) if isinstance(node, ast.Return)]
            for value in returned:
                yield call.lineno, text(value) if value is not None else None
        else:
            yield call.lineno, template if template and _words(template) else None


def _name(function: ast.expr) -> str:
    """InputError, and of checkpoint.CheckpointError the CheckpointError."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _words(template: str) -> bool:
    return re.search(r"[a-z]{3}", template) is not None


def templates() -> dict[str, str]:
    """Where → template, of all rooms."""
    return {
        f"{path.relative_to(ROOT)}:{line}:{i}": " ".join(template.split())
        for path in sources()
        for i, (line, template) in enumerate(sentences(path))
        if template is not None
    }


def rows() -> list[str]:
    """The sentences of the page's tables, as far as each is quoted there."""
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def says(row: str, template: str) -> bool:
    """Whether the row's words stand in the template in their order; … stands for anything."""
    return re.search(".*".join(re.escape(part.strip()) for part in row.split(HOLE)), template) is not None


def sources() -> list[Path]:
    return [path for room in ("dali_pipes", "model", "train", "bench") for path in sorted((ROOT / room).rglob("*.py"))]


def test_every_error_can_be_read() -> None:
    unread = [f"{path}:{line}" for path in sources() for line, template in sentences(path) if template is None]
    assert not unread, "say why in TOLD_ELSEWHERE, or write the sentence where it is raised: " + ", ".join(unread)
    for file, begins in TOLD_ELSEWHERE:
        calls = [node for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))) if isinstance(node, ast.Call)]
        assert any(_name(call.func) in ERRORS and begins in ast.unparse(call) for call in calls), f"{file}: {begins}"


def test_what_is_raised_in_other_ways_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_troubleshooting.ROOT", tmp_path)
    (tmp_path / "odd.py").write_text(
        "checkpoint.CheckpointError(f'{path} is odd')\nInputError(sentence)\nInputError(f'{a}; {b}')\n"
        "def f():\n    return 'it is ' + how\nInputError(f())\nprint(f'error: cannot do {it}')\nprint('error: ', it)\n"
    )
    read = [template for _, template in sentences(tmp_path / "odd.py")]
    assert sorted(map(str, read)) == ["None", "None", "cannot do …", "it is …", "… is odd"]


def test_every_sentence_has_its_row() -> None:
    known = rows()
    missing = {where: said for where, said in templates().items() if not any(says(row, said) for row in known)}
    assert not missing, "no row in docs/troubleshooting.md for\n" + "\n".join(f"{w}: {s}" for w, s in missing.items())


def test_every_row_has_its_sentence() -> None:
    said = templates().values()
    stale = [row for row in rows() if not any(says(row, template) for template in said)]
    assert not stale, "the code says none of\n" + "\n".join(stale)


def test_no_row_is_there_twice() -> None:
    twice = {row for row in rows() if rows().count(row) > 1}
    assert not twice, "\n".join(twice)


def test_every_row_has_a_remedy_and_quotes_enough() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    for row, remedy in re.findall(r"^\| `([^`]+)` \| ?(.*?) ?\|$", page, re.MULTILINE):
        assert len(remedy) >= len("Likewise."), f"no remedy for {row}"
        assert len(row.replace(HOLE, "").strip()) > 11, f"{row} would match anything"
