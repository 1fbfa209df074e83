"""An RL lane in this process: all of its stages, with growth, a lost worker and a resumed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workers.contract import (
    EvaluationReport,
    IntervalReport,
    LaneSpec,
    StageSpec,
    TaskSpec,
)
from workers.edits import Cause, Grow
from workers.parsing import checked
from workers.rl import TRAININGS
from workers.rl.building import build_stream
from workers.rl.evaluator import RLEvaluator
from workers.rl.trainer import RLTrainer

SMALL = {"num_envs": 4, "rollout": 16, "steps_per_stage": 256, "intervals": 2, "minibatches": 2}


def lane(stream: Any, model: Any, method: Any = "finetune", **training: Any) -> LaneSpec:
    """A lane of these sections, PPO's settings small."""
    _, config = checked(TRAININGS, {"kind": "ppo", **SMALL, **training})
    from dataclasses import asdict

    from workers.methods import METHODS
    from workers.models import MODELS

    settings = {
        "stream": stream,
        "model": asdict(checked(MODELS, model)[1]),
        "training": asdict(config),
        "method": asdict(checked(METHODS, {"kind": method})[1]),
    }
    return LaneSpec(lane="door-s0", trainer="rl", method=method, seed=0, settings=settings)


def tasks(spec: LaneSpec) -> tuple[TaskSpec, ...]:
    return build_stream(spec.settings["stream"], spec.seed).tasks()


def stage(spec: LaneSpec, index: int) -> StageSpec:
    return StageSpec(
        index=index,
        task=tasks(spec)[index],
        intervals=2,
        seed=7 + index,
        parent=None,
        settings_digest="d",
    )


def growth(spec: LaneSpec, index: int, experts: int, revision: int) -> Grow:
    return Grow(
        id=f"grow-{experts}",
        stage=stage(spec, index).id,
        after_interval=1,
        experts=experts,
        seed=5,
        revision=revision,
        cause=Cause(policy="test", trigger="test"),
    )


def run(
    spec: LaneSpec, folder: Path, lose: bool = False
) -> tuple[list[IntervalReport], EvaluationReport]:
    """Two intervals of each stage with growth between them, and the scores of the last model.

    ``lose``: after each stage's growth the worker is lost and a new one goes on from its last
    checkpoint, where the edit is applied again.
    """
    trainer, reports = RLTrainer(), []
    trainer.open(spec, None)
    for index in range(len(tasks(spec))):
        edit = growth(spec, index, index + 2, index + 1)
        trainer.start(stage(spec, index))
        reports.append(trainer.run_interval(1, index))
        ref = trainer.save(str(folder / f"half-{index}"), index)
        shape = trainer.apply(edit).after
        if lose:
            trainer.close()
            trainer = RLTrainer()
            trainer.open(spec, ref)
            assert trainer.apply(edit).after == shape
        reports.append(trainer.run_interval(2, index + 1))
    ref = trainer.save(str(folder / "end"), 9)
    trainer.close()
    return reports, RLEvaluator().evaluate(spec, ref, tasks(spec))
