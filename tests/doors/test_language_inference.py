"""Inference policies answer for language models: our decoder, a mixture of transformers."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.report import inference
from tests import chains
from tests.doors.lane import run_lane
from tests.families import settings

pytest.importorskip("transformers")

LAYER = {"kind": "moe", "selector": "topk", "expert": {"kind": "gated", "width": 16}}
DECODER = {"kind": "decoder", "width": 32, "depth": 2, "heads": 4, "experts": 3, "layer": LAYER}
MODELS: dict[str, dict[str, Any]] = {
    "decoder": DECODER,
    "olmoe": {"kind": "huggingface", "settings": settings("olmoe", num_experts=4)},
}
K = 2
"""Experts that a token of either model runs through."""


@pytest.fixture(scope="module", params=sorted(MODELS))
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of the model, folder of its finished run, and what its lane came to."""
    folder = tmp_path_factory.mktemp("runs")
    raw = {
        "stream": {"kind": chains.KIND, "validation": 0.25, "windows": 32},
        "model": MODELS[request.param],
        "training": {"steps": 4, "batch": 8, "intervals": 1, "diagnostics": []},
        "policies": {},
        "lanes": [{}],
    }
    return request.param, folder, run_lane(folder, raw)


decoder_alone = pytest.mark.parametrize("run", ["decoder"], indirect=True)


def told(run: Any, policy: str, *tasks: str) -> Any:
    return inference.evaluate(run[1], inference.settings(policy), None, None, tasks)


def test_the_plain_model_scores_what_the_journal_holds(run: Any) -> None:
    name, _, outcome = run
    found = told(run, "plain")
    assert found["tasks"] == list(chains.DOMAINS)
    assert found["plain"] == found["scores"] == pytest.approx(list(outcome.matrix[-1]), abs=1e-12)
    held = outcome.lane["stages"][-1]["figures"]["south"]
    assert found["plain_figures"][-1]["bits_per_byte"] == pytest.approx(held["bits_per_byte"]), name


@pytest.mark.parametrize("policy", [f"k_sweep:k={K}", "expert_gain:on=south,mode=scale,gain=1"])
def test_what_steers_nothing_answers_as_the_model(run: Any, policy: str) -> None:
    same(told(run, policy))


@decoder_alone
def test_windows_in_stretches_are_answered_as_whole_ones(run: Any) -> None:
    same(told(run, "router_bias:lr=1e-9,every=8"))


def same(found: Any) -> None:
    """Scores and losses of every task are those of the plain model."""
    assert found["scores"] == pytest.approx(found["plain"], abs=1e-5)
    for one, plain in zip(found["figures"], found["plain_figures"], strict=True):
        assert one["loss"] == pytest.approx(plain["loss"], abs=1e-5)


@decoder_alone
@pytest.mark.parametrize(
    "policy",
    [
        "k_sweep:k=1",
        "expert_gain:on=south,top=2",
        "expert_gain:on=south,mode=on",
        "router_bias:lr=0.5,every=8,steps=2",
        "self_contrast:b=0.3",
        "neighbour_rerouting:memory=16",
    ],
)
def test_what_steers_changes_every_task(run: Any, policy: str) -> None:
    found = told(run, policy, "base", "south")
    for one, plain in zip(found["figures"], found["plain_figures"], strict=True):
        assert abs(one["loss"] - plain["loss"]) > 1e-6


@decoder_alone
def test_k_is_swept_over_all_experts(run: Any) -> None:
    found = told(run, "k_sweep", "north")
    assert list(found["choices"]) == ["1", "2", "3"]
    best = max(found["choices"], key=lambda k: found["choices"][k][0])
    assert found["chosen"] == [int(best)]
    assert found["scores"] == told(run, f"k_sweep:k={best}", "north")["scores"]
