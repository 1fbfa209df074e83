"""Baselines as a plan has them: which lanes are added, which serve already, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config.baselines import BASELINES
from orchestrator.config.file import ConfigError, restore
from orchestrator.config.plan import as_json, plan
from orchestrator.config.run import RunConfig
from orchestrator.core.transitions import planned_stages
from orchestrator.report.terminal import print_plan
from tests.fakes import tiny
from tune_spaces.stream_file import single_lane
from workers.contract import CheckpointRef, Start

TWO = [{"method": "replay", "seeds": [0, 1]}]
GROWN = {"policies": {"growth": "periodic"}}


def named(config: RunConfig) -> dict[str, dict[str, str]]:
    return {lane.name: dict(lane.baselines) for lane in config.lanes}


def test_each_seed_of_a_lane_gets_its_own() -> None:
    config = tiny(lanes=TWO, baselines=["scratch", "joint", "finetune"])
    assert list(named(config)) == [
        "replay-s0",
        "replay-s1",
        *(f"replay/{kind}-s{seed}" for seed in (0, 1) for kind in ("scratch", "joint", "finetune")),
    ]
    for seed in (0, 1):
        own = config.lane(f"replay-s{seed}").baselines
        assert own == {kind: f"replay/{kind}-s{seed}" for kind in ("scratch", "joint", "finetune")}
        for kind, name in own.items():
            lane = config.lane(name)
            assert (lane.baseline, lane.seed, lane.policies, lane.baselines) == (kind, seed, {}, {})
            assert lane.sections["model"] == config.lane("replay-s0").sections["model"]
    methods = [config.lane(f"replay/{kind}-s0").sections["method"].kind for kind in own]
    assert methods == ["finetune", "joint", "finetune"]
    courses = [config.lane(f"replay/{kind}-s0").course for kind in own]
    assert courses == ["alone", "stream", "stream"]


def test_nothing_is_added_without_being_asked() -> None:
    assert tiny(lanes=TWO).lanes == tiny(lanes=TWO, baselines=[]).lanes
    assert len(tiny(lanes=TWO).lanes) == 2


def test_lanes_of_one_model_share_them_and_a_lane_that_is_one_serves() -> None:
    lanes = [{"method": "finetune"}, {"method": "replay"}, {"name": "grown", **GROWN}]
    config = tiny(lanes=lanes, baselines=["scratch", "finetune"])
    assert named(config) == {
        "finetune-s0": {"scratch": "finetune/scratch-s0", "finetune": "finetune-s0"},
        "replay-s0": {"scratch": "finetune/scratch-s0", "finetune": "finetune-s0"},
        "grown-s0": {"scratch": "grown/scratch-s0", "finetune": "grown/finetune-s0"},
        "finetune/scratch-s0": {},
        "grown/scratch-s0": {},
        "grown/finetune-s0": {},
    }


def test_a_lane_may_have_others_than_the_file() -> None:
    lanes = [{"method": "replay", "baselines": []}, {"method": "joint", "baselines": ["finetune"]}]
    config = tiny(lanes=lanes, baselines=["scratch"])
    assert named(config) == {
        "replay-s0": {},
        "joint-s0": {"finetune": "joint/finetune-s0"},
        "joint/finetune-s0": {},
    }


def test_an_untrained_lane_is_its_own_random_init_and_a_begun_one_gets_a_lane() -> None:
    config = tiny(lanes=TWO, baselines=["random_init"])
    assert named(config) == {name: {"random_init": name} for name in ("replay-s0", "replay-s1")}
    ref = CheckpointRef(uri="u", digest="d", seq=1, stage="x", bytes=1)
    begun = replace(config.lanes[0], start=Start(checkpoint=ref))
    made = BASELINES["random_init"](begun)
    assert (made.start, made.course) == (None, "none")
    assert planned_stages(made.plan()) == ()
    assert BASELINES["scratch"](begun).start == begun.start, "alone from the lane's first model"


def test_each_stage_of_a_lane_alone_goes_on_from_its_first_model() -> None:
    lanes = [{"method": "finetune"}, {"method": "replay"}]
    config = tiny(lanes=lanes, baselines=["scratch"])
    plans = {one.spec.lane: one for one in config.plan().lanes}
    alone = planned_stages(plans["finetune/scratch-s0"])
    row = planned_stages(plans["finetune-s0"])
    assert [stage.parent for stage in alone] == [None] * 5
    assert [one.seed for one in alone] == [one.seed for one in row]
    assert alone[0].id == row[0].id, "the first stage is trained once"
    stem = plans["finetune/scratch-s0"].stem
    assert stem is not None
    assert (stem.lanes, stem.stages) == (("finetune-s0", "replay-s0"), 1)


def test_the_plan_says_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(lanes=[{"method": "replay"}], baselines=["scratch", "joint", "finetune"])
    lanes = plan(config)
    told = as_json(config, lanes)
    assert (told["stages"], told["stages_to_train"], told["stages_of_baselines"]) == (20, 17, 12)
    assert told["lanes"][1]["baseline"] == "scratch"
    assert told["lanes"][0]["baselines"] == dict(config.lanes[0].baselines)
    print_plan(config, lanes)
    shown = capsys.readouterr().out
    assert "stages to train: 17 instead of 20" in shown
    assert "12 of them for baselines" in shown
    assert "each task alone, from the lane's first model" in shown
    assert "measured against replay/scratch-s0, replay/joint-s0, replay/finetune-s0" in shown


def test_a_journal_gives_them_back() -> None:
    config = tiny(lanes=TWO, baselines=["scratch", "random_init"])
    assert restore(config.plain()) == config


@pytest.mark.parametrize("raw", ["scratch", ["scratch", "best"], ["joint", "joint"], [1], None])
def test_a_wrong_list_is_refused_with_those_there_are(raw: Any) -> None:
    if raw is None:
        raw = {"scratch": True}
    with pytest.raises(ConfigError, match="scratch, joint, finetune, random_init, each once"):
        tiny(baselines=raw)
    with pytest.raises(ConfigError, match=r"lanes\.0\.baselines"):
        tiny(lanes=[{"baselines": raw}])


def test_a_baseline_that_the_lane_cannot_have_is_refused_with_the_reason() -> None:
    stream = {"kind": "environments", "tasks": [{"name": "play"}]}
    training = {"kind": "ppo", "num_envs": 8, "rollout": 8, "steps_per_stage": 64}
    changes = {"stream": stream, "training": training, "model": "actor_critic"}
    assert len(tiny(**changes, baselines=["scratch", "finetune"]).lanes) == 2
    with pytest.raises(ConfigError, match="leave 'joint' out of the baselines") as error:
        tiny(**changes, baselines=["joint"])
    assert str(error.value.problems[0]).startswith("baselines: 'joint': method.kind: got 'joint'")


def test_a_search_leaves_them_out(tmp_path: Any) -> None:
    path = tmp_path / "b.toml"
    text = 'name = "b"\nbaselines = ["scratch"]\nstream = { kind = "split" }\n[[lanes]]\n'
    path.write_text(text + 'method = "replay"\n')
    assert "baselines" not in single_lane(path, None, "growth")
