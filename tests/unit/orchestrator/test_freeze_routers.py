"""When routers stop learning, and what a lane under the policy does to the bits of its routers."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.policies.freeze_routers import FREEZE, FROZEN, LEARN, FreezeRouters
from tests.fakes import tiny
from tests.views import policy, view
from workers.contract import InputError
from workers.edits import ROLES, SetPhase


def asked(
    seen_flips: list[float], experts: int = 4, before: Any = None, **config: Any
) -> tuple[list[tuple[int, str]], Any]:
    """(interval, phase) of each edit in one stage of ten intervals, and what is remembered."""
    made = policy(FreezeRouters.Config(**config))
    edits: list[SetPhase] = list(before[0]) if before else []
    memory, found = before[1] if before else None, []
    for n in range(len(seen_flips) + 1):
        told = {"signals": {"routing_flips": seen_flips[n - 1]}} if n else {}
        seen = view(n=n, after=tuple(edits), experts=experts, seen=told)
        new, memory = made.propose(seen, memory)
        edits += [edit for edit in new if isinstance(edit, SetPhase)]
        found += [(n, edit.phase) for edit in new if isinstance(edit, SetPhase)]
    return found, (edits, memory)


STABLE = [0.0] * 10


def test_frozen_once_stable_for_so_many_intervals_after_exploration() -> None:
    assert asked(STABLE, explore=0.5, patience=2)[0] == [(5, FREEZE)]
    assert asked(STABLE, explore=0.0, patience=3)[0] == [(3, FREEZE)]
    restless = [0.0, 0.5, 0.0, 0.0, 0.5, 0.01, 0.02, 0.0, 0.0, 0.0]
    assert asked(restless, explore=0.0, patience=3, flips=0.02)[0] == [(8, FREEZE)]
    assert asked([0.5] * 10)[0] == []
    ends = [0.5] * 8 + [0.0, 0.0]
    assert asked(ends, explore=0.0, patience=2)[0] == [], "no interval is left to train"


def test_the_next_stage_begins_with_routers_that_learn_unless_kept() -> None:
    first, told = asked(STABLE)
    assert len(first) == 1
    assert told[0][-1].trains == FROZEN
    second, again = asked(STABLE, before=told)
    assert second[0] == (0, LEARN)
    assert again[0][-2].trains == ROLES
    assert second[1][0] > 0
    assert asked(STABLE, before=asked(STABLE, keep=True)[1], keep=True)[0] == []


def test_new_experts_set_routers_free_at_once() -> None:
    told = asked(STABLE[:4], keep=True, explore=0.0)[1]
    again, _ = asked(STABLE[:3], experts=5, before=told, keep=True, explore=0.0)
    assert again[0] == (0, LEARN)
    assert again[1] == (2, FREEZE), "stability is counted anew"


ROUTED = {"experts": 3, "head": {"kind": "moe", "hidden": [16]}}


def refused(**changes: Any) -> str:
    with pytest.raises(InputError) as error:
        tiny(**{"model": ROUTED, **changes})
    return str(error.value)


def test_what_does_not_fit_is_refused_when_planned() -> None:
    freeze = {"kind": "freeze_routers", "patience": 3}
    assert "at the earliest" in refused(policies={"f": freeze}, training={"intervals": 3})
    both = {"f": freeze, "p": {"kind": "three_phases"}}
    assert "policy 'p' says what trains" in refused(policies=both, training={"intervals": 10})
    dense = {"head": {"kind": "mlp"}}
    told = refused(policies={"f": freeze}, training={"intervals": 10}, model=dense)
    assert "no experts under a router" in told
    with pytest.raises(ValueError, match="explore must be"):
        FreezeRouters.Config(explore=1.0)
    with pytest.raises(ValueError, match="patience must be"):
        FreezeRouters.Config(patience=0)
