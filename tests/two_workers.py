"""The lane that tests of two workers train, and what must not depend on how it was trained."""

from __future__ import annotations

from typing import Any

from orchestrator.core.events import CheckpointSaved, EditApplied, EvaluationDone

MASKED: dict[str, Any] = {
    "seed": 3,
    "stream": {
        "kind": "domains",
        "train_samples": 113,
        "test_samples": 60,
        "domains": [{"name": "turned", "rotate": 90.0}, {"name": "permuted", "permutation": 1}],
    },
    "model": {
        "experts": 4,
        "head": {
            "kind": "moe",
            "hidden": [24],
            "layer": {
                "kind": "moe",
                "router": "adaptive",
                "selector": {"kind": "topk", "k": 2},
                "expert": {"kind": "bottleneck", "width": 6},
            },
        },
    },
    "training": {
        "epochs": 4,
        "intervals": 5,
        "batch": 16,
        "clip": 1.0,
        "optimizer": {"kind": "sgd", "momentum": 0.9},
    },
    "growth": {"kind": "periodic"},
    "masks": {"kind": "usage", "sharing": "copy", "max_copies": 3, "from_stage": 1},
    "phases": {"kind": "three", "from_stage": 1},
    "checkpoint_every": 2,
}
"""An epoch of 113 samples ends with a batch of one: the second worker gets none of it. Not Adam: an
adaptive router starts from gradients that are nothing but rounding, which Adam makes full steps of.
The seed is one by which no usage comes near the masks' threshold.
"""


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def essence(events: list[Any]) -> Any:
    """What must not depend on what was killed; every edit gave one fingerprint only."""
    prints: dict[str, set[str]] = {}
    for event in of(events, EditApplied):
        prints.setdefault(event.edit.id, set()).add(event.report.fingerprint)
    assert all(len(found) == 1 for found in prints.values())
    final = {e.index: e.checkpoint.digest for e in of(events, CheckpointSaved) if e.final}
    rows = {event.index: event.report.scores for event in of(events, EvaluationDone)}
    return prints, final, rows
