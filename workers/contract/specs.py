"""What is to be learnt: tasks, stages and lanes, as frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workers.contract.identity import Json, digest
from workers.contract.reports import CheckpointRef


def _plain(value: Any) -> dict[str, Json]:
    """A dataclass's fields by name, none of them copied."""
    return {name: getattr(value, name) for name in value.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task of a stream: what is learnt, named without loading its data."""

    index: int
    name: str
    domain: str
    """Label of tasks that share experts."""
    settings: dict[str, Json] = field(default_factory=dict)
    """What the stream needs to find the task's data or environment again; ``domains`` lists the
    domains of a task that mixes several."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain that the task's samples belong to."""
        return tuple(self.settings.get("domains", (self.domain,)))


def domains_of(tasks: Iterable[TaskSpec]) -> tuple[str, ...]:
    """Every domain of the tasks, in order of appearance."""
    return tuple(dict.fromkeys(name for task in tasks for name in task.domains))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One task learnt once. Its id hashes everything it depends on, the parent's id included."""

    index: int
    task: TaskSpec
    intervals: int
    seed: int
    parent: str | None
    """Id of the stage whose model this one starts from; None for the untrained model."""
    settings_digest: str
    """Digest of what else it is trained by: equal in lanes that train the stage alike."""

    @property
    def id(self) -> str:
        """Digest of all of it (16 hex digits)."""
        return digest(_plain(self) | {"task": _plain(self.task)})  # asdict would copy the settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A model that another lane made for this one too: what its checkpoint leaves to do."""

    stage: StageSpec | None
    """Stage that was trained; None = the untrained model."""
    same_method: bool
    """Whether the checkpoint holds the state of this lane's method; else the method has yet to
    learn from the stage, as at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The model of another run that a lane begins with, instead of an untrained one."""

    checkpoint: CheckpointRef
    """Its ``stage`` is the parent of the lane's first stage."""
    optimizer: bool = False
    """Whether the optimizer's state is taken too."""
    experts: int | None = None
    """Experts of its largest layer; None = a model that knows no experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A trained model that a lane's first one is made of."""

    name: str
    """Where it comes from, for people: ``lane`` or ``run lane``, and its stage."""
    stage: str | None
    """Id of the stage that makes it; None = an untrained model."""
    model: dict[str, Json]
    """Section ``model`` that it is built by."""
    domains: tuple[str, ...] = ()
    """Domains that it has learnt, in order."""
    checkpoint: CheckpointRef | None = None
    """None = a lane of the same run has yet to train it."""
    lane: str | None = None
    """That lane."""
    index: int = -1
    """Index of the stage in that lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Trained models that a lane's first one is made of, and how."""

    way: dict[str, Json]
    """``kind`` of ``workers.merges.MERGES``, and its settings."""
    parents: tuple[Parent, ...]

    @property
    def identity(self) -> Json:
        """What of it decides the bits of the model; where its parents lie does not."""
        return [self.way, [[parent.stage, parent.domains] for parent in self.parents]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """One pass over a stream (one method, one seed): all a worker needs to build it.

    ``settings`` holds the checked, fully defaulted sections ``stream``, ``model``, ``training``
    and ``method`` as plain JSON; the worker resolves their ``kind`` names through the tables.
    """

    lane: str
    trainer: str
    """Key of ``workers.trainers.TRAINERS``: ``supervised`` or ``rl``."""
    method: str
    seed: int
    settings: dict[str, Json]
    policies: dict[str, Json] = field(default_factory=dict)
    """The driver's policies, which a worker does not read."""
    start_diagnostics: tuple[str, ...] = ()
    """Names of ``workers.diagnostics.DIAGNOSTICS`` to measure at each stage's start."""
    signals: tuple[str, ...] = ()
    """Costly signals to measure in each interval, beside those that always come."""
    by_domain: bool = False
    """Whether edits treat domains apart, so that each sample's domain matters even where the
    stream has a single one."""
    threads: int = 1
    """CPU threads a worker of this lane may use."""
    exact: bool = True
    """Whether a rerun from the same checkpoint gives the same bits (on CPU)."""
    strict_ops: bool = False
    """Refuse to train where the compiled kernels of the ops are missing."""
    workers: int = 1
    """Workers that train the lane together, each with a replica of the model."""
    changeable: tuple[str, ...] = ()
    """Settings as ``section.key`` that no bit of the results depends on."""
    start: Start | None = None
    """What the lane begins with; None = an untrained model."""
    merged: Merged | None = None
    """What its first model is made of; None = it is drawn, or the one that ``start`` names."""

    @property
    def root(self) -> str | None:
        """What the first stage goes on from: a stage of another run, or the id of the merge that
        makes the lane's first model; None = an untrained one."""
        if self.merged is not None:
            sections = [self.deciding["stream"], self.deciding["model"]]
            return digest([self.merged.identity, sections, self.seed])
        return None if self.start is None else self.start.checkpoint.stage

    @property
    def deciding(self) -> dict[str, Json]:
        """The settings without those that are changeable."""
        found = dict(self.settings)
        for path in self.changeable:
            section, key = path.split(".")
            found[section] = {k: value for k, value in found[section].items() if k != key}
        return found

    def changed(self, settings: Mapping[str, Json]) -> LaneSpec:
        """The lane with these settings (``section.key`` -> value), as far as it may change them."""
        found = dict(self.settings)
        for path in self.changeable:
            if path in settings:
                section, key = path.split(".")
                found[section] = {**found[section], key: settings[path]}
        return replace(self, settings=found)

    @property
    def built_from(self) -> str:
        """Digest of all that decides the bits a worker builds and trains.

        Several workers round sums in another order than one. Policies are not among them: they
        act through edits only, so that lanes whose policies have not yet decided differently hold
        the same model.
        """
        several = {"workers": self.workers} if self.workers > 1 else {}
        start = self.start
        begun = {} if start is None else {"start": [start.checkpoint.digest, start.optimizer]}
        made = {} if self.merged is None else {"merged": self.merged.identity}
        return digest(self.deciding | several | begun | made)
