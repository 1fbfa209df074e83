"""One TOML file -> one frozen RunConfig, or every mistake in it at once.

The sections ``stream``, ``model``, ``training``, ``growth``, ``masks``, ``phases``, ``method`` and
``resources`` at the top of the file are defaults; each ``[[lanes]]`` entry may give its own. A
lane's section is laid over the default key by key, or replaces it where its ``kind`` differs.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from orchestrator.cluster import agreement
from orchestrator.config import checks
from orchestrator.policies import GROWTH, MASKS, PHASES
from orchestrator.policies.masks import NoMasks
from orchestrator.policies.phases import NoPhases
from workers import trainers
from workers.contract import InputError, Json, LaneSpec, TaskSpec, digest
from workers.parsing import choose, parse
from workers.tables import Problem, construct

CHOSEN = ("stream", "model", "training", "growth", "method", "masks", "phases")
OPTIONAL = ("masks", "phases")
"""Sections that are not part of a lane's settings while their kind is none."""
DEFAULT_KINDS = {
    "model": "classifier",
    "training": "supervised",
    "growth": "none",
    "method": "finetune",
    "masks": "none",
    "phases": "none",
}
SECTIONS = (*CHOSEN, "resources")


class ConfigError(InputError):
    """The config is wrong; holds every problem found."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s)\n{lines}")
        self.source = source

    def __reduce__(self) -> Any:
        return type(self), (self.source, self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one worker of a lane reserves on the cluster."""

    cpus: float = 1.0
    gpus: float = 0.0
    custom: dict[str, float] = field(default_factory=dict)
    """Ray's custom resources by name."""
    evaluator_cpus: float = 0.0
    """0 = the evaluator runs beside the lanes without reserving a core."""
    evaluator_gpus: float = 0.0

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "evaluator_cpus", "evaluator_gpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How often a kind of failure is retried per stage, and what happens then."""

    retries: int
    then: Literal["skip_stage", "fail_lane", "abort_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Failure policy: a budget for each kind of failure."""

    worker_lost: Budget = Budget(retries=3, then="fail_lane")
    stage_error: Budget = Budget(retries=0, then="fail_lane")
    diverged: Budget = Budget(retries=0, then="abort_run")
    evaluation: Budget = Budget(retries=2, then="fail_lane")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneConfig:
    """One pass over a stream, fully expanded: one entry per lane and seed."""

    name: str
    seed: int
    engine: str
    stream: Any
    model: Any
    training: Any
    growth: Any
    method: Any
    resources: Resources
    masks: Any = field(default_factory=NoMasks.Config)
    phases: Any = field(default_factory=NoPhases.Config)
    strict_ops: bool = False
    """Whether a missing compiled kernel is an error."""
    workers: int = 1
    """Workers that train the lane together; each reserves ``resources``."""

    @property
    def cpus(self) -> float:
        """CPUs that all workers of the lane reserve."""
        return self.workers * self.resources.cpus

    @property
    def gpus(self) -> float:
        """GPUs that all workers of the lane reserve."""
        return self.workers * self.resources.gpus

    def spec(self) -> LaneSpec:
        """What a worker needs to know of the lane."""
        sections = {name: getattr(self, name) for name in CHOSEN}
        settings = {
            name: asdict(section)
            for name, section in sections.items()
            if name not in OPTIONAL or section.kind != "none"
        }
        return LaneSpec(
            lane=self.name,
            engine=self.engine,
            method=self.method.kind,
            seed=self.seed,
            settings=json.loads(json.dumps(settings)),
            threads=max(1, int(self.resources.cpus)),
            exact=trainers.ENGINES[self.engine].exact,
            strict_ops=self.strict_ops,
            workers=self.workers,
        )

    def tasks(self) -> tuple[TaskSpec, ...]:
        """The stream's tasks in order, named without loading their data."""
        stream = construct(trainers.streams(), self.stream, self.seed)
        return tuple(stream.tasks())

    def domains(self) -> tuple[str, ...]:
        """Every domain of the stream, in order of appearance."""
        return tuple(dict.fromkeys(domain for task in self.tasks() for domain in task.domains))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A whole run: its lanes and what holds for all of them."""

    name: str
    lanes: tuple[LaneConfig, ...]
    failures: Failures = Failures()
    checkpoint_every: int = 0
    """Intervals between checkpoints inside a stage; 0 = at stage ends only."""

    def plain(self) -> Json:
        """The config as plain JSON, as journalled."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def digest(self) -> str:
        return digest(self.plain())

    def lane(self, name: str) -> LaneConfig:
        return next(lane for lane in self.lanes if lane.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """Keys a file may have at its top, sections apart."""

    name: str
    seed: int = 0
    lanes: list[dict[str, Any]] = field(default_factory=list)
    failures: Failures = Failures()
    checkpoint_every: int = 0
    strict_ops: bool = False
    workers: int = 1
    stream: Any = None
    model: Any = None
    training: Any = None
    growth: Any = None
    method: Any = None
    masks: Any = None
    phases: Any = None
    resources: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """Keys a ``[[lanes]]`` entry may have."""

    name: str | None = None
    seeds: list[int] | None = None
    workers: int | None = None
    stream: Any = None
    model: Any = None
    training: Any = None
    growth: Any = None
    method: Any = None
    masks: Any = None
    phases: Any = None
    resources: Any = None


def load(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file, lay ``a.b=value`` overrides over it and check everything.

    Raises ConfigError with all problems, InputError where the file cannot be read.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    for item in overrides:
        override(raw, item)
    return check(raw, str(path))


def restore(plain: Json) -> RunConfig:
    """The RunConfig a journal holds as plain JSON.

    Raises InputError where this version of the code cannot read it.
    """
    lanes, problems = [], []
    for number, entry in enumerate(plain["lanes"]):
        values = dict(entry)
        for name in CHOSEN:
            raw = entry.get(name, DEFAULT_KINDS.get(name))
            _, values[name], found = choose(_table(name), raw, f"lanes.{number}.{name}")
            problems += found
        lane, found = parse(LaneConfig, values, f"lanes.{number}")
        lanes.append(lane)
        problems += found
    config, found = parse(RunConfig, {**plain, "lanes": ()}, "")
    if problems or found:
        raise ConfigError("the journal's config (another version wrote it)", problems + found)
    restored: RunConfig = replace(config, lanes=tuple(lanes))
    return restored


def override(raw: dict[str, Any], item: str) -> None:
    """Lay one ``a.b=value`` over the raw config; ``lanes.0.method`` reaches into a list.

    The value is read as TOML where it is valid TOML, else as a string.
    """
    dotted, equals, text = item.partition("=")
    if not equals or not dotted:
        raise InputError(f"--set {item}: must be a.b=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    node: Any = raw
    *parents, last = dotted.split(".")
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"--set {item}: there is no {dotted} to set ({error})") from error


def check(raw: Mapping[str, Any], source: str) -> RunConfig:
    """Check a raw config whole; raises ConfigError with all its problems."""
    top, problems = parse(_File, raw, "")
    if top is None:
        kept = {key: value for key, value in raw.items() if key in SECTIONS or key == "lanes"}
        top = _File(name="", **kept) if isinstance(kept.get("lanes", []), list) else None
    lanes: list[LaneConfig] = []
    for number, entry in enumerate(top.lanes if top else ()):
        more, found = _lanes(top, entry, f"lanes.{number}")
        lanes += more
        problems += found
    if top is not None and not top.lanes:
        problems.append(Problem("lanes", "missing", "give at least one [[lanes]] entry"))
    names = [lane.name for lane in lanes]
    problems += [
        Problem("lanes", f"two lanes are called {name!r}", "give each its own name")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if top is not None and top.checkpoint_every < 0:
        problems.append(Problem("checkpoint_every", f"got {top.checkpoint_every}", "must be >= 0"))
    if problems or top is None:
        raise ConfigError(source, dict.fromkeys(problems))
    return RunConfig(
        name=top.name,
        lanes=tuple(lanes),
        failures=top.failures,
        checkpoint_every=top.checkpoint_every,
    )


def _lanes(top: _File, entry: Any, path: str) -> tuple[list[LaneConfig], list[Problem]]:
    """One ``[[lanes]]`` entry -> one LaneConfig per seed, and its problems."""
    lane, problems = parse(_Lane, entry if isinstance(entry, Mapping) else {"?": entry}, path)
    if lane is None:
        return [], problems
    sections: dict[str, Any] = {}
    for name in CHOSEN:
        raw = merge(getattr(top, name), getattr(lane, name), DEFAULT_KINDS.get(name))
        own = f"{path}.{name}" if getattr(lane, name) is not None else name
        _, sections[name], found = choose(_table(name), raw, own)
        problems += found
    resources, found = parse(
        Resources, merge(top.resources, lane.resources, None), f"{path}.resources"
    )
    problems += found
    if problems:
        return [], problems
    base = lane.name or sections["method"].kind
    seeds = lane.seeds if lane.seeds is not None else [top.seed]
    problems += checks.mismatches(sections, seeds, path)
    if problems:
        return [], problems
    stream_class = construct(trainers.streams(), sections["stream"], seeds[0])
    workers = lane.workers if lane.workers is not None else top.workers
    engine = trainers.ENGINES[stream_class.engine]
    found = agreement.problems(workers, sections, resources.gpus, engine)
    if found:
        return [], [replace(item, path=f"{path}.{item.path}") for item in found]
    built = [
        LaneConfig(
            name=f"{base}-s{seed}",
            seed=seed,
            engine=stream_class.engine,
            resources=resources,
            strict_ops=top.strict_ops,
            workers=workers,
            **checks.with_final_experts(sections, len(stream_class.tasks())),
        )
        for seed in seeds
    ]
    return built, []


def merge(default: Any, own: Any, kind: str | None) -> Any:
    """A lane's section over the file's: key by key, or instead of it where the kinds differ."""
    default = {"kind": default} if isinstance(default, str) else default
    own = {"kind": own} if isinstance(own, str) else own
    if own is not None and not isinstance(own, Mapping):
        return own
    if default is not None and not isinstance(default, Mapping):
        return default
    base, over = dict(default or {}), dict(own or {})
    if kind is not None:
        base.setdefault("kind", kind)
    if "kind" in over and over["kind"] != base.get("kind"):
        return over
    return {
        key: merge(base.get(key), over[key], None)
        if isinstance(base.get(key), Mapping) and isinstance(over.get(key), Mapping)
        else over.get(key, base.get(key))
        for key in {**base, **over}
    }


def _table(section: str) -> Mapping[str, type]:
    from workers.methods import METHODS
    from workers.models import MODELS

    makers: dict[str, Callable[[], Mapping[str, type]]] = {
        "stream": trainers.streams,
        "model": lambda: MODELS,
        "training": trainers.trainings,
        "growth": lambda: GROWTH,
        "method": lambda: METHODS,
        "masks": lambda: MASKS,
        "phases": lambda: PHASES,
    }
    return makers[section]()
