"""Growth where tokens find no expert, and removal of experts that find no token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import even_schedules, routed, unfit_routers
from workers.contract import Json, LaneSettings
from workers.edits import Edit, Grow, Prune
from workers.tables import Problem, choice, lookup


def _initialisers() -> Mapping[str, type]:
    from workers.moe import INITIALISERS

    return INITIALISERS


class UnservedTokens(Policy):
    """Adds an expert where tokens passed no threshold, removes those that none passed (DynMoE).

    arXiv 2405.14297, with an interval as recording window. Each layer is looked at by itself and
    gets one expert at a time; it remembers the layers that are due after a stage's last interval,
    which grow at the start of the next stage, since nothing would train the new experts before.
    Needs selectors that count unserved tokens (``top_any``).
    """

    proposes: ClassVar[tuple[str, ...]] = ("grow", "prune")

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """When a layer grows, and what a new expert starts from."""

        kind: str = "unserved_tokens"
        share: float = 0.0
        """A layer grows where more than this share of an interval's tokens passed no threshold."""
        max_experts: int | None = None
        """No layer grows beyond this many; None = the model's max_experts."""
        initialiser: Any = choice(_initialisers, "unserved")
        """What a new expert and its router row start from."""
        remove: bool = True
        """Whether experts whose threshold no token of an interval passed are removed."""
        optimizer: Literal["keep", "reset"] = "keep"
        """Whether the optimizer keeps its state of old parameters."""

        def __post_init__(self) -> None:
            if not 0 <= self.share < 1:
                raise ValueError(f"share must be at least 0 and below 1, got {self.share}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Selectors must count, rows must be aimed, and widths be known."""
            return list(self._problems(lane))

        def _problems(self, lane: LaneSettings) -> Iterator[Problem]:
            from workers.moe.selectors import SELECTORS

            layers: list[Any] = list(routed(lane))
            if not layers:
                allowed = "use routed layers in the model, or take this policy out"
                yield Problem("kind", "the model has no experts under a router", allowed)
            for layer in layers:
                selector: Any = lookup(SELECTORS, layer.selector.kind, "selector")
                if not selector.counts_unserved:
                    what = f"selector {layer.selector.kind!r} counts no unserved tokens"
                    yield Problem("kind", what, "use selector top_any")
            for kind in unfit_routers(lane, "aim"):
                what = f"router {kind!r} cannot be aimed at features"
                yield Problem("initialiser", what, "use router cosine or linear")
            if lane.final_experts is None and lane.max_experts is None:
                yield Problem("max_experts", "missing", "needs this or model.max_experts")
            yield from even_schedules(lane, "kind")

    config: Config

    def propose(self, view: View, memory: Json) -> Proposal:
        due = sorted({*(memory or ()), *self._unserved(view)})
        if view.n >= view.stage.intervals:
            return (), due
        edits: list[Edit] = []
        idle = self._idle(view) if self.config.remove else {}
        if idle:
            counted = {f"removed/{layer}": float(len(ids)) for layer, ids in idle.items()}
            cause = view.edit(policy="unserved_tokens", trigger="idle", figures=counted)
            edits.append(Prune(**cause, experts=idle))
            view = view.after(edits[-1])
        for layer in due:
            shape = view.model.layers[layer]
            live = shape.experts - len(idle.get(layer, ()))
            if self.config.max_experts is not None and live >= self.config.max_experts:
                continue
            figures = {name: values[0] for name, values in self._sums(view, layer).items()}
            edit = Grow(
                **view.edit(policy="unserved_tokens", trigger="unserved", figures=figures),
                experts=shape.born + 1,
                layers=(layer,),
                initialiser=asdict(self.config.initialiser),
                optimizer=self.config.optimizer,
            )
            edits.append(edit)
            view = view.after(edit)
        return tuple(edits), []

    def _unserved(self, view: View) -> list[str]:
        """Layers in which too many tokens of the last interval passed no threshold."""
        report = view.report
        return [
            layer
            for layer, sums in ({} if report is None else report.sums).items()
            if "unserved" in sums and sums["unserved"][0] > self.config.share * sums["tokens"][0]
        ]

    @staticmethod
    def _idle(view: View) -> dict[str, tuple[int, ...]]:
        """Layer -> experts that no token of the last interval passed; the last one stays."""
        found: dict[str, tuple[int, ...]] = {}
        for layer, sums in ({} if view.report is None else view.report.sums).items():
            ids = view.model.layers[layer].ids
            passed = dict(zip(ids, sums.get("passed", ()), strict=False))
            idle = tuple(number for number, tokens in passed.items() if not tokens)
            if idle and len(idle) < len(ids):
                found[layer] = idle
        return found

    @staticmethod
    def _sums(view: View, layer: str) -> dict[str, list[float]]:
        """Tokens and unserved ones of the last interval; nothing at a stage's start."""
        sums = {} if view.report is None else view.report.sums[layer]
        return {name: sums[name] for name in ("tokens", "unserved") if name in sums}

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        limit = self.config.max_experts
        return None if limit is None else max(start, limit)

    def bounded(self, experts: int | None) -> Config:
        own = self.config.max_experts
        return replace(self.config, max_experts=experts if own is None else own)
