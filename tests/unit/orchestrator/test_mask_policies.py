"""Masks and phases as pure functions of a view: equations 5, 6, 9 and 11 of arXiv 2509.16882."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.file import ConfigError, check
from orchestrator.policies import Policy, View
from orchestrator.policies.correlation import masked, row_entropy, running
from orchestrator.policies.esft import Esft, best
from orchestrator.policies.fixed_masks import FixedMasks
from orchestrator.policies.periodic import Periodic
from orchestrator.policies.three_phases import ThreePhases
from orchestrator.policies.usage_masks import UsageMasks
from tests.fakes import tiny
from tests.views import DOMAINS, policy, view
from workers.contract import InputError, StartReport
from workers.edits import Grow, RefreshMask


def counted(rows: dict[str, list[int]], tokens: int = 10, n: int = 1, **more: Any) -> View:
    """What is seen after ``n`` intervals, of which the last one counted this."""
    seen = {"counts": {"l": rows}, "tokens": dict.fromkeys(rows, tokens)}
    return view(n=n, seen=seen, **more)


def usage(**config: Any) -> Policy:
    return policy(UsageMasks.Config(**config))


def ask(asked: Policy, seen: View, memory: Any = None) -> tuple[Any, ...]:
    return asked.propose(seen, memory)[0]


def only(asked: Policy, seen: View, memory: Any = None) -> Any:
    (edit,) = ask(asked, seen, memory)
    return edit


def test_mask_is_relative_to_the_row_maximum_not_absolute() -> None:
    assert masked([[0.2, 0.12, 0.11, 0.0], [0.9, 0.55, 0.53, 0.1]], 0.6) == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
    ]


def test_momentum_keeps_nine_tenths_and_a_first_count_is_taken_as_found() -> None:
    assert running([0.0, 0.0], [3, 7], 10, 0.9) == [0.3, 0.7]
    assert running([0.5, 0.5], [10, 0], 10, 0.9) == pytest.approx([0.55, 0.45])
    assert running([0.5, 0.5], [0, 0], 0, 0.9) == [0.5, 0.5], "no tokens, no change"


def test_refresh_folds_counts_and_numbers_versions() -> None:
    made = usage(refresh_every=2)
    assert ask(made, counted({"a": [9, 1, 5, 5]}, n=1)) == ()
    edit = only(made, counted({"a": [9, 1, 5, 6], "b": [0, 10, 5, 5]}, n=2))
    assert (edit.version, edit.domains) == (1, DOMAINS)
    assert edit.masks == {"l": [[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]}
    again = only(made, counted({"a": [0, 10, 0, 0]}, n=4, after=(edit,), edits=1))
    assert again.version == 2
    assert again.usage["l"][0] == pytest.approx([0.81, 0.19, 0.45, 0.54])
    assert again.usage["l"][1] == edit.usage["l"][1]
    assert again.id != edit.id


def test_counts_add_up_in_its_memory_until_the_next_mask() -> None:
    made = usage(refresh_every=3)
    edits, memory = made.propose(counted({"a": [1, 2, 3, 4]}), None)
    assert (edits, memory) == ((), {"counts": {"l": {"a": [1, 2, 3, 4]}}, "tokens": {"a": 10}})
    _, memory = made.propose(counted({"a": [1, 0, 0, 0, 7], "b": [0, 1]}, n=2), memory)
    assert memory["counts"] == {"l": {"a": [2, 2, 3, 4, 7], "b": [0, 1]}}
    assert memory["tokens"] == {"a": 20, "b": 10}
    (edit,), memory = made.propose(counted({"a": [0, 0, 0, 0, 0]}, n=3), memory)
    assert memory == {"counts": {}, "tokens": {}}
    assert edit.usage["l"][0] == pytest.approx([2 / 30, 2 / 30, 3 / 30, 4 / 30])
    assert ask(made, view(n=0), {"counts": {"l": {"a": [1]}}, "tokens": {"a": 1}}) == ()


def test_a_refresh_is_a_function_of_view_and_memory_alone() -> None:
    one, two = usage(), usage()
    seen = counted({"a": [9, 1, 5, 6]})
    assert one.propose(seen, None) == two.propose(seen, None) == one.propose(seen, None)
    assert ask(one, counted({"a": [9, 1, 5, 6]}, n=10)) == (), "nothing at a stage's end"


def test_copies_go_to_the_weaker_domains_within_the_budget() -> None:
    rows = {"a": [9, 0, 0, 1], "b": [8, 0, 2, 0], "c": [7, 3, 0, 0]}
    edit = only(usage(sharing="copy", max_copies=8), counted(rows))
    assert [(c.expert, c.parent, c.owner) for c in edit.copies["l"]] == [(4, 0, "b"), (5, 0, "c")]
    assert edit.masks["l"] == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert edit.owners == {"l": {"4": "b", "5": "c"}}
    assert edit.cause.figures["overlap_before"] == 1.0
    assert edit.cause.figures["overlap_after"] == 0.0
    small = only(usage(sharing="copy", max_copies=1), counted(rows))
    assert len(small.copies["l"]) == 1
    assert small.masks["l"] == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]


def test_a_domain_keeps_its_copy_at_the_next_refresh() -> None:
    made = usage(sharing="copy", momentum=0.0)
    first = only(made, counted({"a": [9, 0, 0, 1], "b": [8, 0, 2, 0]}))
    later = counted(
        {"a": [9, 0, 0, 1, 0], "b": [1, 0, 1, 0, 8]}, n=2, after=(first,), layers={"l": 5}
    )
    edit = only(made, later)
    assert edit.copies == {}
    assert edit.masks["l"][:2] == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_near_uniform_usage_is_not_copied() -> None:
    flat = {"a": [5, 5, 5, 5], "b": [5, 5, 5, 4]}
    edit = only(usage(sharing="copy"), counted(flat))
    assert edit.copies == {}
    assert row_entropy([[0.25] * 4]) == pytest.approx(1.0)


@pytest.mark.parametrize("sharing", ["share", "copy", "claim"])
def test_no_domain_is_left_without_an_expert(sharing: str) -> None:
    rows = {"a": [10, 0, 0, 0], "b": [9, 0, 0, 0], "c": [8, 0, 0, 0]}
    edit = only(usage(sharing=sharing, max_copies=0), counted(rows))
    assert all(any(row) for row in edit.masks["l"])


def test_claimed_experts_stay_with_the_domain_that_used_them_first() -> None:
    made = usage(sharing="claim")
    first = only(made, counted({"a": [9, 8, 0, 0]}, index=0))
    assert first.masks["l"] == [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    start = view(n=0, domain="b", after=(first,))
    second = only(made, start)
    assert second.cause.trigger == "new domain"
    assert second.masks["l"][1] == [0, 0, 1, 1]
    later = counted({"b": [9, 0, 6, 1]}, n=1, domain="b", after=(second,), edits=1)
    third = only(made, later)
    assert third.masks["l"][:2] == [[1, 1, 0, 0], [0, 0, 1, 0]]
    assert third.owners["l"] == {"0": "a", "1": "a", "2": "b"}
    assert ask(made, view(n=0, domain="b", after=(third,))) == (), "no longer new"


def test_an_owner_keeps_its_expert_and_nobody_gets_one_that_is_gone() -> None:
    made = usage(sharing="claim")
    matrix = [[0.2, 0.2, 0.0, 0.0], [0.9, 0.0, 0.0, 0.0], [0.0] * 4]
    rows = [[1, 1, 0, 0], [1, 0, 0, 0], [0] * 4]
    held = {"0": "a", "1": "a"}
    masks, _, owners = made._claimed(matrix, rows, held, (2,), False)
    assert owners == {"0": "a", "1": "a", "3": "b"}, "b used it more, and came later"
    assert masks[0] == [1, 1, 0, 0]
    assert masks[2] == [1, 0, 0, 0], "none is free, and 2 is gone: it shares its favourite"


def test_a_domain_whose_favourites_are_taken_claims_the_best_free_expert() -> None:
    made = usage(sharing="claim")
    first = only(made, counted({"a": [9, 9, 0, 0]}, index=0))
    edit = only(made, counted({"b": [9, 9, 1, 2]}, domain="b", after=(first,)))
    assert edit.masks["l"][1] == [0, 0, 0, 1]
    assert edit.owners["l"] == {"0": "a", "1": "a", "3": "b"}
    assert edit.masks["l"][2] == [0, 0, 1, 0], "what is left for a domain to come"


def test_a_new_domain_trains_the_experts_about_to_be_born() -> None:
    made = usage(sharing="claim")
    full = only(made, counted({"a": [9, 9, 9, 9]}, index=0))
    now = view(n=0, domain="b", after=(full,))
    grow = only(policy(Periodic.Config(max_experts=6, add=2)), now)
    edit = only(made, now.after(grow))
    assert edit.masks["l"][1] == [0, 0, 0, 0], "the two newcomers lie past the row's end"
    assert edit.on({"l": 6}).masks == edit.masks
    assert edit.on({"l": 4}).masks["l"] == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]
    alone = only(made, now)
    assert sum(alone.masks["l"][1]) == 1, "without growth it must share one"


def phased(**config: Any) -> list[tuple[int, str, RefreshMask | None]]:
    """(interval, phase begun, mask made) over a stage in which a mask is known already."""
    phases, made = policy(ThreePhases.Config(**config)), usage(refresh_every=2)
    known = only(usage(), counted({"a": [9, 1, 5, 6]}, index=0))
    memory, told = None, []
    after: tuple[Any, ...] = (known,)
    for n in range(10):
        now = counted({"a": [9, 1, 5, 6]}, n=n, after=after, edits=len(after))
        begun = ask(phases, now)
        for edit in begun:
            now = now.after(edit)
        edits, memory = made.propose(now, memory)
        after = (*after, *begun, *edits)
        told.append((n, begun[0].phase if begun else "", edits[0] if edits else None))
    return told  # type: ignore[return-value]


def test_masks_wait_for_the_warm_up_and_freeze_with_the_router() -> None:
    assert [n for n, _, mask in phased() if mask] == [2, 4, 6]


def test_a_warm_up_that_trains_experts_masks_nothing_and_counts() -> None:
    """The paper's warm-up only counts: no domain is kept from any expert."""
    told = phased(warmup_train_experts=True)
    assert [n for n, _, mask in told if mask] == [0, 2, 4, 6]
    opened, first = told[0][2], told[2][2]
    assert opened is not None
    assert first is not None
    assert opened.masks == {"l": [[1, 1, 1, 1]] * 3}
    assert first.cause.trigger == "phase"
    assert first.masks["l"][0] == [1, 0, 0, 1]
    assert first.usage["l"][0] == pytest.approx([0.9, 0.1, 0.5, 0.6]), "what was known is kept"


def test_three_phases_by_share_of_the_stage() -> None:
    made = policy(ThreePhases.Config(from_stage=1))
    edits = {n: ask(made, view(n=n)) for n in range(11)}
    assert {n: (e[0].phase, e[0].trains, e[0].counts_only) for n, e in edits.items() if e} == {
        0: ("warmup", ("router", "backbone"), True),
        2: ("stabilisation", ("router", "experts"), False),
        7: ("consolidation", ("experts",), False),
    }
    assert ask(made, view(n=0, index=0)) == ()
    both = policy(ThreePhases.Config(warmup_train_experts=True))
    assert only(both, view(n=0)).trains == ("router", "backbone", "experts")


def test_fixed_masks_are_set_once() -> None:
    made = policy(FixedMasks.Config(experts={"a": [0], "b": [1, 2]}))
    edit = only(made, view(n=0))
    assert edit.masks == {"l": [[1, 0, 0, 0], [0, 1, 1, 0]]}
    assert ask(made, view(n=0, after=(edit,))) == ()


def test_a_layer_without_a_domains_fixed_experts_is_trained_whole() -> None:
    """A schedule gives layers fewer experts, and growth brings some of them none."""
    made = policy(FixedMasks.Config(experts={"a": [0], "b": [2]}))
    now = view(n=0, layers={"wide": 3, "narrow": 1})
    assert only(made, now).masks == {"wide": [[1, 0, 0], [0, 0, 1]], "narrow": [[1], [1]]}
    edit = only(made, now.after(Grow(**now.edit(policy="x", trigger="x"), experts=5)))
    assert edit.masks["narrow"] == [[1], [0]]
    assert edit.on({"wide": 5, "narrow": 2}).masks["narrow"] == [[1], [0]], "it trains the newborn"
    assert edit.on({"wide": 5, "narrow": 1}).masks["narrow"] == [[1], [1]]


RELEVANCE = {
    "l": {
        "a": {"tokens": [0.5, 0.3, 0.2, 0.0], "gates": [0.1, 0.2, 0.3, 0.4]},
        "b": {"tokens": [0.0, 0.0, 0.1, 0.9], "gates": [0.25, 0.25, 0.25, 0.25]},
    }
}


def test_esft_masks_all_but_the_most_relevant_experts_and_freezes_the_rest() -> None:
    start = StartReport(
        source="", data_digest="", samples=1, figures={"expert_relevance": RELEVANCE}
    )
    made = policy(Esft.Config(share=0.6))
    mask, phase = ask(made, view(n=0, start=start))
    assert mask.masks == {"l": [[1, 1, 0, 0]] * 3}
    assert (mask.revision, phase.revision) == (1, 2)
    assert mask.id != phase.id
    assert phase.trains == ("experts",)
    assert ask(made, view(n=0, index=0, start=start)) == ()
    assert ask(made, view(n=1, start=start)) == ()
    gates = policy(Esft.Config(score="gate", share=0.5))
    assert ask(gates, view(n=0, domain="b", start=start))[0].masks["l"][0] == [1, 1, 0, 0]
    with pytest.raises(InputError, match="measured no 'expert_relevance'"):
        ask(made, view(n=0))
    assert best([0.2, 0.5, 0.3], 0.2) == [1]
    assert best([0.2, 0.5, 0.3], 1.0) == [0, 1, 2]


MASKED = {
    "stream": {"kind": "domains"},
    "model": {"experts": 3, "head": {"kind": "moe", "hidden": [32], "layer": {"selector": "topk"}}},
    "training": {"intervals": 5},
}
HEAD = MASKED["model"]["head"]  # type: ignore[index]


def masks(**settings: Any) -> dict[str, Any]:
    return {"policies": {"masks": {"kind": "usage_masks", **settings}}}


def fixed(**settings: Any) -> dict[str, Any]:
    return {"policies": {"masks": {"kind": "fixed_masks", **settings}}}


def policies(**named: Any) -> dict[str, Any]:
    return {"policies": named}


ADAPTIVE = {"experts": 3, "head": {**HEAD, "layer": {"selector": "topk", "router": "adaptive"}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (masks(refresh_every=5), "a stage must be longer"),
        (masks(sharing="copy", max_copies=2), "needs 3 copies"),
        (masks(from_stage=2), "2 stages, numbered from 0"),
        (fixed(experts={"base": [0]}), "missing: turned"),
        (
            fixed(from_stage=1, experts={"turned": [7], "upside down": [0], "permuted": [1]}),
            r"experts \[7\] do not exist",
        ),
        (fixed(experts={"nowhere": [0]}), "no such domain"),
        ({"stream": {"kind": "split"}}, "masks tell domains apart"),
        ({"stream": {"kind": "domains", "domains": [{"rotate": 9.0}]}}, "needs a label"),
        ({"model": {"head": {"kind": "mlp"}}}, "no experts under a router"),
        ({"lanes": [{"method": "replay"}]}, "mixes domains"),
        (
            policies(phases={"kind": "three_phases", "warmup_until": 0.8, "stabilise_until": 0.7}),
            "phases out of order",
        ),
        ({**policies(phases="three_phases"), "training": {"intervals": 2}}, "phases out of order"),
        (
            {"model": {"experts": 3, "head": {**HEAD, "layer": {"selector": "dense"}}}},
            "use a selector that",
        ),
        ({"model": ADAPTIVE}, "an adaptive router stays linear.*add .policies.router."),
        (policies(router="adapt_router"), "no router of the model can take over"),
        (policies(growth="periodic", esft="esft"), "the lane grows.*was not scored"),
        (policies(masks="usage_masks", esft="esft"), "esft sets masks and phases itself"),
    ],
)
def test_mismatches_are_told_at_plan_time(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**{**MASKED, **masks(), **changes})


def test_an_adaptive_router_with_its_takeover_fits() -> None:
    named = {"router": "adapt_router", "phases": "three_phases", "masks": "usage_masks"}
    (lane,) = tiny(**{**MASKED, "model": ADAPTIVE, "policies": named}).lanes
    assert list(lane.live_policies()) == ["router", "phases", "masks"]
    assert lane.spec().by_domain


PLAYED = {
    "name": "played",
    "stream": {"kind": "craftax", "tasks": [{"name": "survive"}, {"name": "gather"}]},
    "model": {"kind": "actor_critic", "experts": 2, "layer": {"selector": "topk"}},
    "training": {"kind": "ppo", "steps_per_stage": 32768, "intervals": 4},
    "lanes": [{}],
}


def test_lanes_that_learn_from_their_own_actions_take_masks_and_phases() -> None:
    named = {"phases": "three_phases", "masks": "usage_masks"}
    lane = check({**PLAYED, "policies": named}, "played").lanes[0]
    assert lane.trainer == "rl"
    assert [config.kind for config in lane.policies.values()] == ["three_phases", "usage_masks"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"kind": "actor_critic", "layer": "linear"}}, "no experts under a router"),
        (masks(refresh_every=4), "a stage must be longer"),
        (masks(exclusive_copies=True), "must act as it learns"),
        (fixed(experts={"survive": [0]}), "missing: gather"),
        (
            {"stream": {"kind": "craftax", "tasks": [{"name": "a", "domain": " "}]}},
            "tasks without a domain label",
        ),
        ({"stream": {"kind": "craftax"}}, "masks tell domains apart"),
    ],
)
def test_mismatches_of_such_lanes_are_told_at_plan_time(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check({**PLAYED, **masks(), **changes}, "played")


def test_policies_change_stage_ids_and_nothing_that_a_worker_builds() -> None:
    one, other = tiny(**MASKED).lanes[0].spec(), tiny(**{**MASKED, **masks()}).lanes[0].spec()
    assert one.built_from == other.built_from
    assert (one.policies, list(other.policies)) == ({}, ["masks"])
    assert tiny(**MASKED).digest != tiny(**{**MASKED, **masks()}).digest
    (taken_out,) = tiny(**{**MASKED, **masks(), "lanes": [{"policies": {"masks": "none"}}]}).lanes
    assert taken_out.policies == {}
