"""The memory that a plan foretells: with the model as large as it gets, and what it assumes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.config.file import load
from orchestrator.config.plan import PlannedLane, as_json, plan
from orchestrator.report.terminal import print_plan
from tests.commands import ROOT
from tests.fakes import tiny
from workers.contract import Memory

DOMAINS = {
    "kind": "domains",
    "train_samples": 60,
    "test_samples": 20,
    "domains": [{"name": "turned", "rotate": 90.0}],
}
MOE = {"experts": 2, "max_experts": 6, "head": {"kind": "moe", "hidden": [32]}}


def planned(**changes: Any) -> PlannedLane:
    (lane, *_) = plan(tiny(**{"model": MOE, **changes}))
    return lane


def memory(**changes: Any) -> Memory:
    found = planned(**changes).memory
    assert found is not None
    return found


def test_growth_is_counted_to_the_end() -> None:
    growing = memory(policies={"growth": "periodic"})
    assert growing.weights > memory().weights
    assert growing.optimizer == 2 * growing.gradients
    assert planned(policies={"growth": "periodic"}).memory_notes == ()


def test_growth_that_nobody_foresees_is_counted_to_its_bound() -> None:
    policy = "tests.doors.test_policy_door:Plateau"
    lane = planned(policies={"growth": {"kind": policy}})
    assert lane.stages[-1].last_experts is None
    assert lane.memory_notes == ("growth depends on what is measured: counted with 6 experts",)
    assert lane.memory is not None
    assert lane.memory.weights > memory().weights


def test_phases_train_one_part_at_a_time() -> None:
    training = {"epochs": 1, "intervals": 5}
    phases = {"phases": {"kind": "three_phases"}}
    late = {"phases": {"kind": "three_phases", "from_stage": 1}}
    whole = memory(stream=DOMAINS, training=training)
    apart = memory(stream=DOMAINS, training=training, policies=phases)
    assert apart.gradients < whole.gradients
    assert apart.optimizer == whole.optimizer, "each part has its turn"
    assert memory(stream=DOMAINS, training=training, policies=late) == whole


def test_esft_is_bounded_by_all_experts_and_says_so() -> None:
    esft = {"esft": {"kind": "esft", "from_stage": 0}}
    lane = planned(stream=DOMAINS, policies=esft)
    assert lane.memory_notes == ("esft trains experts known once measured: all are counted",)
    assert lane.memory is not None
    assert lane.memory.optimizer < memory(stream=DOMAINS).optimizer
    later = planned(stream=DOMAINS, policies={"esft": "esft"})
    assert later.memory_notes == ()
    assert later.memory == memory(stream=DOMAINS)


def test_a_method_that_adds_samples_is_named() -> None:
    lane = planned(lanes=[{"method": "replay"}])
    assert lane.memory_notes == ("samples that the method adds to batches are not counted",)


def test_lanes_of_other_trainers_have_none() -> None:
    lanes = plan(load(ROOT / "configs" / "craftax" / "floors.toml"))
    assert lanes
    assert all(lane.memory is None and lane.memory_notes == () for lane in lanes)


def test_it_is_printed_and_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(model=MOE, lanes=[{"method": "replay", "seeds": [0, 1]}])
    lanes = plan(config)
    assert lanes[0].memory is lanes[1].memory, "asked for once"
    told = json.loads(json.dumps(as_json(config, lanes)))["lanes"][0]
    assert told["memory"]["total"] > told["memory"]["weights"] > 0
    assert len(told["memory_notes"]) == 1
    print_plan(config, lanes)
    text = capsys.readouterr().out
    assert "memory of a worker beside its data: peak " in text
    assert "KiB" in text
    assert "not counted" in text
