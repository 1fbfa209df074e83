"""Engines by name: who trains and who evaluates a lane, found without importing them.

The tables of streams, models and trainings that belong to several rooms are put together here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from workers.contract import Evaluator, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to train a stage: import paths of its parts and the kinds it needs."""

    trainer: str
    evaluator: str
    training: str
    """Kind of ``[training]`` its lanes must have."""
    model: str
    """Kind of ``[model]`` its lanes must have."""
    exact: bool
    """Whether a rerun from the same checkpoint gives the same bits (on CPU)."""


ENGINES: dict[str, Engine] = {
    "supervised": Engine(
        trainer="workers.supervised:SupervisedTrainer",
        evaluator="workers.supervised:SupervisedEvaluator",
        training="supervised",
        model="classifier",
        exact=True,
    ),
    "rl": Engine(
        trainer="workers.rl.trainer:RLTrainer",
        evaluator="workers.rl.evaluator:RLEvaluator",
        training="ppo",
        model="actor_critic",
        exact=False,
    ),
}


def make_trainer(engine: str) -> Trainer:
    """A fresh trainer of the engine; imports its (heavy) room."""
    return _load(ENGINES[engine].trainer)()  # type: ignore[no-any-return]


def make_evaluator(engine: str) -> Evaluator:
    """A fresh evaluator of the engine; imports its (heavy) room."""
    return _load(ENGINES[engine].evaluator)()  # type: ignore[no-any-return]


def streams() -> Mapping[str, type]:
    """STREAMS of every engine."""
    from workers.rl import STREAM
    from workers.streams import STREAMS

    return {**STREAMS, **STREAM}


def models() -> Mapping[str, type]:
    """MODELS of every engine."""
    from workers.moe import MODELS
    from workers.moe.actor_critic import ActorCritic

    return {**MODELS, "actor_critic": ActorCritic}


def trainings() -> Mapping[str, type]:
    """What ``[training]`` can be, by kind."""
    from workers.rl.training import PPOTraining
    from workers.supervised import SupervisedTraining

    return {"supervised": SupervisedTraining, "ppo": PPOTraining}


def _load(path: str):  # type: ignore[no-untyped-def]
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
