"""What lanes have in common, as a plan says it; and who is asked when."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.beginning import begin
from orchestrator.config.file import check, restore
from orchestrator.config.plan import as_json, plan, to_train
from orchestrator.core.plans import Stem
from orchestrator.core.records import RECORD, Record, line
from orchestrator.driver import LanePolicies
from orchestrator.policies import View
from orchestrator.report.terminal import print_plan
from tests.fakes import tiny
from workers.contract import Json, ModelState, StageSpec, StartReport, before_edits
from workers.methods import Replay
from workers.models.classifier import Classifier
from workers.moe.routers import AdaptiveRouter
from workers.parsing import parse

TOPK = {"kind": "topk", "k": 2}
LINEAR: Json = {
    "model": {"head": {"layer": {"router": "linear"}}},
    "policies": {"router": "none", "phases": "none", "masks": "none"},
}


def study(*lanes: Json, **changes: Any) -> Any:
    """A base and two domains, with an adaptive router and policies from stage 1 on."""
    layer = {"kind": "moe", "router": "adaptive", "selector": TOPK}
    raw = {
        "name": "study",
        "stream": {
            "kind": "domains",
            "domains": [{"name": "turned", "rotate": 90.0}, {"name": "negative", "invert": True}],
        },
        "model": {"experts": 4, "head": {"kind": "moe", "hidden": [16], "layer": layer}},
        "training": {"steps": 60, "intervals": 6},
        "policies": {
            "router": {"kind": "adapt_router", "from_stage": 1},
            "phases": {"kind": "three_phases", "from_stage": 1},
            "masks": {"kind": "usage_masks", "from_stage": 1},
        },
        "lanes": [{"name": "des"}, *lanes],
        **changes,
    }
    return check(raw, "study")


class Bent(Replay):
    """A replay that may train its first stage otherwise, as it does not say that it does not."""


class Odd(AdaptiveRouter):
    """An adaptive router of somebody else."""


def stems(config: Any) -> dict[str, Stem | None]:
    return {lane.spec.lane: lane.stem for lane in config.plan().lanes}


@pytest.mark.parametrize(
    "lane",
    [
        LINEAR,
        {**LINEAR, "method": "joint"},
        {**LINEAR, "method": {"kind": "replay", "buffer": 9}},
        {**LINEAR, "stream": {"order": "sequential"}},
        {**LINEAR, "stream": {"domains": [{"name": "other", "mirror": True}]}},
        {**LINEAR, "policies": {**LINEAR["policies"], "phases": {"kind": "esft"}}},
        {"policies": {"masks": {"sharing": "claim"}}},
        {"model": {"head": {"layer": {"router": {"kind": "adaptive", "start": "residual"}}}}},
    ],
)
def test_lanes_that_part_after_the_base_share_it(lane: Json) -> None:
    config = study({"name": "other", **lane}, {"name": "third", **lane, "seeds": [0, 1]})
    found = stems(config)
    stem = found["other-s0"]
    assert found["des-s0"] is None
    assert found["third-s1"] is None, "another seed"
    assert stem is not None
    assert (stem.lanes, stem.stages) == (("des-s0",), 1)
    assert found["third-s0"] is not None
    assert found["third-s0"].lanes == ("other-s0",), "the longest common beginning counts"


@pytest.mark.parametrize(
    "lane",
    [
        {"policies": {"masks": {"from_stage": 0}}},
        {"model": {"head": {"hidden": [17]}}},
        {"stream": {"base": [{"name": "upright", "mirror": True}]}},
        {"training": {"batch": 32}},
        {**LINEAR, "method": {"kind": "tests.unit.orchestrator.test_stems:Bent"}},
        {"model": {"head": {"layer": {"router": "tests.unit.orchestrator.test_stems:Odd"}}}},
    ],
)
def test_lanes_that_differ_in_the_base_do_not(lane: Json) -> None:
    assert stems(study({"name": "other", **lane}))["other-s0"] is None


@pytest.mark.parametrize(("over", "shared"), [("stage", True), ("stream", False)])
def test_rates_over_a_stream_of_another_length_are_other_rates(over: str, shared: bool) -> None:
    rate = {"kind": "cosine", "over": over}
    training = {"steps": 60, "intervals": 6, "learning_rate": rate}
    longer = {"name": "other", "stream": {"order": "sequential"}}
    found = stems(study(longer, {"name": "third"}, training=training))
    assert (found["other-s0"] is not None) == shared
    assert found["third-s0"] is not None, "a stream of the same length"


def test_a_config_before_its_edits_is_the_same_at_any_depth() -> None:
    def model(router: Json | str) -> Any:
        raw = {"head": {"kind": "moe", "layer": {"kind": "moe", "router": router}}}
        config, problems = parse(Classifier.Config, raw, "")
        assert not problems
        return config

    assert before_edits(model("adaptive")) == model("linear") != model("adaptive")
    assert before_edits(model("linear")) == model("linear")


def test_the_plan_tells_what_is_shared(capsys: pytest.CaptureFixture[str]) -> None:
    replay = {"name": "replay", **LINEAR, "method": "replay", "seeds": [0, 1]}
    config = study({"name": "full", **LINEAR}, replay)
    lanes = plan(config)
    told = as_json(config, lanes)
    assert (told["stages"], told["stages_to_train"]) == (8, 6)
    assert to_train(lanes) == 6
    assert told["evaluations"] == 3 + 1 + 1 + 3
    assert [lane["stages"][0]["trained_by"] for lane in told["lanes"]] == [
        None,
        "des-s0",
        "des-s0",
        None,
    ]
    print_plan(config, lanes)
    shown = capsys.readouterr().out
    assert "stages to train: 6 instead of 8" in shown
    assert "trained by des-s0" in shown
    off = study({"name": "full", **LINEAR}, share_stages=False)
    print_plan(off, plan(off))
    assert "stages to train: 4\n" in capsys.readouterr().out


def test_the_journal_holds_the_plan_s_stems() -> None:
    config = study({"name": "full", **LINEAR})
    begun = begin(config, "run")
    again: Any = RECORD.validate_json(line(Record(event=begun))).event
    assert again.plan == begun.plan
    assert again.plan.lanes[1].stem.lanes == ("des-s0",)
    assert restore(again.config) == config
    assert restore(again.config).digest == again.config_digest
    assert restore(study(share_stages=False).plain()).share_stages is False


def test_a_policy_is_not_asked_before_its_first_stage() -> None:
    config = tiny(policies={"growth": {"kind": "periodic", "every": 2}})
    policies = LanePolicies(config)
    lane = config.plan().lanes[0]

    def asked(index: int) -> tuple[int, Json]:
        stage = StageSpec(
            index=index,
            task=lane.tasks[index],
            intervals=2,
            seed=1,
            parent=None,
            settings_digest="",
        )
        start = StartReport(source="", data_digest="", samples=1)
        view = View(
            stage=stage, stages=5, n=0, steps=0, steps_before=0, start=start, model=ModelState()
        )
        decision = policies.propose("finetune-s0", view, {})
        return len(decision.edits), dict(decision.memory)

    assert asked(0) == asked(1) == (0, {})
    assert asked(2) == (1, {"growth": 0})


def test_rl_lanes_share_nothing() -> None:
    ppo = {"kind": "ppo", "num_envs": 8, "rollout": 16, "steps_per_stage": 256, "intervals": 2}
    config = check(
        {
            "name": "x",
            "stream": {"kind": "tests.unit.workers.rl.toy:ToyStream"},
            "training": ppo,
            "model": "actor_critic",
            "lanes": [{"name": "a"}, {"name": "b"}],
        },
        "x",
    )
    assert set(stems(config).values()) == {None}
