"""A lane's settings as one value: what a config looks at to tell whether it fits the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from workers.contract.specs import TaskSpec
from workers.tables import Problem


@runtime_checkable
class Checked(Protocol):
    """A config that has something to say of the rest of its lane."""

    def problems(self, lane: LaneSettings) -> list[Problem]:
        """What of it does not fit the lane; paths begin at the config."""


@runtime_checkable
class WithChangeable(Protocol):
    """Config of a section with settings that no bit of the results depends on: they decide where
    something is computed. A run that is resumed may change them."""

    changeable: ClassVar[tuple[str, ...]]
    """Their keys."""


@runtime_checkable
class WithExperts(Protocol):
    """Config of a model that has experts."""

    experts: int
    """Of its largest layer at the start."""
    max_experts: int | None
    """The final number, which sets widths; None = those at the start, or not known yet."""


@runtime_checkable
class WithRoutedLayers(Protocol):
    """Config of a layer, or of a whole model, whose tokens a router sends to experts."""

    router: Any
    """Config of what scores the experts."""

    @property
    def routes_to_all(self) -> bool:
        """Whether every token runs through every expert, so that counts of choices say nothing."""

    @property
    def fewest(self) -> int:
        """Experts that each layer must keep when some are removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """What ``Config.problems(lane)`` may look at. Every config in it was checked by itself."""

    sections: Mapping[str, Any]
    """``stream``, ``model``, ``training``, ``method`` -> Config."""
    policies: Mapping[str, Any] = field(default_factory=dict)
    """Name -> Config, in the order in which they are asked."""
    tasks: tuple[TaskSpec, ...]
    domains: tuple[str, ...]
    """Every domain of the stream, in order of appearance."""
    trainer: str
    """Key of ``workers.trainers.TRAINERS``."""
    acts: bool
    """Whether the lane learns from what its own model does."""
    workers: int
    """Workers that train the lane together."""
    intervals: int
    """Intervals of each stage."""
    experts: int | None = None
    """Experts of the model's largest layer at the start; None = a model that knows no experts."""
    final_experts: int | None = None
    """The same at the end of the stream; None where it cannot be known beforehand."""
    max_experts: int | None = None
    """What the model's config bounds it to; None = nothing."""
    proposes: frozenset[str] = frozenset()
    """Kinds of edit that the policies may propose."""
    input_shape: tuple[int, ...] = ()
    """Shape of one input of the model, of an observation in its longest form; (channels, height,
    width) of an image with labels."""
    outputs: int = 0
    """Width of the model's output: classes, numbers, tokens or actions."""
    tokens: bool = False
    """Whether the model reads windows of tokens, and answers each from those before it."""
    labels: bool = False
    """Whether targets are labels of classes."""
    task_known: bool = False
    """Whether whoever uses the model knows each sample's task, in evaluation too."""
    domain_given: bool = False
    """Whether whoever uses the model tells it each sample's domain, in evaluation too."""
    mixes: bool = False
    """Whether the method adds samples of which nobody can tell the domain."""
    validates: bool = False
    """Whether every task has a validation part."""
    ordered: bool = False
    """Whether the stream says in which order samples come."""
    begins_trained: bool = False
    """Whether the lane begins with a model of another run, which may have grown there."""
    needs: str = "labels"
    """Capability of models (``workers.models.Model``) that the stream asks for."""

    @property
    def sequential(self) -> bool:
        """Whether layers get sequences of tokens, not samples or steps by themselves."""
        return not self.acts and (self.tokens or len(self.input_shape) == 2)

    @property
    def answers_alone(self) -> bool:
        """Whether a token's answer must not depend on the rest of its batch: a model that acts
        sees one step at a time, one of next tokens must not look at those that follow."""
        return self.acts or self.needs == "tokens"

    def parts(self, section: str) -> Iterator[Any]:
        """The Config of a section and every Config inside it."""
        yield from (part for _, part in nested(self.sections[section]))


@runtime_checkable
class ChangedByEdits(Protocol):
    """A config of something that an edit makes another thing."""

    def before_edits(self) -> Any:
        """Config of what it is until then, names of parameters and random draws included; itself
        where its ``kind`` names a class of which that is not known."""


def before_edits(config: Any) -> Any:
    """A config with everything in it as it is until the first edit."""
    if isinstance(config, ChangedByEdits) and (plainer := config.before_edits()) is not config:
        return before_edits(plainer)
    if isinstance(config, list | tuple):
        return type(config)(before_edits(item) for item in config)
    if not is_dataclass(config) or isinstance(config, type):
        return config
    inner = {item.name: before_edits(getattr(config, item.name)) for item in fields(config)}
    return replace(config, **inner)


def nested(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A config dataclass and those inside it, lists included, each with its dotted path."""
    if isinstance(config, list | tuple):
        for place, item in enumerate(config):
            yield from nested(item, f"{path}.{place}" if path else str(place))
    if not is_dataclass(config):
        return
    yield path, config
    for item in fields(config):
        yield from nested(getattr(config, item.name), f"{path}.{item.name}".strip("."))
