"""What a routed layer keeps of its forwards, and which layers of a model are routed.

Knows no layer in particular: ``layers.moe`` fills the ``Record``. Around a training step
``stepping`` tells layers about it; ``tallies`` takes what they counted.
Letters: T tokens, E experts, D inputs, B samples, G domains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from workers.contract import InputError
from workers.moe.counters import Counters
from workers.moe.walk import Walk


@dataclass(frozen=True, slots=True)
class Birth:
    """Where an expert comes from: the stage it was born in and the expert it was copied from."""

    stage: str | None = None
    parent: int | None = None
    owner: str | None = None
    """Domain that it was copied for; such copies do not count as experts that growth added."""


def newest(births: Iterable[Birth]) -> list[bool]:
    """Of each expert whether it belongs to the latest growth: born in the latest stage in which
    growth added any. None does before the first growth; copies for a domain never do."""
    grown = [None if birth.owner is not None else birth.stage for birth in births]
    latest = next((stage for stage in reversed(grown) if stage is not None), None)
    return [latest is not None and stage == latest for stage in grown]


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a training forward may know besides its input; ends with the step."""

    progress: float = 0.0
    """Share of the stage's training that is done, 0 to 1."""
    domains: tuple[str, ...] = ()
    """Every domain of the stream; empty where domains do not matter."""
    domain_B: Tensor | None = None
    """Place in ``domains`` of each sample's domain, int64 [B]. A sample's tokens lie together."""
    first: bool = True
    """Whether these are the step's first samples; further ones follow where a step is taken in
    several parts (gradient accumulation). What moves once a step moves with the first."""

    def part(self, samples: slice) -> StepContext:
        """The same, for some of the step's samples only."""
        domain_B = None if self.domain_B is None else self.domain_B[samples]
        return StepContext(self.progress, self.domains, domain_B, samples.start == 0)


IDLE = StepContext()
"""Outside a step."""


@dataclass(frozen=True, slots=True)
class Routed:
    """One pass of tokens through the experts of one layer."""

    x: Tensor
    """Inputs of router and experts [T, D]."""
    logits: Tensor
    """Scores of the router [T, E]."""
    probabilities: Tensor
    """Softmax of the logits over all experts that a token is allowed [T, E]."""
    chosen: Tensor
    """Which experts run for a token, bool [T, E]."""
    weights: Tensor
    """Weight of each expert's output [T, E], 0 where it was not chosen."""
    progress: float
    """Share of the stage's training that is done."""
    births: tuple[Birth, ...]
    """Where each of the E experts comes from."""
    domain_T: Tensor | None
    """Domain of each token, int64 [T]; None where it is not known."""
    router: Any
    """The router (``workers.moe.routers.Router``) that gave the logits."""
    selector: Any = None
    """The selector (``workers.moe.selectors.Selector``) that chose."""

    def detached(self) -> Routed:
        """The same values without a graph."""
        domain_T = None if self.domain_T is None else self.domain_T.detach()
        return Routed(
            self.x.detach(),
            self.logits.detach(),
            self.probabilities.detach(),
            self.chosen,
            self.weights.detach(),
            self.progress,
            self.births,
            domain_T,
            self.router,
            self.selector,
        )


class Record:
    """What one layer keeps of its forwards until it is taken."""

    def __init__(self) -> None:
        self.step = IDLE
        self.counters = Counters()
        self.losses: dict[str, Tensor] = {}
        """Kind -> weighted loss of the last training forward."""
        self.observers: list[Callable[[Routed], None]] = []
        self.ran = False
        """Whether a training forward ran since ``take_reached``."""
        self._reached_E: Tensor | None = None

    def begin(self, step: StepContext) -> None:
        """A step begins: nothing of earlier forwards belongs to it."""
        self.step, self.losses = step, {}
        self.ran, self._reached_E = False, None
        if step.domains:
            self.counters.count_for(step.domains)

    def go_on(self, step: StepContext) -> None:
        """The step goes on with other samples: counts and reach are those of all together."""
        self.step, self.losses = step, {}

    def end(self) -> None:
        """The step ends: what it said, and losses that nobody took, are gone."""
        self.step, self.losses = IDLE, {}

    def blank(self) -> Record:
        """One in which the same pass can be run again: it computes alike and keeps nothing."""
        record = Record()
        record.begin(self.step)
        record.observers = [_ignore for _ in self.observers]
        return record

    def domain_of(self, tokens: int) -> Tensor | None:
        """Place of each token's domain [T]; None outside a step, or where nobody said."""
        domain_B = self.step.domain_B
        if domain_B is None or tokens == 0:
            return None
        repeat, rest = divmod(tokens, len(domain_B))
        assert rest == 0, (tokens, len(domain_B))
        return domain_B if repeat == 1 else domain_B.repeat_interleave(repeat)

    def reach(self, reached_E: Tensor | None) -> None:
        """Note which experts learn from a training forward, bool [E]; None = all of them."""
        if not self.ran:
            self.ran, self._reached_E = True, reached_E
        elif self._reached_E is not None:
            self._reached_E = None if reached_E is None else self._reached_E | reached_E

    def remove(self, place: int) -> None:
        """The expert at this place is gone: sums go on without it, what a step reached is over."""
        self.counters.remove(place)
        self.take_reached()

    def take_reached(self) -> tuple[bool, Tensor | None]:
        """(whether a training forward ran, which experts learn from it) since the last call."""
        found = self.ran, self._reached_E
        self.ran, self._reached_E = False, None
        return found


def _ignore(routed: Routed) -> None:
    """An observer that looks away."""


class RoutedLayer(nn.Module):
    """Base of layers with experts under a router: what the functions below need of them."""

    record: Record
    experts: nn.ModuleDict
    selector: Any
    walk: Walk
    """What its routers hear from the layer below; shared with it (``walk.join``)."""
    begins: bool = True
    """Whether it is the first layer of its way."""
    ends: bool = True
    """Whether it is the last one."""
    adds_up: ClassVar[bool] = False
    """Whether its output is the sum of its experts' answers and nothing else."""

    @property
    def live(self) -> int:
        """Experts under the router."""
        return len(self.experts)

    @property
    def ids(self) -> tuple[int, ...]:
        """Id of each expert under the router, in order."""
        return tuple(int(name) for name in self.experts)

    @property
    def born(self) -> int:
        """Experts that were ever there: ids run from 0 to one below it."""
        return len(self.experts)

    @property
    def rounds(self) -> int:
        """Passes (``Routed``) that a token makes through the experts in one forward."""
        return 1

    @property
    def needs_domain(self) -> bool:
        """Whether it must know each token's domain, in evaluation too."""
        return False


Layers = Mapping[str, RoutedLayer]


def routed_layers(model: nn.Module) -> dict[str, Any]:
    """The model's routed layers (``RoutedLayer``) by module name. Growth never adds any."""
    return {name: part for name, part in model.named_modules() if isinstance(part, RoutedLayer)}


def chosen_layers(model: nn.Module, names: Sequence[str] | None, what: str) -> dict[str, Any]:
    """The routed layers with these names, None = all; InputError, which begins with ``what``, on
    others and where there are none."""
    parts = routed_layers(model)
    chosen = list(parts) if names is None else list(names)
    absent = [name for name in chosen if name not in parts]
    if absent or not chosen:
        have = ", ".join(parts) or "none"
        raise InputError(f"{what}: no routed layers {absent}; the model has {have}")
    return {name: parts[name] for name in chosen}


@contextmanager
def observing(
    model: nn.Module, keep: Callable[[Routed], Any] = Routed.detached
) -> Iterator[dict[str, list[Any]]]:
    """Layer -> what ``keep`` makes of each pass through it inside the block, in any mode.

    By default the whole ``Routed`` without graph, inputs included.
    """
    seen: dict[str, list[Any]] = {}
    parts = routed_layers(model)
    for name, layer in parts.items():
        kept = seen.setdefault(name, [])
        layer.record.observers.append(lambda routed, kept=kept: kept.append(keep(routed)))
    try:
        yield seen
    finally:
        for layer in parts.values():
            layer.record.observers.pop()
