"""Growth where tokens are unserved, removal of what is idle: when, which layer, remembered."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.plan import plan
from orchestrator.policies.unserved_tokens import UnservedTokens
from tests.fakes import tiny
from tests.views import policy, view
from workers.contract import InputError
from workers.edits import Grow, Prune

LAYERS = {"one": 3, "two": 4}


def _sums(one: tuple[float, list[float]], two: tuple[float, list[float]]) -> dict[str, Any]:
    told = {"one": one, "two": two}
    return {
        "sums": {
            layer: {"tokens": [100.0], "unserved": [unserved], "passed": passed}
            for layer, (unserved, passed) in told.items()
        }
    }


BUSY = (0.0, [5.0, 6.0, 7.0]), (0.0, [1.0, 2.0, 3.0, 4.0])
UNSERVED = (2.0, [5.0, 6.0, 7.0]), (0.0, [1.0, 2.0, 3.0, 4.0])


def _asked(told: Any, memory: Any = None, n: int = 2, **config: Any) -> tuple[Any, Any]:
    made = policy(UnservedTokens.Config(**config))
    return made.propose(view(n=n, layers=LAYERS, seen=_sums(*told)), memory)


def test_only_the_layer_with_unserved_tokens_grows_by_one() -> None:
    assert _asked(BUSY) == ((), [])
    (edit,), memory = _asked(UNSERVED)
    assert isinstance(edit, Grow)
    assert (edit.layers, edit.experts, memory) == (("one",), 4, [])
    assert edit.initialiser == {"kind": "unserved"}
    assert edit.cause.figures == {"tokens": 100.0, "unserved": 2.0}
    assert _asked(UNSERVED, share=0.02) == ((), []), "not more than this share"
    assert len(_asked(UNSERVED, share=0.019)[0]) == 1
    assert _asked(UNSERVED, max_experts=3)[0] == ()


def test_what_is_due_after_the_last_interval_grows_at_the_next_start() -> None:
    edits, memory = _asked(UNSERVED, n=10)
    assert (edits, memory) == ((), ["one"])
    made = policy(UnservedTokens.Config())
    (edit,), memory = made.propose(view(n=0, index=2, layers=LAYERS), memory)
    assert (edit.layers, memory) == (("one",), [])


def test_idle_experts_are_removed_but_never_all() -> None:
    idle = (3.0, [0.0, 6.0, 0.0]), (0.0, [0.0, 0.0, 0.0, 0.0])
    edits, _ = _asked(idle)
    removal, growth = edits
    assert isinstance(removal, Prune)
    assert removal.experts == {"one": (0, 2)}
    assert (growth.layers, growth.experts) == (("one",), 4)
    assert growth.revision == removal.revision + 1
    assert len(_asked(idle, max_experts=2)[0]) == 2, "the removed leave room"
    (growth,), _ = _asked(idle, remove=False)
    assert isinstance(growth, Grow)


def _raw(**layer: Any) -> dict[str, Any]:
    fits = {"kind": "moe", "router": "cosine", "selector": "top_any"}
    return {
        "model": {"experts": 2, "max_experts": 4, "head": {"kind": "moe", "layer": fits | layer}},
        "policies": {"growth": {"kind": "unserved_tokens"}},
    }


def test_what_does_not_fit_is_refused_when_planned() -> None:
    plan(tiny(**_raw()))
    for wrong, said in [
        ({"selector": "topk"}, "counts no unserved tokens"),
        ({"router": "tests.doors.test_router_door:DomainRouter"}, "cannot be aimed"),
    ]:
        with pytest.raises(InputError, match=said):
            plan(tiny(**_raw(**wrong)))
    raw = _raw()
    del raw["model"]["max_experts"]
    with pytest.raises(InputError, match=r"needs this or model.max_experts"):
        plan(tiny(**raw))
    raw = _raw()
    raw["model"]["head"] |= {"schedule": "descending", "hidden": [40, 40]}
    with pytest.raises(InputError, match="use schedule constant"):
        plan(tiny(**raw))
    with pytest.raises(ValueError, match="share must be at least 0"):
        UnservedTokens.Config(share=1.0)
