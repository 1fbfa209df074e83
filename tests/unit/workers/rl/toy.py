"""A stream of contextual bandits in numpy: what the RL lane needs of a stream, without JAX."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from workers.contract import TaskSpec
from workers.rl.environments.base import EnvironmentTask
from workers.tables import Problem

LENGTH = 10
CUES = 4


class ToyFacts:
    """Four cues, four actions."""

    observation_shape = (CUES,)
    actions = CUES


class ToyEngine:
    """Shows one cue at a time; the right action is the cue plus the task's shift."""

    observation_shape: tuple[int, ...] = (CUES,)
    observation_type = np.float32
    actions = CUES

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.set_task(EnvironmentTask())
        self.seed(0)
        self.renewed = 0

    def set_task(self, task: EnvironmentTask) -> None:
        self.shift = int(task.params.get("shift", 0))

    def seed(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def reset(self) -> Any:
        self.age = np.zeros(self.num_envs, int)
        self.hits = np.zeros(self.num_envs)
        return self._show()

    def step(self, actions: Any) -> tuple[Any, Any, Any]:
        right = actions == (self.cue + self.shift) % CUES
        self.hits += right
        self.age += 1
        return self._show(), (right / LENGTH).astype(np.float32), self.age == LENGTH

    def renew(self, indices: Any) -> Any:
        self.renewed += len(indices)
        self.age[indices] = 0
        self.hits[indices] = 0
        return self._observations

    def floors(self) -> Any:
        return self.cue % 2

    def outcome(self, index: int) -> dict[str, float]:
        return {"hits": float(self.hits[index])}

    def _show(self) -> Any:
        self.cue = self.rng.integers(0, CUES, self.num_envs)
        self._observations = np.eye(CUES, dtype=np.float32)[self.cue]
        return self._observations


class ToyStream:
    """Bandits whose right answer shifts from task to task."""

    trainer: ClassVar[str] = "rl"
    facts = ToyFacts
    layout = None
    input_shape, outputs = ToyFacts.observation_shape, ToyFacts.actions

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "tests.unit.workers.rl.toy:ToyStream"
        tasks: int = 2

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config

    def tasks(self) -> tuple[TaskSpec, ...]:
        return tuple(
            TaskSpec(
                index=i,
                name=f"shift{i}",
                domain=f"shift{i}",
                settings={"environment": "toy", "shift": i},
            )
            for i in range(self.config.tasks)
        )

    def problems(self) -> list[Problem]:
        return []

    def setting(self, task: TaskSpec) -> EnvironmentTask:
        return EnvironmentTask(params={"shift": task.settings["shift"]})

    def environment(self, task: TaskSpec, num_envs: int) -> ToyEngine:
        engine = ToyEngine(num_envs)
        engine.set_task(self.setting(task))
        return engine

    def largest_return(self, task: TaskSpec) -> float:
        return 1.0


class TwoEnginesStream(ToyStream):
    """The second task is played in another environment than the first."""

    def tasks(self) -> tuple[TaskSpec, ...]:
        first, second = super().tasks()
        other = {**second.settings, "environment": "recall"}
        return first, replace(second, settings=other)

    def environment(self, task: TaskSpec, num_envs: int) -> ToyEngine:
        engine = (RecallEngine if task.settings["environment"] == "recall" else ToyEngine)(num_envs)
        engine.set_task(self.setting(task))
        return engine


class RecallEngine(ToyEngine):
    """The right action is the cue of the step before: of no use to an agent without memory."""

    def step(self, actions: Any) -> tuple[Any, Any, Any]:
        right = (actions == self.before) & (self.age > 0)
        self.before = self.cue
        self.hits += right
        self.age += 1
        return self._show(), (right / (LENGTH - 1)).astype(np.float32), self.age == LENGTH

    def reset(self) -> Any:
        self.before = np.zeros(self.num_envs, int)
        return super().reset()


class RecallStream(ToyStream):
    """One task: say what was shown a step ago."""

    def environment(self, task: TaskSpec, num_envs: int) -> ToyEngine:
        return RecallEngine(num_envs)
