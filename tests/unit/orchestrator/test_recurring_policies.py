"""Edits made again and again: when, with what, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.file import ConfigError, check
from orchestrator.policies import POLICIES
from tests.views import policy, view


def due(kind: str, stages: int = 3, intervals: int = 2, **config: Any) -> list[tuple[int, int]]:
    """(stage, interval) at which it proposes its edit, over a whole stream."""
    made = policy(POLICIES[kind].Config(**config), intervals=intervals)
    found = []
    for index in range(stages):
        for n in range(intervals + 1):
            edits, memory = made.propose(view(n, index, intervals=intervals), None)
            assert memory is None
            assert all(edit.kind in made.proposes for edit in edits)
            found += [(index, n)] * len(edits)
    return found


@pytest.mark.parametrize("kind", ["redo", "reset", "shrink_perturb"])
def test_edits_come_at_starts_of_stages_or_after_intervals(kind: str) -> None:
    assert due(kind, unit="stages") == [(1, 0), (2, 0)]
    assert due(kind, unit="stages", every=2) == [(2, 0)]
    assert due(kind, unit="intervals") == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert due(kind, unit="intervals", every=3) == [(1, 1)]


def test_what_they_propose_is_what_the_config_says() -> None:
    made = policy(POLICIES["shrink_perturb"].Config(shrink=0.7, perturb=0.2, parts=("head",)))
    (edit,), _ = made.propose(view(0, 1), None)
    assert (edit.shrink, edit.perturb, edit.parts) == (0.7, 0.2, ("head",))
    assert edit.cause.policy == "shrink_perturb"
    assert edit.cause.figures == {"stage": 1.0, "interval": 0.0}
    (edit,), _ = policy(POLICIES["redo"].Config(tau=0.1)).propose(view(1, 0), None)
    assert edit.tau == 0.1
    (edit,), _ = policy(POLICIES["reset"].Config()).propose(view(0, 2), None)
    assert edit.parts == ()


def lane(policies: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "stream": {"kind": "domains", "domains": [{"name": "turned", "rotate": 90.0}]},
        "model": {"experts": 2, "head": {"kind": "moe", "hidden": [8]}},
        "training": {"steps": 4, "intervals": 2},
        "policies": policies,
        "lanes": [{"method": "finetune"}],
        **more,
    }


@pytest.mark.parametrize("kind", ["redo", "reset", "shrink_perturb"])
def test_masked_experts_are_not_changed_by_hand(kind: str) -> None:
    check(lane({"p": kind}), "test")
    with pytest.raises(ConfigError, match="mask experts"):
        check(lane({"p": kind, "masks": {"kind": "usage_masks"}}), "test")


def test_recycling_needs_units() -> None:
    model = {"head": {"kind": "expanding_mlp", "hidden": [8]}}
    with pytest.raises(ConfigError, match="tells no units"):
        check(lane({"p": "redo"}, model=model), "test")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("redo", "tau", -1.0),
        ("reset", "every", 0),
        ("shrink_perturb", "shrink", 2.0),
        ("shrink_perturb", "perturb", -0.1),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: str, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        POLICIES[kind].Config(**{field: value})
