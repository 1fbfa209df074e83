"""What docs/adding.md prints of the door tests is what they run, and works as it stands there."""

from __future__ import annotations

import ast
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "adding.md").read_text()
MARK = re.compile(r"<!-- door: (\S+) ([\w ]+) -->\n```python\n(.*?)```", re.DOTALL)
BLOCKS = [(path, names.split(), code) for path, names, code in MARK.findall(GUIDE)]
TABLES = {path.removeprefix("test_").removesuffix("_door.py") for path, _, _ in BLOCKS}


def sources(path: Path) -> dict[str, str]:
    """Source of each class and function at the top of a file, decorators included."""
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "".join(lines[first - 1 : node.end_lineno])
    return found


@pytest.mark.parametrize(("path", "names", "code"), BLOCKS, ids=[block[0] for block in BLOCKS])
def test_the_guide_prints_what_the_door_tests_run(path: str, names: list[str], code: str) -> None:
    door = ROOT / "tests" / "doors" / path
    known = sources(door)
    for name in names:
        assert known[name] in code, f"docs/adding.md prints another {name} than {door} runs"


@pytest.mark.parametrize(("path", "names", "code"), BLOCKS, ids=[block[0] for block in BLOCKS])
def test_what_is_printed_is_whole(path: str, names: list[str], code: str) -> None:
    """Every name it uses is imported or defined in the block itself."""
    module = types.ModuleType(f"guide_{path.removesuffix('.py')}")
    exec(compile(code, f"docs/adding.md:{path}", "exec"), module.__dict__)
    assert all(hasattr(module, name) for name in names)


def test_every_door_is_shown() -> None:
    doors = {
        path.name.removeprefix("test_").removesuffix("_door.py")
        for path in (ROOT / "tests" / "doors").glob("test_*_door.py")
    }
    assert doors <= TABLES, f"docs/adding.md does not show: {sorted(doors - TABLES)}"
