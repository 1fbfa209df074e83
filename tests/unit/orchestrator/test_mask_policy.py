"""Masks and phases as pure functions of progress: equations 5, 6, 9 and 11 of arXiv 2509.16882."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config.file import ConfigError, check
from orchestrator.policies.growth import Periodic, Progress
from orchestrator.policies.masks import FixedMasks, UsageMasks, fold_row, masked, row_entropy
from orchestrator.policies.phases import ThreePhases
from tests.fakes import TINY, tiny
from workers.contract import RefreshMask, StageSpec, TaskSpec

DOMAINS = ("a", "b", "c")


def progress(n: int = 1, index: int = 1, domain: str = "a", **changes: Any) -> Progress:
    task = TaskSpec(index=index, name=domain, domain=domain)
    stage = StageSpec(
        index=index, task=task, intervals=10, seed=4, parent=None, settings_digest="s"
    )
    base = Progress(
        stage=stage,
        stages=4,
        n=n,
        steps=0,
        steps_before=0,
        experts=4,
        edits=0,
        report=None,
        layers={"l": 4},
    )
    return replace(base, **changes)


def counted(rows: dict[str, list[int]], tokens: int = 10, **more: Any) -> Progress:
    return progress(counts={"l": rows}, tokens=dict.fromkeys(rows, tokens), **more)


def usage(**config: Any) -> UsageMasks:
    return UsageMasks(UsageMasks.Config(**config), DOMAINS)


def only(edits: tuple[RefreshMask, ...]) -> RefreshMask:
    (edit,) = edits
    return edit


def test_mask_is_relative_to_the_row_maximum_not_absolute() -> None:
    assert masked([[0.2, 0.12, 0.11, 0.0], [0.9, 0.55, 0.53, 0.1]], 0.6) == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
    ]


def test_momentum_keeps_nine_tenths_and_a_first_count_is_taken_as_found() -> None:
    assert fold_row([0.0, 0.0], [3, 7], 10, 0.9) == [0.3, 0.7]
    assert fold_row([0.5, 0.5], [10, 0], 10, 0.9) == pytest.approx([0.55, 0.45])
    assert fold_row([0.5, 0.5], [0, 0], 0, 0.9) == [0.5, 0.5], "no tokens, no change"


def test_refresh_folds_counts_and_numbers_versions() -> None:
    policy = usage(refresh_every=2)
    assert policy.propose(counted({"a": [9, 1, 5, 5]}, n=1)) == ()
    edit = only(policy.propose(counted({"a": [9, 1, 5, 6], "b": [0, 10, 5, 5]}, n=2)))
    assert (edit.version, edit.domains) == (1, DOMAINS)
    assert edit.masks == {"l": [[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]}
    again = only(policy.propose(counted({"a": [0, 10, 0, 0]}, n=4, mask=edit, edits=1)))
    assert again.version == 2
    assert again.usage["l"][0] == pytest.approx([0.81, 0.19, 0.45, 0.54])
    assert again.usage["l"][1] == edit.usage["l"][1]
    assert again.id != edit.id


def test_a_refresh_is_a_function_of_its_progress_alone() -> None:
    one, two = usage(), usage()
    seen = counted({"a": [9, 1, 5, 6]})
    assert one.propose(seen) == two.propose(seen) == one.propose(seen)


def test_copies_go_to_the_weaker_domains_within_the_budget() -> None:
    rows = {"a": [9, 0, 0, 1], "b": [8, 0, 2, 0], "c": [7, 3, 0, 0]}
    edit = only(usage(sharing="copy", max_copies=8).propose(counted(rows)))
    assert [(c.expert, c.parent, c.owner) for c in edit.copies["l"]] == [(4, 0, "b"), (5, 0, "c")]
    assert edit.masks["l"] == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]
    assert edit.owners == {"l": {"4": "b", "5": "c"}}
    assert edit.cause.figures["overlap_before"] == 1.0
    assert edit.cause.figures["overlap_after"] == 0.0
    small = only(usage(sharing="copy", max_copies=1).propose(counted(rows)))
    assert len(small.copies["l"]) == 1
    assert small.masks["l"] == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]


def test_a_domain_keeps_its_copy_at_the_next_refresh() -> None:
    policy = usage(sharing="copy", momentum=0.0)
    first = only(policy.propose(counted({"a": [9, 0, 0, 1], "b": [8, 0, 2, 0]})))
    later = counted({"a": [9, 0, 0, 1, 0], "b": [1, 0, 1, 0, 8]}, n=2, mask=first, layers={"l": 5})
    edit = only(policy.propose(later))
    assert edit.copies == {}
    assert edit.masks["l"][:2] == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_near_uniform_usage_is_not_copied() -> None:
    flat = {"a": [5, 5, 5, 5], "b": [5, 5, 5, 4]}
    edit = only(usage(sharing="copy").propose(counted(flat)))
    assert edit.copies == {}
    assert row_entropy([[0.25] * 4]) == pytest.approx(1.0)


@pytest.mark.parametrize("sharing", ["share", "copy", "claim"])
def test_no_domain_is_left_without_an_expert(sharing: str) -> None:
    rows = {"a": [10, 0, 0, 0], "b": [9, 0, 0, 0], "c": [8, 0, 0, 0]}
    edit = only(usage(sharing=sharing, max_copies=0).propose(counted(rows)))
    assert all(any(row) for row in edit.masks["l"])


def test_claimed_experts_stay_with_the_domain_that_used_them_first() -> None:
    policy = usage(sharing="claim")
    first = only(policy.propose(counted({"a": [9, 8, 0, 0]}, index=0)))
    assert first.masks["l"] == [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    start = progress(n=0, domain="b", mask=first)
    second = only(policy.propose(start))
    assert second.cause.trigger == "new domain"
    assert second.masks["l"][1] == [0, 0, 1, 1]
    later = counted({"b": [9, 0, 6, 1]}, n=1, domain="b", mask=second, edits=1)
    third = only(policy.propose(later))
    assert third.masks["l"][:2] == [[1, 1, 0, 0], [0, 0, 1, 0]]
    assert third.owners["l"] == {"0": "a", "1": "a", "2": "b"}
    assert policy.propose(progress(n=0, domain="b", mask=third)) == (), "no longer new"


def test_a_domain_whose_favourites_are_taken_claims_the_best_free_expert() -> None:
    policy = usage(sharing="claim")
    first = only(policy.propose(counted({"a": [9, 9, 0, 0]}, index=0)))
    edit = only(policy.propose(counted({"b": [9, 9, 1, 2]}, domain="b", mask=first)))
    assert edit.masks["l"][1] == [0, 0, 0, 1]
    assert edit.owners["l"] == {"0": "a", "1": "a", "3": "b"}
    assert edit.masks["l"][2] == [0, 0, 1, 0], "what is left for a domain to come"


def test_a_new_domain_trains_the_experts_about_to_be_born() -> None:
    policy = usage(sharing="claim")
    full = only(policy.propose(counted({"a": [9, 9, 9, 9]}, index=0)))
    growth = Periodic(Periodic.Config(max_experts=6, add=2))
    now = progress(n=0, domain="b", mask=full)
    (grow,) = growth.propose(now)
    edit = only(policy.propose(now.after(grow)))
    assert edit.masks["l"][1] == [0, 0, 0, 0], "the two newcomers lie past the row's end"
    alone = only(policy.propose(now))
    assert sum(alone.masks["l"][1]) == 1, "without growth it must share one"


def test_masks_wait_for_the_warm_up_and_freeze_with_the_router() -> None:
    phases, policy = ThreePhases(ThreePhases.Config()), usage(refresh_every=2)
    phase, refreshed = None, []
    for n in range(10):
        now = counted({"a": [9, 1, 5, 6]}, n=n, phase=phase)
        for edit in phases.propose(now):
            now, phase = now.after(edit), edit
        if policy.propose(now):
            refreshed.append(n)
    assert refreshed == [2, 4, 6]


def test_three_phases_by_share_of_the_stage() -> None:
    policy = ThreePhases(ThreePhases.Config(from_stage=1))
    edits = {n: policy.propose(progress(n=n)) for n in range(10)}
    assert {n: (e[0].phase, e[0].trains, e[0].adapt) for n, e in edits.items() if e} == {
        0: ("warmup", ("router", "backbone"), True),
        2: ("stabilisation", ("router", "experts"), False),
        7: ("consolidation", ("experts",), False),
    }
    assert policy.propose(progress(n=0, index=0)) == ()
    both = ThreePhases(ThreePhases.Config(warmup_train_experts=True))
    assert both.propose(progress(n=0))[0].trains == ("router", "backbone", "experts")


def test_fixed_masks_are_set_once() -> None:
    policy = FixedMasks(FixedMasks.Config(experts={"a": [0], "b": [1, 2]}), DOMAINS)
    edit = only(policy.propose(progress(n=0)))
    assert edit.masks == {"l": [[1, 0, 0, 0], [0, 1, 1, 0]]}
    assert policy.propose(progress(n=0, mask=edit)) == ()


MASKED = {
    "stream": {"kind": "domains"},
    "model": {"experts": 3, "head": {"kind": "moe", "hidden": [32]}},
    "training": {"intervals": 5},
    "masks": {"kind": "usage"},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": {"kind": "usage", "refresh_every": 5}}, "a stage must be longer"),
        ({"masks": {"kind": "usage", "sharing": "copy", "max_copies": 2}}, "needs 3 copies"),
        ({"masks": {"kind": "usage", "from_stage": 2}}, "2 stages, numbered from 0"),
        ({"masks": {"kind": "fixed", "experts": {"base": [0]}}}, "missing: turned"),
        (
            {
                "masks": {
                    "kind": "fixed",
                    "from_stage": 1,
                    "experts": {"turned": [7], "upside down": [0], "permuted": [1]},
                }
            },
            r"experts \[7\] do not exist",
        ),
        ({"masks": {"kind": "fixed", "experts": {"nowhere": [0]}}}, "no such domain"),
        ({"stream": {"kind": "split"}}, "masks tell domains apart"),
        ({"stream": {"kind": "domains", "domains": [{"rotate": 9.0}]}}, "needs a label"),
        ({"model": {"head": {"kind": "mlp"}}}, "no experts under a router"),
        ({"lanes": [{"method": "replay"}]}, "mixes domains"),
        (
            {"phases": {"kind": "three", "warmup_until": 0.8, "stabilise_until": 0.7}},
            "phases out of order",
        ),
        ({"phases": "three", "training": {"intervals": 2}}, "phases out of order"),
    ],
)
def test_mismatches_are_told_at_plan_time(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**{**MASKED, **changes})


PLAYED = {
    "name": "played",
    "stream": {"kind": "craftax", "tasks": [{"name": "survive"}, {"name": "gather"}]},
    "model": {"kind": "actor_critic", "experts": 2},
    "training": {"kind": "ppo", "steps_per_stage": 32768, "intervals": 4},
    "masks": {"kind": "usage"},
    "lanes": [{}],
}


def test_lanes_that_learn_from_their_own_actions_take_masks_and_phases() -> None:
    lane = check({**PLAYED, "phases": "three"}, "played").lanes[0]
    assert (lane.engine, lane.masks.kind, lane.phases.kind) == ("rl", "usage", "three")
    assert lane.domains() == ("survive", "gather")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"kind": "actor_critic", "layer": "linear"}}, "no experts under a router"),
        ({"masks": {"kind": "usage", "refresh_every": 4}}, "a stage must be longer"),
        ({"masks": {"kind": "usage", "exclusive_copies": True}}, "must act as it learns"),
        ({"masks": {"kind": "fixed", "experts": {"survive": [0]}}}, "missing: gather"),
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
        check({**PLAYED, **changes}, "played")


def test_sections_of_kind_none_change_no_stage_id() -> None:
    assert "masks" not in tiny().lanes[0].spec().settings
    assert "masks" in tiny(**MASKED).lanes[0].spec().settings
    assert tiny().digest != tiny(**{**TINY, **MASKED}).digest
