"""A stream of environments by gymnasium id or ``module:Class``.

Building a task's facts imports gymnasium and the task's module, never Ray.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from workers.contract import Json, TaskSpec
from workers.rl.environments.base import BatchedEnvironment, Environment
from workers.rl.environments.craftax.catalog import ENVIRONMENTS
from workers.rl.environments.padding import Padded
from workers.rl.streams.base import EnvironmentStream, repeated
from workers.tables import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task: an environment, how it is constructed, and what its returns are worth."""

    name: str
    """Name of the task, unique in its stream."""
    domain: str | None = None
    """Label of tasks that share experts; the task's own name where absent."""
    environment: str | None = None
    """``CartPole-v1`` or another id of gymnasium, or ``module:Class`` (``Environment``,
    ``gymnasium.Env`` or ``gymnasium.vector.VectorEnv``); the stream's own where absent."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """What the environment is constructed with."""
    wrappers: tuple[Any, ...] | None = None
    """What is laid around the environment, the first one innermost: names of WRAPPERS or
    ``module:Class``, or tables with ``kind``; the stream's own where absent."""
    max_episode_steps: int | None = None
    """Steps after which an episode is truncated; the environment's own limit where absent."""
    largest_return: float | None = None
    """Return that scores 1; the registry's ``reward_threshold`` where absent and there is one."""
    smallest_return: float | None = None
    """Return that scores 0; where absent 0, if the largest is above it."""

    def __post_init__(self) -> None:
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, got {self.max_episode_steps}")


class Environments(EnvironmentStream):
    """Environments of gymnasium, or classes by module:Class, one for each task."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Which environments, in the order they are learnt."""

        kind: str = "environments"
        environment: str = "CartPole-v1"
        """Environment of tasks that name none."""
        environments: tuple[str, ...] = ()
        """Instead of ``tasks``: one task in each of these, called after it."""
        tasks: tuple[TaskConfig, ...] | None = None
        """The tasks, in the order they are learnt; a single one, ``play``, where absent."""
        wrappers: tuple[Any, ...] = ()
        """Of tasks that give none."""
        largest_return: float | None = None
        """Of tasks that give none."""
        smallest_return: float | None = None
        """Of tasks that give none."""
        pad: bool = False
        """Tasks of different sizes share one model: vectors get zeros behind them, and action a of
        the largest number is a modulo n where there are n. Else they are refused."""

        @property
        def chosen(self) -> tuple[TaskConfig, ...]:
            """The tasks."""
            if self.tasks is not None:
                return self.tasks
            named = tuple(TaskConfig(name=name, environment=name) for name in self.environments)
            return named or (TaskConfig(name="play"),)

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks in order."""
        return tuple(
            TaskSpec(
                index=index,
                name=task.name,
                domain=task.domain or task.name,
                settings=self._settings(task),
            )
            for index, task in enumerate(self.config.chosen)
        )

    def _settings(self, task: TaskConfig) -> dict[str, Json]:
        """All that is known of the task's environment."""
        own, config = task, self.config
        wrappers = config.wrappers if own.wrappers is None else own.wrappers
        ends = {
            name: getattr(config if getattr(own, name) is None else own, name)
            for name in ("largest_return", "smallest_return")
        }
        return {
            "environment": own.environment or config.environment,
            "kwargs": own.kwargs,
            "wrappers": list(wrappers),
            "max_episode_steps": own.max_episode_steps,
            **ends,
        }

    def problems(self, path: str = "stream") -> list[Problem]:
        """Names, constructors, spaces and returns; constructs each environment once."""
        tasks = self.tasks()
        if not tasks:
            return [Problem(f"{path}.tasks", "no task", "give at least one")]
        if self.config.environments and self.config.tasks is not None:
            what = "given beside tasks"
            return [Problem(f"{path}.environments", what, "give one of the two")]
        found = repeated([task.name for task in tasks], f"{path}.tasks")
        for index, task in enumerate(tasks):
            found += self._task_problems(task, f"{path}.tasks.{index}")
        return found or list(self._unlike(path))

    @property
    def facts(self) -> Environment:
        """Facts of the first task's environment, which the others share."""
        return self._sized(_facts(self.tasks()[0]))

    def _sized(self, environment: Environment) -> Environment:
        """The environment as the stream's model plays it."""
        if not self.config.pad:
            return environment
        all_of = [_facts(task) for task in self.tasks()]
        width = max(facts.observation_shape[0] for facts in all_of)
        return Padded(environment, width, max(facts.actions for facts in all_of))

    def built_as(self, task: TaskSpec) -> Json:
        """Name, arguments, wrappers and time limit."""
        names = ("environment", "kwargs", "wrappers", "max_episode_steps")
        return [task.settings[name] for name in names]

    def build(self, task: TaskSpec, num_envs: int) -> BatchedEnvironment:
        """The task's environments, in this process."""
        return self._sized(_facts(task)).build(num_envs, self.form)

    def largest_return(self, task: TaskSpec) -> float:
        """As the task says, or the environment."""
        own: float | None = task.settings["largest_return"]
        known = _facts(task).largest_return if own is None else own
        assert known is not None, "told by problems"
        return known

    def smallest_return(self, task: TaskSpec) -> float:
        """As the task says, or the environment."""
        own: float | None = task.settings["smallest_return"]
        known = _facts(task).smallest_return if own is None else own
        assert known is not None, "told by problems"
        return known

    def _task_problems(self, task: TaskSpec, path: str) -> list[Problem]:
        try:
            facts = _facts(task)
        except ValueError as error:
            named = f"cannot construct {task.settings['environment']!r}: {error}"
            allowed = "give an id of gymnasium or module:Class, and kwargs and wrappers that fit"
            return [Problem(f"{path}.environment", named, allowed)]
        found = facts.problems(f"{path}.environment")
        ends = {
            name: getattr(facts, name) if task.settings[name] is None else task.settings[name]
            for name in ("largest_return", "smallest_return")
        }
        for name, value in ends.items():
            if value is None:
                what = f"missing, and {task.settings['environment']!r} does not say it"
                found.append(Problem(f"{path}.{name}", what, "give the return that bounds scores"))
        if None not in ends.values() and ends["largest_return"] <= ends["smallest_return"]:
            what = f"{ends['largest_return']:g} is not above {ends['smallest_return']:g}"
            allowed = "it must be larger than smallest_return"
            found.append(Problem(f"{path}.largest_return", what, allowed))
        return found

    def _unlike(self, path: str) -> Iterator[Problem]:
        """Tasks that one model cannot play beside the first."""
        first, *others = self.tasks()
        wanted = _read_as(_facts(first))
        if self.config.pad:
            yield from self._unpadded(path)
            return
        for task in others:
            if _read_as(_facts(task)) != wanted:
                shape, actions, forms = _read_as(_facts(task))
                yield Problem(
                    f"{path}.tasks.{task.index}.environment",
                    f"observed as {shape} {forms[0]} with {actions} actions, task {first.name!r} "
                    f"as {wanted[0]} {wanted[2][0]} with {wanted[1]}",
                    "all tasks of a stream share one model: set pad = true for vectors of "
                    "different sizes, or give wrappers that make them alike",
                )

    def _unpadded(self, path: str) -> Iterator[Problem]:
        """Tasks that are no vectors, so that nothing can stand behind them."""
        for task in self.tasks():
            shape, _, forms = _read_as(_facts(task))
            if len(shape) != 1 or forms != ("dense",):
                yield Problem(
                    f"{path}.tasks.{task.index}.environment",
                    f"observed as {shape} {forms[0]}, with pad = true",
                    "only vectors are padded: give the wrapper flatten, or leave pad out",
                )


def _read_as(facts: Environment) -> tuple[tuple[int, ...], int, tuple[str, ...]]:
    return facts.observation_shape, facts.actions, facts.forms


def _facts(task: TaskSpec) -> Environment:
    """Raises ValueError where the task's environment cannot be constructed."""
    settings = task.settings
    made = json.dumps([settings["kwargs"], settings["wrappers"]], sort_keys=True)
    return _known(settings["environment"], made, settings["max_episode_steps"])


@functools.cache
def _known(name: str, made: str, max_episode_steps: int | None) -> Environment:
    from workers.rl.environments.gymnasium import environment

    kwargs, wrappers = json.loads(made)
    if name in ENVIRONMENTS and not kwargs and not wrappers and max_episode_steps is None:
        return ENVIRONMENTS[name]()
    return environment(name, kwargs, max_episode_steps, wrappers)
