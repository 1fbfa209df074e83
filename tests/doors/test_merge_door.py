"""The door of merges: a lane's first model made of other lanes' models by a class from outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.core.actions import Action, OpenLane
from tests.doors.lane import run_lanes
from workers.contract import InputError
from workers.merges import Merge

VIEWS = {"turned": {"rotate": 90.0}, "negative": {"invert": True}}


class Soup(Merge):
    """Every parameter is the mean over the trained models (model soups, arXiv 2203.05482)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Merge.Config):
        """Settings of a soup (none)."""

    def check(self, model, parents):
        shapes = [{n: v.shape for n, v in one.state_dict().items()} for one in (model, *parents)]
        if any(shape != shapes[0] for shape in shapes):
            raise InputError("models of different shapes; give all the same [model] settings")

    def fill(self, model, parents, scene):
        states = [parent.state_dict() for parent in parents]
        for name, value in model.state_dict().items():
            value.copy_(torch.stack([state[name].double() for state in states]).mean(0))


def lane(name: str, *views: str, **more: Any) -> dict[str, Any]:
    domains = [{"name": view, **VIEWS[view]} for view in views]
    return {"name": name, "stream": {"kind": "domains", "base": [], "domains": domains}, **more}


KIND = "tests.doors.test_merge_door:Soup"
CONFIG: dict[str, Any] = {
    "model": {"head": {"kind": "mlp", "hidden": [16]}},
    "training": {"steps": 4, "intervals": 2, "batch": 16},
    "lanes": [
        lane("one", "turned"),
        lane("two", "negative"),
        lane("both", "turned", "negative", merge={"kind": KIND, "parents": ["one-s0", "two-s0"]}),
    ],
}


def test_a_merge_goes_through_kills(tmp_path: Path) -> None:
    seen: list[str] = []

    def lose(action: Action) -> str | None:
        if not isinstance(action, OpenLane) or action.spec.lane != "both-s0":
            return None
        seen.append(action.spec.lane)
        return {1: "after", 2: "before"}.get(len(seen))

    straight = run_lanes(tmp_path / "straight", CONFIG)["both-s0"]
    killed = run_lanes(tmp_path / "killed", CONFIG, lose)["both-s0"]
    assert len(seen) == 3
    assert killed.essence == straight.essence
    assert killed.lane["initial"] == straight.lane["initial"]
