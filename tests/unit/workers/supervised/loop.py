"""The supervised loop in the test's process: short lanes, trained straight or taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orchestrator.config.run import RunConfig
from orchestrator.core.transitions import stage_spec
from tests.fakes import tiny
from workers.contract import CheckpointRef, StageSpec
from workers.edits import Cause, Grow
from workers.moe.growth.growable import shape
from workers.moe.routed import routed_layers
from workers.supervised.trainer import SupervisedTrainer

ROUTED = {
    "experts": 3,
    "max_experts": 5,
    "head": {
        "kind": "moe",
        "hidden": [24],
        "layer": {"selector": {"kind": "topk", "k": 2}, "losses": ["balance", "z"]},
    },
}
"""A model whose tokens choose two experts of three, with losses on the layer."""


def stages(config: RunConfig) -> list[StageSpec]:
    """The stages of the config's first lane."""
    plan = config.lanes[0].plan()
    found: list[StageSpec] = []
    for index in range(len(plan.tasks)):
        found.append(stage_spec(plan, index, found[-1].id if found else None))
    return found


def opened(stage: int = 0, **changes: Any) -> SupervisedTrainer:
    """A trainer inside a stage of the tiny lane with these changes."""
    config = tiny(**changes)
    trainer = SupervisedTrainer()
    trainer.open(config.lanes[0].spec(), None)
    trainer.start(stages(config)[stage])
    return trainer


def grow(experts: int, revision: int, **fields: Any) -> Grow:
    """Growth to so many experts, as the lane's edit number ``revision``."""
    return Grow(
        id=f"grow-{revision}",
        stage="s",
        after_interval=0,
        experts=experts,
        seed=revision,
        revision=revision,
        cause=Cause(policy="test", trigger="test"),
        **fields,
    )


def assert_unchosen_keeps_its_bits(trainer: SupervisedTrainer) -> None:
    """An expert of ``ROUTED`` that no token chooses: an interval leaves it alone, without state."""
    (layer,) = routed_layers(trainer.model).values()
    with torch.no_grad():
        layer.router.biases["2"].fill_(-1e4)
    before = [p.clone() for p in layer.experts["2"].parameters()]
    trainer.run_interval(1, 0)
    after = list(layer.experts["2"].parameters())
    assert all(torch.equal(p, q) for p, q in zip(after, before, strict=True))
    assert not any(p in trainer.optimizer.state for p in after)
    assert all(p in trainer.optimizer.state for p in layer.experts["0"].parameters())


def digests(folder: Path, again: bool, initialiser: str = "random", **changes: Any) -> list[str]:
    """Digests of the checkpoints after two stages with a growth by one expert between them.

    ``again``: after each interval a fresh trainer takes the checkpoint up.
    """
    config = tiny(**changes)
    lane, trainer = config.lanes[0].spec(), SupervisedTrainer()
    trainer.open(lane, None)
    found, seq = [], 0
    for stage in stages(config)[:2]:
        trainer.start(stage)
        if stage.index == 1:
            experts = 1 + max(layer.experts for layer in shape(trainer.model).layers.values())
            trainer.apply(grow(experts, 1, initialiser=initialiser))
        for n in range(1, stage.intervals + 1):
            trainer.run_interval(n, stage.index)
            seq += 1
            ref: CheckpointRef = trainer.save(str(folder / f"{initialiser}-{seq}-{again}"), seq)
            found.append(ref.digest)
            if again and n < stage.intervals:
                trainer = SupervisedTrainer()
                trainer.open(lane, ref)
    return found
