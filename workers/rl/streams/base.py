"""The contract between a stream of environments and the trainer, evaluator and runners of RL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from workers.compact_layout import Compact
from workers.contract import Json, TaskSpec
from workers.rl.environments.base import BatchedEnvironment, Environment
from workers.tables import Problem


def repeated(names: Iterable[str], path: str) -> list[Problem]:
    """The problems of names that must differ, and do not."""
    counts = Counter(names)
    twice = sorted(name for name, count in counts.items() if count > 1)
    return [Problem(path, f"{name!r} occurs twice", "each must occur once") for name in twice]


class EnvironmentStream(ABC):
    """Tasks in environments: for each one how its environment is built, set and scored.

    An entry of the table of streams, or ``module:Class``, with a nested frozen ``Config``;
    constructed with ``(config, seed)`` in every process that plays.
    """

    trainer: ClassVar[str] = "rl"
    needs: ClassVar[str] = "acts"
    """Capability that its lanes' models must have (``workers.models.Model``)."""

    @abstractmethod
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks in order; their settings hold all that ``environment`` needs."""

    def scored_tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks that models are scored on: the columns of R."""
        return self.tasks()

    def learnt_after(self) -> tuple[int, ...]:
        """For each scored task the stage (from 0) at whose end it was learnt."""
        return tuple(range(len(self.tasks())))

    def problems(self, path: str = "stream") -> list[Problem]:
        """Everything wrong with the config; builds nothing that takes long."""
        return []

    @property
    @abstractmethod
    def facts(self) -> Environment | type[Environment]:
        """What is known of the environments: observations and actions are the same in all."""

    @property
    def form(self) -> str:
        """Form in which the stream's environments are observed."""
        return self.facts.forms[0]

    @property
    def layout(self) -> Compact | None:
        """Layout of the observations, where they come in the compact form."""
        return self.facts.layout if self.form == "compact" else None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one observation in its longest form."""
        return self.facts.observation_shape

    @property
    def outputs(self) -> int:
        """Number of actions: the width of the policy's last layer."""
        return self.facts.actions

    def built_as(self, task: TaskSpec) -> Json:
        """What decides how the task's environment is built: where two tasks agree in it, one
        build plays both."""
        return task.settings["environment"]

    @abstractmethod
    def build(self, task: TaskSpec, num_envs: int) -> BatchedEnvironment:
        """``num_envs`` environments in which the task can be played."""

    def setting(self, task: TaskSpec) -> Any:
        """How a built environment is set for this task (``BatchedEnvironment.set_task``)."""
        return None

    def recorded(self, task: TaskSpec) -> dict[str, str]:
        """What lineage should tell of how the task is played in this process, as text."""
        return {}

    def environment(self, task: TaskSpec, num_envs: int) -> BatchedEnvironment:
        """Environments built for this task and set to it."""
        built = self.build(task, num_envs)
        built.set_task(self.setting(task))
        return built

    @abstractmethod
    def largest_return(self, task: TaskSpec) -> float:
        """Return of an episode that scores 1."""

    def smallest_return(self, task: TaskSpec) -> float:
        """Return of an episode that scores 0."""
        return 0.0
