"""A stream of Craftax tasks: one environment, set differently for each task.

Checks names and makes TaskSpecs without importing JAX, Craftax or Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from workers.contract import Json, LaneSettings, TaskSpec
from workers.rl.environments.base import BatchedEnvironment, EnvironmentTask
from workers.rl.environments.craftax.catalog import (
    ENGINES,
    ENVIRONMENTS,
    CraftaxClassicSymbolic,
    CraftaxEnvironment,
)
from workers.rl.streams.base import EnvironmentStream, repeated
from workers.tables import Problem, lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task of a stream: what changes in the environment while it is learnt."""

    name: str
    """Name of the task, unique in its stream."""
    domain: str | None = None
    """Label of tasks that share experts; the task's own name where absent."""
    environment: str | None = None
    """Environment of this task, seen and acted in like the stream's own; that one if absent."""
    start_floor: int = 0
    """Floor every episode begins on (Craftax: 0 to 8); Classic has the surface only."""
    achievements: tuple[str, ...] = ()
    """Only these are rewarded, once an episode; empty: the environment's own reward."""
    params: dict[str, int | float | bool] = field(default_factory=dict)
    """Environment parameters that differ from their defaults, e.g. ``max_timesteps``."""


class CraftaxStream(EnvironmentStream):
    """Craftax tasks: floors to begin on, achievements to earn, parameters of the world."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Which environment, and the tasks in the order they are learnt."""

        changeable: ClassVar[tuple[str, ...]] = ("engine",)
        kind: str = "craftax"
        environment: str = CraftaxClassicSymbolic.name
        """Environment of all tasks: a known name, or ``module:Class`` on the path."""
        observations: str = "auto"
        """Form of observations: dense numbers as Craftax gives them, compact (symbolic: codes of
        what is seen, 50 times smaller, the same to the model), pixels (bytes); auto: the
        shortest."""
        engine: str = "auto"
        """What plays the games: native (C++) or jax (Craftax's own programs, and the only one for
        pixels); both give the same to the bit. auto: native where it can be had."""
        tasks: tuple[TaskConfig, ...] = (TaskConfig(name="survive"),)
        """The tasks, in the order they are learnt."""

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The model must be able to read the form in which it observes."""
            from workers.models import MODELS, ActingModel

            model = lookup(MODELS, lane.sections["model"].kind, "model.kind")
            if isinstance(model, Problem) or not issubclass(model, ActingModel):
                return []
            if model.reads_compact or CraftaxStream(self).form != "compact":
                return []
            what = f"{self.observations!r} gives compact ones, which model {model.__name__} cannot"
            return [Problem("observations", f"{what} read", "set it to 'dense'")]

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks in order; their settings hold all that ``environment`` needs."""
        return tuple(self._spec(index, task) for index, task in enumerate(self.config.tasks))

    def problems(self, path: str = "stream") -> list[Problem]:
        """Everything wrong with names, floors and parameters; compiles nothing."""
        own = lookup(ENVIRONMENTS, self.config.environment, f"{path}.environment")
        if isinstance(own, Problem):
            return [own]
        if not self.config.tasks:
            return [Problem(f"{path}.tasks", "no task", "give at least one")]
        form = self.config.observations
        if form not in ("auto", *own.forms):  # type: ignore[attr-defined]
            allowed = ", ".join(("auto", *own.forms))  # type: ignore[attr-defined]
            return [Problem(f"{path}.observations", f"got {form!r}", f"allowed: {allowed}")]
        engine = _engine_problem(own, self.form, self.config.engine, f"{path}.engine")
        if engine is not None:
            return [engine]
        found = repeated([task.name for task in self.config.tasks], f"{path}.tasks")
        for index, task in enumerate(self.config.tasks):
            found += _task_problems(own, task, f"{path}.tasks.{index}")
        return found

    @property
    def facts(self) -> type[CraftaxEnvironment]:
        """Facts of the stream's environment."""
        return _known(self.config.environment)

    @property
    def form(self) -> str:
        """Form in which the stream's environments are observed."""
        chosen = self.config.observations
        return self.facts.forms[0] if chosen == "auto" else chosen

    def build(self, task: TaskSpec, num_envs: int) -> BatchedEnvironment:
        """The engine that plays this task."""
        facts = _known(task.settings["environment"])
        return facts.build(num_envs, self.form, self.config.engine)

    def recorded(self, task: TaskSpec) -> dict[str, str]:
        """The engine that plays it here."""
        facts = _known(task.settings["environment"])
        return {"engine": facts.engine(self.form, self.config.engine)}

    def setting(self, task: TaskSpec) -> EnvironmentTask:
        """How the engine is set for this task."""
        return EnvironmentTask(
            start_floor=task.settings["start_floor"],
            achievements=tuple(task.settings["achievements"]),
            params=dict(task.settings["params"]),
        )

    def largest_return(self, task: TaskSpec) -> float:
        """Sum of all rewards the task can give in one episode (226 in Craftax, 22 in Classic).

        Health is left out: what is regained was lost before.
        """
        return _largest(_known(task.settings["environment"]), self.setting(task))

    def _spec(self, index: int, task: TaskConfig) -> TaskSpec:
        settings: dict[str, Json] = {
            "environment": task.environment or self.config.environment,
            "start_floor": task.start_floor,
            "achievements": list(task.achievements),
            "params": dict(task.params),
        }
        return TaskSpec(
            index=index, name=task.name, domain=task.domain or task.name, settings=settings
        )


MOST_STEPS = 2**31 - 1
"""Craftax counts in int32."""


def _known(name: str) -> type[CraftaxEnvironment]:
    found = lookup(ENVIRONMENTS, name, "environment")
    assert not isinstance(found, Problem), str(found)
    return cast(type[CraftaxEnvironment], found)


def _engine_problem(own: Any, form: str, engine: str, path: str) -> Problem | None:
    if engine not in ENGINES:
        return Problem(path, f"got {engine!r}", f"allowed: {', '.join(ENGINES)}")
    if engine == "native" and form not in own.native_forms:
        return Problem(path, f"there is no native {own.name} seen as {form}", "set it to 'auto'")
    return None


def _largest(facts: type[CraftaxEnvironment], setting: EnvironmentTask) -> float:
    begun = facts.unlocked_at(setting.start_floor)
    listed = setting.achievements or facts.achievements
    rewards = zip(facts.achievements, facts.rewards, strict=True)
    return sum(reward for name, reward in rewards if name in listed and name not in begun)


def _task_problems(own: Any, task: TaskConfig, path: str) -> list[Problem]:
    facts: Any = own
    if task.environment is not None:
        facts = lookup(ENVIRONMENTS, task.environment, f"{path}.environment")
        if isinstance(facts, Problem):
            return [facts]
        if (facts.observation_shape, facts.actions) != (own.observation_shape, own.actions):
            seen = f"{task.environment!r} has other observations or actions than {own.name!r}"
            return [
                Problem(
                    f"{path}.environment",
                    seen,
                    f"must observe {own.observation_shape} and act in {own.actions} ways, as all "
                    "tasks of a stream share one model",
                )
            ]
    found = _unknown(task.achievements, facts.achievements, f"{path}.achievements")
    found += repeated(task.achievements, f"{path}.achievements")
    found += _unknown(task.params, facts.params, f"{path}.params")
    found += _param_problems(task.params, facts.params, f"{path}.params")
    if not 0 <= task.start_floor < len(facts.floors):
        last = len(facts.floors) - 1
        allowed = f"0 to {last}" if last else f"only 0: {facts.name} has the surface only"
        return [*found, Problem(f"{path}.start_floor", f"got {task.start_floor}", allowed)]
    setting = EnvironmentTask(start_floor=task.start_floor, achievements=task.achievements)
    if not found and _largest(facts, setting) == 0.0:
        where = f"an agent that begins on floor {task.start_floor} already has all of these"
        found.append(Problem(f"{path}.achievements", where, "list one it can still earn"))
    return found


def _unknown(names: Iterable[str], allowed: Iterable[str], path: str) -> list[Problem]:
    known = list(allowed)
    return [
        Problem(f"{path}.{name}", "unknown name", f"allowed: {', '.join(sorted(known))}")
        for name in names
        if name not in known
    ]


def _param_problems(
    params: Mapping[str, Any], defaults: Mapping[str, Any], path: str
) -> list[Problem]:
    found = []
    for name, value in params.items():
        if name not in defaults:
            continue
        wanted = type(defaults[name])
        fits = (int, float) if wanted is float else (wanted,)
        if not isinstance(value, fits) or (wanted is not bool and isinstance(value, bool)):
            found.append(Problem(f"{path}.{name}", f"got {value!r}", f"must be {wanted.__name__}"))
    if found:
        return found
    for name in ("max_timesteps", "day_length"):
        if not 1 <= params.get(name, 1) <= MOST_STEPS:
            allowed = f"must be between 1 and {MOST_STEPS}"
            found.append(Problem(f"{path}.{name}", f"got {params[name]!r}", allowed))
    return found
