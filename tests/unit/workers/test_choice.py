"""Tables and the config door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from workers.parsing import checked, choose, parse
from workers.tables import Problem, choice, construct, first_line, lookup


class Inner:
    """An inner thing.

    More about it.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "inner"
        size: int = 1

    def __init__(self, config: Config) -> None:
        self.config = config


INNER: dict[str, type] = {"inner": Inner}


class Outer:
    """An outer thing."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "outer"
        inner: Any = choice(INNER, "inner")
        sizes: tuple[int, ...] = (1, 2)

    def __init__(self, config: Config) -> None:
        self.config = config


OUTER: dict[str, type] = {"outer": Outer}


def test_nested_choice_defaults_names_and_tables() -> None:
    assert choose(OUTER, "outer", "o")[1].inner == Inner.Config()
    assert choose(OUTER, {"kind": "outer", "inner": "inner"}, "o")[1].inner == Inner.Config()
    nested = {"kind": "outer", "inner": {"kind": "inner", "size": 3}}
    assert checked(OUTER, nested)[1].inner.size == 3


def test_every_problem_is_reported_with_its_path() -> None:
    raw = {"kind": "outer", "inner": {"kind": "inner", "size": "x"}, "sizes": [1, "y"], "z": 1}
    problems = choose(OUTER, raw, "o")[2]
    assert {problem.path for problem in problems} == {"o.inner.size", "o.sizes.1", "o.z"}


@pytest.mark.parametrize(
    "raw",
    [
        3,
        {},
        {"kind": 3},
        {"kind": "no"},
        {"kind": "no.module:X"},
        {"kind": ".relative:X"},
        {"kind": ":X"},
        {"kind": "json:dumps"},
    ],
)
def test_wrong_choices(raw: object) -> None:
    cls, config, problems = choose(OUTER, raw, "o")
    assert cls is None
    assert config is None
    assert len(problems) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    share: float = 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    config, problems = parse(Share, {"share": value}, "o")
    assert config is None
    assert problems[0].path == "o.share"


def test_import_path() -> None:
    kind = f"{__name__}:Inner"
    import sys

    sys.modules[__name__] = sys.modules.get(__name__) or type(sys)(__name__)
    sys.modules[__name__].Inner = Inner  # type: ignore[attr-defined]
    assert lookup({}, kind, "o") is Inner
    assert isinstance(lookup({}, "json:Nothing", "o"), Problem)


def test_construct_and_first_line() -> None:
    assert construct(INNER, Inner.Config(size=2)).config.size == 2
    assert first_line(Inner) == "An inner thing."


def test_parse_needs_no_kind() -> None:
    config, problems = parse(Inner.Config, {"size": 4}, "")
    assert (config, problems) == (Inner.Config(size=4), [])
