"""Every sentence that the code may end with has its row in docs/troubleshooting.md, and every row has its sentence."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ERRORS = {"InputError", "CheckpointError", "BackboneError", "CutShort", "UnreadableMember", "LostRank"}
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


def sentences(source: Path) -> Iterator[tuple[int, str]]:
    """(line, template) of each error that `source` makes, also of those whose words a function of it returns."""
    tree = ast.parse(source.read_text("utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for call in ast.walk(tree):
        if not (
            isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS and call.args
        ):
            continue
        said = call.args[0]
        if template := text(said):
            yield call.lineno, template
        elif isinstance(said, ast.Call):
            name = said.func.attr if isinstance(said.func, ast.Attribute) else getattr(said.func, "id", "")
            for node in ast.walk(functions[name]) if name in functions else ():
                if isinstance(node, ast.Return) and node.value is not None and (template := text(node.value)):
                    yield node.lineno, template


def templates() -> dict[str, str]:
    """Where → template, of all rooms."""
    return {
        f"{path.relative_to(ROOT)}:{line}": " ".join(template.split())
        for room in ("dali_pipes", "model", "train", "bench")
        for path in sorted((ROOT / room).glob("*.py"))
        for line, template in sentences(path)
    }


def rows() -> list[str]:
    """The sentences of the page's tables, as far as each is quoted there."""
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def says(row: str, template: str) -> bool:
    """Whether the row's words stand in the template in their order; … stands for anything."""
    return re.search(".*".join(re.escape(part.strip()) for part in row.split(HOLE)), template) is not None


def test_every_sentence_has_its_row() -> None:
    known = rows()
    missing = {where: said for where, said in templates().items() if not any(says(row, said) for row in known)}
    assert not missing, "no row in docs/troubleshooting.md for\n" + "\n".join(f"{w}: {s}" for w, s in missing.items())


def test_every_row_has_its_sentence() -> None:
    said = templates().values()
    stale = [row for row in rows() if not any(says(row, template) for template in said)]
    assert not stale, "the code says none of\n" + "\n".join(stale)


def test_every_row_has_a_remedy_and_quotes_enough() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    for row, remedy in re.findall(r"^\| `([^`]+)` \| ?(.*?) ?\|$", page, re.MULTILINE):
        assert len(remedy) >= len("Likewise."), f"no remedy for {row}"
        assert len(row.replace(HOLE, "").strip()) > 11, f"{row} would match anything"
