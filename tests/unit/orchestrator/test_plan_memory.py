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
from workers.contract import InputError, Memory

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


def test_a_share_of_the_experts_is_counted_where_one_is_told() -> None:
    config = tiny(model=MOE | {"experts": 4}, stream=DOMAINS)
    (whole, *_), (quarter, *_) = plan(config), plan(config, experts_share=0.25)
    assert whole.memory is not None
    assert quarter.memory is not None
    assert quarter.memory.weights == whole.memory.weights
    assert quarter.memory.gradients < whole.memory.gradients
    assert quarter.memory.optimizer == 2 * quarter.memory.gradients
    assert quarter.memory_notes == ("25.0% of each layer's experts are taken to train",)
    with pytest.raises(InputError, match="above 0 and at most 1"):
        plan(config, experts_share=0.0)


def test_a_mixture_of_16_billion_fits_one_device_where_few_experts_train() -> None:
    """The sizes of DeepSeek-V2-Lite, ESFT from the first stage: 4 of 64 experts in each layer."""
    pytest.importorskip("transformers")
    sizes = {
        "model_type": "deepseek_v2",
        "vocab_size": 102_400,
        "hidden_size": 2048,
        "intermediate_size": 10_944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "max_position_embeddings": 163_840,
    }
    config = tiny(
        stream={"kind": "text", "domains": ["code"], "window": 4096},
        model={"kind": "huggingface", "settings": sizes},
        training={
            "batch": 8,
            "accumulate": 8,
            "eval_batch": 1,
            "precision": "bfloat16",
            "checkpoint_activations": True,
            "optimizer": {"kind": "adamw", "implementation": "fused"},
        },
        policies={"esft": {"kind": "esft", "from_stage": 0}},
    )
    (few, *_), (every, *_) = plan(config, experts_share=0.05), plan(config)
    assert few.memory is not None
    assert every.memory is not None
    assert few.memory.total is not None
    assert every.memory.total is not None
    assert few.stages[0].parameters == pytest.approx(15.7e9, rel=0.01)
    gib = 1 << 30
    assert few.memory.weights == pytest.approx(29.3 * gib, rel=0.01)
    assert few.memory.total < 80e9 < every.memory.total


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
