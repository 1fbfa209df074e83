"""The foretold memory of a worker, beside what torch's allocator gave out while one trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests import chains
from tests.fakes import tiny
from tests.families import settings
from tests.unit.workers.supervised.loop import opened
from tests.unit.workers.supervised.stack import Stack
from workers.contract import Memory
from workers.edits import ROLES
from workers.machine import resident_mb
from workers.moe.selectors import Selector
from workers.supervised.memory import estimate
from workers.supervised.trainer import SupervisedTrainer

STREAM = {"kind": "permuted", "dataset": "digits", "tasks": 2}
"""Of some 1,300 training samples a task: more than a score is taken on."""
STACK = {"kind": f"{Stack.__module__}:Stack", "width": 256, "depth": 6}
MODELS: dict[str, dict[str, Any]] = {
    "stack": STACK,
    "loop": {**STACK, "depth": 2, "layer": {"expert": "mlp"}},
    "dense": {"experts": 3, "head": {"kind": "moe", "hidden": [256, 256]}},
    "routed": {
        "experts": 3,
        "max_experts": 6,
        "head": {
            "kind": "moe",
            "hidden": [256, 256],
            "layer": {"selector": {"kind": "topk", "k": 2}, "losses": ["balance"]},
        },
    },
    "convolutions": {"backbone": "nature_cnn"},
    "olmoe": {"kind": "huggingface", "settings": settings("olmoe", hidden_size=128)},
    "decoder": {"kind": "decoder", "experts": 4, "depth": 2},
}
TEXTS = {"kind": chains.KIND, "windows": 96}
"""What the models of tokens read."""
LIKE_MEASURED = [
    ("stack", {}),
    ("stack", {"accumulate": 4}),
    ("stack", {"checkpoint_activations": True}),
    ("stack", {"precision": "bfloat16", "accumulate": 2}),
    ("stack", {"optimizer": {"kind": "adamw", "implementation": "foreach"}, "accumulate": 16}),
    ("loop", {}),
    ("dense", {}),
    ("dense", {"precision": "bfloat16"}),
    ("routed", {"optimizer": {"kind": "sgd"}}),
    ("convolutions", {}),
    ("olmoe", {"batch": 64}),
    ("olmoe", {"batch": 64, "checkpoint_activations": True}),
    ("decoder", {"batch": 64, "accumulate": 4}),
]


def lane(model: str, **training: Any) -> dict[str, Any]:
    steps = {"steps": 4, "intervals": 2, "batch": 480, "eval_batch": 64}
    stream = TEXTS if model in ("olmoe", "decoder") else STREAM
    return {"stream": stream, "model": MODELS[model], "training": {**steps, **training}}


def foretold(changes: dict[str, Any], **more: Any) -> Memory:
    config = tiny(**changes).lanes[0]
    sections, experts = config.sections, more.pop("experts", config.experts)
    return estimate(config.stream(), sections["model"], sections["training"], experts, **more)


def measured(trainer: SupervisedTrainer, folder: Path) -> int:
    """The most bytes that torch held at once in an interval beyond what it held before."""
    trainer.run_interval(1, 0)
    for parameter in trainer.model.parameters():
        parameter.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        trainer.run_interval(2, 0)
    watched.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    found = sorted((e["ts"], e["args"]) for e in events if e.get("name") == "[memory]")
    held = [told["Total Allocated"] for _, told in found]
    return int(max(held) - (held[0] - found[0][1]["Bytes"]))


@pytest.mark.parametrize(("model", "training"), LIKE_MEASURED)
def test_the_peak_is_what_the_allocator_gives_out(
    tmp_path: Path, model: str, training: dict[str, Any]
) -> None:
    """Within a tenth, and an eighth above: gradients are counted for experts no token chose."""
    changes = lane(model, **training)
    memory = foretold(changes)
    assert memory.total is not None
    found = measured(opened(**changes), tmp_path)
    assert 0.9 * found < memory.total - memory.weights - memory.optimizer < 1.125 * found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", {"kind": "sgd", "momentum": 0.9}])
def test_weights_and_optimizer_state_are_exact(precision: str, optimizer: Any) -> None:
    changes = lane("dense", precision=precision, optimizer=optimizer)
    memory, trainer = foretold(changes), opened(**changes)
    trainer.run_interval(1, 0)
    state = [
        value
        for kept in trainer.optimizer.state.values()
        for value in kept.values()
        if isinstance(value, Tensor) and value.dim()
    ]
    scalars = {p for p in trainer.model.parameters() if not p.dim()}  # theirs have no dimension
    own = sum(t.nbytes for t in state)
    assert own <= memory.optimizer <= own + 64 * len(scalars)
    assert memory.weights == sum(
        t.nbytes for t in (*trainer.model.parameters(), *trainer.model.buffers())
    )
    assert memory.gradients == sum(p.nbytes for p in trainer.model.parameters())


def test_what_does_not_train_has_neither_gradient_nor_state() -> None:
    changes = lane("stack")
    whole = foretold(changes)
    experts = foretold(changes, trains=[("experts",)])
    assert experts.gradients < whole.gradients
    assert experts.optimizer == 2 * experts.gradients
    phases = foretold(changes, trains=[("router", "backbone"), ("experts",)])
    assert phases.gradients == experts.gradients, "the larger of both"
    assert experts.optimizer < phases.optimizer == whole.optimizer
    assert foretold(changes, trains=[ROLES, ("experts",)]) == whole


def test_parts_checkpoints_workers_and_growth_show() -> None:
    plain = foretold(lane("stack"))
    assert plain.activations is not None
    parts = foretold(lane("stack", accumulate=8)).activations
    assert parts is not None
    assert parts < plain.activations / 4
    again = foretold(lane("stack", checkpoint_activations=True)).activations
    assert again is not None
    assert again < plain.activations / 2
    shared = foretold(lane("stack"), workers=4).activations
    assert shared is not None
    assert shared < plain.activations / 2
    assert foretold(lane("stack"), experts=6).weights > plain.weights
    fused = {"kind": "adamw", "implementation": "fused"}
    assert foretold(lane("stack"), device="cuda").update == plain.gradients
    assert foretold(lane("stack", optimizer=fused), device="cuda").update < plain.gradients


class Reading(Selector):
    """A selector that looks at values, which the meta device has none of."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        kind: str = f"{__name__}:Reading"

    def __init__(self, config: Config) -> None:
        super().__init__()

    def active(self, experts: int) -> float:
        return experts

    def select(self, logits_TE: Tensor, allowed_TE: Any, training: bool) -> Any:
        float(logits_TE.sum())
        raise AssertionError("there are values")


def test_what_needs_data_leaves_activations_unknown() -> None:
    layer = {"selector": f"{__name__}:Reading"}
    changes = lane("dense")
    changes["model"] = {"head": {"kind": "moe", "hidden": [64], "layer": layer}}
    memory = foretold(changes)
    assert memory.total is memory.activations is memory.scoring is None
    assert memory.weights > 0
    assert memory.optimizer == pytest.approx(2 * memory.weights, rel=0.01)


def test_nothing_is_allocated() -> None:
    changes = lane("stack")
    changes["model"] = {**STACK, "width": 8192, "depth": 24}
    before = resident_mb()
    memory = foretold(changes)
    assert memory.weights > 3 * 2**30
    assert memory.total is not None
    assert resident_mb() - before < 300
