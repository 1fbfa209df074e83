"""One TOML file -> one frozen RunConfig, or every mistake in it at once.

Sections at the top of the file (``stream``, ``model``, ``training``, ``method``, ``resources``) and
``policies.NAME`` are defaults; each ``[[lanes]]`` entry may give its own. A lane's section is laid
over the default key by key, or replaces it where its ``kind`` differs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.config import checks
from orchestrator.config.baselines import unknown, with_baselines
from orchestrator.config.merging import with_merges
from orchestrator.config.names import misnamed
from orchestrator.config.run import Failures, LaneConfig, Resources, RunConfig
from orchestrator.config.sections import (
    LANE_KEYS,
    SECTIONS,
    choose_policies,
    choose_sections,
    merge,
)
from orchestrator.config.start import ABSENT, Starts
from orchestrator.evaluations import EVALUATIONS, All
from workers.contract import InputError, Json
from workers.parsing import choose, parse
from workers.tables import Problem


class ConfigError(InputError):
    """The config is wrong; holds every problem found."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s)\n{lines}")
        self.source = source

    def __reduce__(self) -> Any:
        return type(self), (self.source, self.problems)


@dataclass(frozen=True, kw_only=True)
class FileKeys:
    """Keys a file may have at its top, sections apart."""

    name: str
    """Of the stream: experiments in MLflow and run folders are called by it."""
    seed: int = 0
    """Of lanes that give no ``seeds``."""
    lanes: list[dict[str, Any]] = field(default_factory=list)
    failures: Failures = field(default_factory=Failures)
    """How often each kind of failure is tried again, and what happens then."""
    checkpoint_every: int = 0
    """Intervals between checkpoints inside a stage; 0 = at stage ends only."""
    share_stages: bool = True
    """Whether first stages that several lanes have in common are trained once."""
    strict_ops: bool = False
    """Whether a missing compiled kernel is an error."""
    workers: int = 1
    """Workers that train a lane together."""
    start: Any = None
    """Model of another run that lanes begin with."""
    baselines: Any = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LaneKeys:
    """Keys a ``[[lanes]]`` entry may have, sections apart."""

    name: str | None = None
    """Its name without the seed; the method's where absent."""
    seeds: list[int] | None = None
    """A lane for each; the file's ``seed`` where absent."""
    workers: int | None = None
    """Workers that train it together; the file's where absent."""
    start: Any = None
    """Model of another run that it begins with."""
    merge: Any = None
    """What its first model is made of."""
    baselines: Any = None


def _with_sections(name: str, base: type) -> Any:
    """The dataclass of all keys, so that a message on an unknown one names them all."""
    keys = [(key, Any, field(default=None)) for key in LANE_KEYS]
    return make_dataclass(name, keys, bases=(base,), frozen=True, kw_only=True)


_File = _with_sections("_File", FileKeys)
_Lane = _with_sections("_Lane", LaneKeys)


def load(
    path: Path, overrides: Iterable[str] = (), settle: Callable[[Json], Json] | None = None
) -> RunConfig:
    """Read a TOML file, lay ``a.b=value`` overrides over it and check everything.

    ``settle`` replaces what only a tracking store knows before anything is checked.

    Raises ConfigError with all problems, InputError where the file cannot be read.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    for item in overrides:
        override(raw, item)
    return check(raw if settle is None else settle(raw), str(path))


def restore(plain: Json) -> RunConfig:
    """The RunConfig a journal holds as plain JSON.

    Raises InputError where this version of the code cannot read it.
    """
    given = plain.get("lanes") if isinstance(plain, dict) else None
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise InputError("the journal's config holds no list of lanes; it was changed by hand")
    lanes, problems = [], []
    for number, entry in enumerate(given):
        path = f"lanes.{number}"
        sections, found = choose_sections({}, entry, path)
        policies, more = choose_policies({}, entry, path)
        rest = {key: value for key, value in entry.items() if key not in SECTIONS}
        scoring = entry.get("evaluation", All.Config().kind)
        _, evaluation, wrong = choose(EVALUATIONS, scoring, f"{path}.evaluation")
        own = {"sections": sections, "policies": policies, "evaluation": evaluation}
        lane, last = parse(LaneConfig, {**rest, **own}, path)
        lanes.append(lane)
        problems += [*found, *more, *wrong, *last]
    config, found = parse(RunConfig, {**plain, "lanes": ()}, "")
    if problems or found:
        raise ConfigError("the journal's config (another version wrote it)", problems + found)
    restored: RunConfig = replace(config, lanes=tuple(lanes))
    return restored


def setting(item: str) -> tuple[str, Json]:
    """``a.b`` and the value of ``a.b=value``: as TOML where it is valid TOML, else a string."""
    dotted, equals, text = item.partition("=")
    if not equals or not dotted:
        raise InputError(f"--set {item}: must be a.b=value")
    try:
        return dotted, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return dotted, text
    except RecursionError as error:
        raise InputError(f"--set {dotted}: too many brackets inside each other") from error


def override(raw: dict[str, Any], item: str) -> None:
    """Lay one ``a.b=value`` over the raw config; ``lanes.0.method`` reaches into a list.

    The value is read as ``setting`` says.
    """
    dotted, value = setting(item)
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
        kept = {key: value for key, value in raw.items() if key in LANE_KEYS or key == "lanes"}
        top = _File(name="", **kept) if isinstance(kept.get("lanes", []), list) else None
    else:
        problems += misnamed(top.name, "name")
    lanes: list[LaneConfig] = []
    merges: dict[str, tuple[Any, str]] = {}
    wanted: dict[str, tuple[Any, str]] = {}
    starts = Starts()
    for number, entry in enumerate(top.lanes if top else ()):
        more, found = _lanes(top, entry, f"lanes.{number}", starts)
        if isinstance(entry, Mapping) and entry.get("merge") is not None:
            merges |= {lane.name: (entry["merge"], f"lanes.{number}.merge") for lane in more}
        baselines, where = _baselines(top, entry, f"lanes.{number}")
        wanted |= {lane.name: (baselines, where) for lane in more}
        lanes += more
        problems += [*found, *unknown(baselines, where)]
    if top is not None and not top.lanes:
        problems.append(Problem("lanes", "missing", "give at least one [[lanes]] entry"))
    if top is not None and not problems:
        lanes, problems = with_merges(lanes, merges, starts)
    if not problems:
        lanes, problems = with_baselines(lanes, wanted)
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
        share_stages=top.share_stages,
    )


def _lanes(
    top: Any, entry: Any, path: str, starts: Starts
) -> tuple[list[LaneConfig], list[Problem]]:
    """One ``[[lanes]]`` entry -> one LaneConfig per seed, and its problems."""
    own, problems = parse(_Lane, entry if isinstance(entry, Mapping) else {"?": entry}, path)
    if own is None:
        return [], problems
    problems += misnamed(own.name, f"{path}.name")
    file, lane = _values(top), _values(own)
    sections, found = choose_sections(file, lane, path)
    policies, more = choose_policies(file, lane, path)
    merged = merge(top.resources, own.resources, None)
    resources, last = parse(Resources, merged, f"{path}.resources")
    where = "evaluation" if lane["evaluation"] is None else f"{path}.evaluation"
    scoring = merge(top.evaluation, own.evaluation, All.Config().kind)
    _, evaluation, wrong = choose(EVALUATIONS, scoring, where)
    problems += [*found, *more, *last, *wrong]
    seeds = own.seeds if own.seeds is not None else [top.seed]
    if not problems and (not seeds or len(set(seeds)) != len(seeds)):
        problems = [Problem(f"{path}.seeds", f"got {seeds}", "give different numbers")]
    if problems:
        return [], problems
    base = own.name or sections["method"].kind
    first = LaneConfig(
        name=f"{base}-s{seeds[0]}",
        seed=seeds[0],
        trainer=checks.trainer_of(sections, seeds[0]),
        sections=sections,
        policies=policies,
        resources=resources,
        evaluation=evaluation,
        strict_ops=top.strict_ops,
        workers=own.workers if own.workers is not None else top.workers,
    )
    raw, where = (top.start, "start") if own.start is None else (own.start, f"{path}.start")
    if own.merge is not None and raw not in (None, ABSENT):
        allowed = f"its first model is made of others' by merge: set start = {ABSENT!r}"
        return [], [Problem(where, f"got {raw!r}", allowed)]
    if not first.stream().problems():  # else they are told below
        first, problems = starts.begun(first, raw, where)
        if problems:
            return [], problems
    problems = checks.mismatches(first)
    if problems:
        return [], [replace(item, path=f"{path}.{item.path}") for item in problems]
    first = checks.with_final_experts(first)
    lanes = []
    for seed in seeds:
        seeded = replace(first, name=f"{base}-s{seed}", seed=seed)
        if raw is not None:  # each seed may begin with another model
            seeded, problems = starts.begun(seeded, raw, where)
            problems = problems or checks.mismatches(seeded)
            seeded = seeded if problems else checks.with_final_experts(seeded)
            problems = problems or starts.problems(seeded, where)
        if problems:
            return [], problems
        lanes.append(seeded)
    return lanes, []


def _baselines(top: Any, entry: Any, path: str) -> tuple[Any, str]:
    """Baselines of a ``[[lanes]]`` entry, and where the file gives them."""
    own = entry.get("baselines") if isinstance(entry, Mapping) else None
    return (top.baselines, "baselines") if own is None else (own, f"{path}.baselines")


def _values(keys: Any) -> dict[str, Any]:
    return {item.name: getattr(keys, item.name) for item in fields(keys)}
