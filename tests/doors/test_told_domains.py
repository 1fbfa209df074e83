"""Routers that must be told each sample's domain, in whole lanes: every diagnostic and inference
policy looks at the model without leaving them ignorant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.doors.lane import run_killed, run_lane
from tests.doors.test_inference_door import evaluated

POLICIES = (
    "k_sweep",
    "neighbour_rerouting:memory=24",
    "neighbour_rerouting:form=gradient,memory=24,steps=2",
)


def lane(router: dict[str, Any], k: int) -> dict[str, Any]:
    layer = {"router": router, "selector": {"kind": "topk", "k": k, "weights": "full"}}
    return {
        "stream": {
            "kind": "domains",
            "train_samples": 96,
            "test_samples": 48,
            "validation": 0.2,
            "domain_given": True,
            "domains": [
                {"name": "negative", "invert": True},
                {"name": "permuted", "permutation": 1},
            ],
        },
        "model": {
            "experts": 2,
            "max_experts": 4,
            "head": {"kind": "moe", "hidden": [12], "layer": layer},
        },
        "policies": {"growth": "periodic"},
        "training": {"epochs": 8, "intervals": 2, "batch": 16, "diagnostics": ["all"]},
        "lanes": [{"method": "finetune"}],
    }


def test_an_oracle_is_told_in_every_measure(tmp_path: Path) -> None:
    found = run_killed(tmp_path, lane({"kind": "oracle_domain"}, k=1))
    last = found.lane["stages"][-1]
    for place, domain in enumerate(("base", "negative", "permuted")):
        share = last["model_figures"][f"expert_ablation/{domain}/head.layers.0/{place}"]
        assert share == 1.0, "its expert runs for its samples and for no others"


def test_gates_by_task_answer_under_policies(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    found = run_lane(folder, lane({"kind": "per_task_gate", "domains": 3}, k=2))
    assert "gate_gradient_variance/head.layers.0" in found.lane["stages"][-1]["model_figures"]
    for policy in POLICIES:
        told = evaluated((folder, found), policy)
        assert all(0.0 <= score <= 1.0 for score in told["scores"])
        last = evaluated((folder, found), policy, "--tasks", told["tasks"][-1])
        assert last["plain"] == told["plain"][-1:]
