"""The records of systems: complete, true about files and tests, and shown in docs/papers.md."""

from __future__ import annotations

import ast
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LISTED = range(1, 40)
"""Systems of the reviewed list; those beside it have higher numbers."""


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location("systems", ROOT / "docs/systems/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["systems"] = module
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()
SYSTEMS = GENERATOR.records()
MECHANISMS = [
    pytest.param(one, id=f"{system.number}-{one.name}")
    for system in SYSTEMS
    for one in system.mechanisms
]


@cache
def _tests_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_a_record_names_is_there(mechanism: Any) -> None:
    if mechanism.not_built:
        assert not mechanism.files
        assert not mechanism.tests
        return
    assert mechanism.files
    assert mechanism.tests
    assert mechanism.equation != "-"
    for path in mechanism.files:
        assert (ROOT / path).is_file(), path
    for test in mechanism.tests:
        path, _, name = test.partition("::")
        assert name in _tests_in(path), test
    for changed in mechanism.outside:
        _, _, why = changed.partition(": ")
        assert why, f"{changed}: say why it had to change"


def test_every_system_of_the_list_has_a_record() -> None:
    assert {system.number for system in SYSTEMS} >= set(LISTED)


def test_the_page_shows_the_records() -> None:
    page = GENERATOR.PAPERS.read_text()
    assert GENERATOR.written(page) == page, "run `make docs`"
