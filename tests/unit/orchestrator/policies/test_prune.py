"""The policy that removes experts: whom it keeps, when, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.file import ConfigError, check
from orchestrator.policies.prune import PruneExperts, best
from orchestrator.policies.usage_masks import UsageMasks
from tests.views import DOMAINS, policy, view
from workers.contract import LayerShape, StartReport
from workers.edits import Prune, RefreshMask


def start(**figures: Any) -> StartReport:
    return StartReport(source="", data_digest="", samples=1, figures=figures)


def removed(config: Any, seen: Any) -> dict[str, tuple[int, ...]]:
    edits, _ = policy(config).propose(seen, None)
    return {} if not edits else edits[0].experts  # type: ignore[attr-defined]


def test_the_best_stay_and_of_equal_ones_the_older() -> None:
    assert best([0.1, 0.5, 0.5, 0.5], [0, 1, 2, 3], 2) == {1, 2}
    assert best([0.1, 0.5, 0.4, 0.3], [0, 2, 3], 2) == {2, 3}
    assert best([0.9, 0.5, 0.1], [0, 1, 2], 2, spared=[2]) == {0, 2}
    assert best([0.9, 0.5, 0.1], [0, 1, 2], 1, rows=[[1, 0, 0], [0, 1, 1]]) == {0, 1}
    assert best([0.9, 0.5], [0, 1, 2], 1, rows=[[0, 0]]) == {2}  # beyond a row's end


def test_it_prunes_at_the_start_by_the_score_of_the_stages_domains() -> None:
    config = PruneExperts.Config(keep=2)
    scores = {"l": {"a": [3.0, 1.0, 2.0, 0.0], "b": [0.0, 9.0, 0.0, 9.0]}}
    seen = view(0, 1, "a", start=start(output_aware=scores))
    assert removed(config, seen) == {"l": (1, 3)}
    assert removed(config, view(0, 0, "a", start=start(output_aware=scores))) == {}
    assert removed(config, view(1, 1, "a", start=start(output_aware=scores))) == {}
    assert policy(config).start_diagnostics == ("output_aware",)


def test_it_prunes_at_the_end_by_use_and_counts_the_live_only() -> None:
    config = PruneExperts.Config(keep=2, score="use")
    seen = view(10, 1, "a", seen={"gate_weights": {"l": [0.1, 0.0, 0.5, 0.4]}})
    shape = LayerShape(experts=3, widths=(4,) * 3, parameters=1, removed=(1,))
    seen.model.layers["l"] = shape  # type: ignore[index]
    assert removed(config, seen) == {"l": (0,)}
    assert policy(config).start_diagnostics == ()
    few = PruneExperts.Config(keep=3, score="use")
    assert removed(few, seen) == {}


@pytest.mark.parametrize("score", ["token", "gate"])
def test_scores_of_relevance(score: Any) -> None:
    rows = {"tokens": [0.0, 0.6, 0.4, 0.0], "gates": [0.5, 0.0, 0.1, 0.4]}
    seen = view(0, 1, "a", start=start(expert_relevance={"l": {"a": rows}}))
    want = {"token": (0, 3), "gate": (1, 2)}[score]
    assert removed(PruneExperts.Config(keep=2, score=score), seen) == {"l": want}


def test_super_experts_are_spared() -> None:
    scores = {"l": {"a": [3.0, 1.0, 2.0, 0.0]}}
    told = start(output_aware=scores, super_experts={"l": [3]})
    config = PruneExperts.Config(keep=2, spare_super=True)
    assert removed(config, view(0, 1, "a", start=told)) == {"l": (1, 2)}
    assert policy(config).start_diagnostics == ("output_aware", "super_experts")


def test_every_domain_of_a_mask_keeps_an_expert() -> None:
    seen = view(0, 1, "a", start=start(output_aware={"l": {"a": [3.0, 2.0, 1.0, 0.0]}}))
    mask = RefreshMask(
        **seen.edit(policy="test", trigger="test"),
        version=1,
        domains=DOMAINS,
        masks={"l": [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]},
    )
    edits, _ = policy(PruneExperts.Config(keep=2)).propose(seen.after(mask), None)
    (edit,) = edits
    assert isinstance(edit, Prune)
    assert edit.experts == {"l": (1,)}


def raw(**prune: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "stream": {"kind": "split", "dataset": "digits"},
        "model": {
            "experts": 4,
            "head": {"kind": "moe", "layer": {"selector": {"kind": "topk", "k": 3}}},
        },
        "policies": {"less": {"kind": "prune", **prune}},
        "lanes": [{}],
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (raw(keep=2), r"keep: got 2; the selector needs at least 3|selector needs at least 3"),
        (raw(keep=3, from_stage=9), "from_stage"),
        (raw(keep=0), "keep must be at least 1"),
        ({**raw(keep=3), "model": {"head": "mlp"}}, "no experts under a router"),
    ],
)
def test_what_cannot_be_is_refused_when_planned(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(config, "x")


def test_an_acting_lane_has_scores_of_use_alone() -> None:
    class Acting:
        acts = True
        tasks = (1, 2)

        def parts(self, section: str) -> list[Any]:
            return []

    found = PruneExperts.Config(keep=2)._unscored(Acting())  # type: ignore[arg-type]
    assert [problem.path for problem in found] == ["score"]
    assert PruneExperts.Config(keep=2, score="use")._unscored(Acting()) == []  # type: ignore[arg-type]


def test_super_experts_are_never_masked() -> None:
    counts = {"l": {"a": [90, 10, 0, 0]}}
    told = {"counts": counts, "tokens": {"a": 100}}
    seen = view(1, 1, "a", seen=told, start=start(super_experts={"l": [3]}))
    masks = {}
    for spare in (False, True):
        (edit,), _ = policy(UsageMasks.Config(spare_super=spare)).propose(seen, None)
        assert isinstance(edit, RefreshMask)
        masks[spare] = edit.masks["l"][0]
    assert masks == {False: [1, 0, 0, 0], True: [1, 0, 0, 1]}
    assert policy(UsageMasks.Config(spare_super=True)).start_diagnostics == ("super_experts",)
    gone = Prune(**seen.edit(policy="prune", trigger="use"), experts={"l": (3,)})
    (edit,), _ = policy(UsageMasks.Config(spare_super=True)).propose(seen.after(gone), None)
    assert isinstance(edit, RefreshMask)
    assert edit.masks["l"][0] == [1, 0, 0, 0], "an expert that was removed is nobody's to train"
