"""Initialisers: what a new expert and its router row start from.

Each is called on a layer to which the expert was added with torch's default draw, inside a seeded
block. A parent is chosen by turns, or by what all replicas see alike, never by a worker's usage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from workers.contract import InputError
from workers.moe.routers.base import Router, RouterContext

if TYPE_CHECKING:
    from workers.moe.layers.expert_layer import ExpertLayer


class Initialiser:
    """Base: the parent of a new expert, and what is done to it after its default draw."""

    needs_inputs: ClassVar[bool] = False
    """Whether ``place`` does anything."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self, layer: ExpertLayer, x_TD: Tensor | None) -> None:
        """Raise InputError if the layer's new experts cannot start so; changes nothing.

        ``x_TD``: as for ``ranked``.
        """
        if self.needs_inputs and x_TD is None:
            raise InputError(
                f"initialiser {self.config.kind} looks at probe samples and got none; give a probe "
                "batch, or use another initialiser"
            )

    def ranked(self, layer: ExpertLayer, old: list[int], x_TD: Tensor | None) -> list[int]:
        """The ids alive before, in the order in which ``parent`` is to take them.

        ``x_TD``: what the layer reads on the probe samples, the same on all replicas; None unless
        ``needs_inputs``.
        """
        return old

    def parent(self, old: list[int], number: int) -> int | None:
        """Parent of the ``number``-th new expert, given the ids alive before; None = no copy.

        With a parent the new expert has the parent's form and width.
        """
        return None

    def apply(self, layer: ExpertLayer, expert: int, parent: int | None) -> None:
        """Set the new expert's parameters."""

    def place(self, layer: ExpertLayer, expert: int, x_TD: Tensor) -> None:
        """Set what follows from the layer's inputs on the probe samples [T, D]; called after
        ``apply`` where it ``needs_inputs``."""


class Random(Initialiser):
    """Torch's default draw for expert and router row; the output jumps (DynamicMoE's choice)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of random (none)."""

        kind: str = "random"


class CloneSplit(Initialiser):
    """Copy of a parent; both take half of its gate weight: exact under the dense selector.

    Copies that train on the same data with the same gates stay copies: use clone_noise where
    they are to part.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of clone_split (none)."""

        kind: str = "clone_split"

    def parent(self, old: list[int], number: int) -> int | None:
        return old[number % len(old)]

    @torch.no_grad()
    def apply(self, layer: ExpertLayer, expert: int, parent: int | None) -> None:
        assert parent is not None
        layer.expert(expert).load_state_dict(layer.expert(parent).state_dict())
        for router in layer.routers:
            router.split(parent, expert, layer.selector.logit_shift(2.0))


class CloneNoise(CloneSplit):
    """Copy of a parent with a little Gaussian noise on the copy, so that the two can part."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of clone_noise."""

        kind: str = "clone_noise"
        scale: float = 0.01
        """Standard deviation of the noise relative to that of each parameter tensor."""

    @torch.no_grad()
    def apply(self, layer: ExpertLayer, expert: int, parent: int | None) -> None:
        super().apply(layer, expert, parent)
        for tensor in layer.expert(expert).parameters():
            spread = tensor.std(correction=0)
            noise = torch.randn(tensor.shape).to(tensor)
            tensor.add_(noise * spread * self.config.scale)


class CloneUseful(CloneNoise):
    """Copies of the experts that contribute most on the probe, k as before (arXiv 2604.19835).

    Utility u_e = mean over the probe's tokens of g_e(x) |E_e(x)|, g the weight the expert has for
    the token; parents are taken in falling order of it, by turns. Exact under the dense selector
    with scale = 0. Under a top-k selector a copy takes the place of a token's k-th expert wherever
    its parent is chosen, so the function changes there unless k grows too. The source's utility is
    gradient-based in parts that were not at hand; this one needs no gradient.
    """

    needs_inputs = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(CloneNoise.Config):
        """Settings of clone_useful."""

        kind: str = "clone_useful"

    def check(self, layer: ExpertLayer, x_TD: Tensor | None) -> None:
        if x_TD is None:
            raise InputError(
                "growth with initialiser clone_useful ranks experts by probe samples, and there "
                "are none here; use clone_noise"
            )

    @torch.no_grad()
    def ranked(self, layer: ExpertLayer, old: list[int], x_TD: Tensor | None) -> list[int]:
        assert x_TD is not None
        logits_TE = layer.router(x_TD, RouterContext())
        weights_TE = layer.selector(x_TD, logits_TE, None, False).weights_TE
        utility = {
            number: float((weights_TE[:, place] * layer.expert(number)(x_TD).norm(dim=1)).mean())
            for place, number in enumerate(old)
        }
        return sorted(old, key=lambda number: -utility[number])


class LogitOffset(Initialiser):
    """Random expert with a zero router row and a logit offset that is annealed to 0."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of logit_offset."""

        kind: str = "logit_offset"
        offset: float = 10.0
        """How far the new expert's logit starts below 0; the output moves by about e^-offset."""
        steps: int = 1000
        """Training forwards within which the offset goes back to 0."""

        def __post_init__(self) -> None:
            if self.offset < 0 or self.steps < 1:
                raise ValueError(
                    "offset must not be negative and steps at least 1, got "
                    f"{self.offset} and {self.steps}"
                )

    def apply(self, layer: ExpertLayer, expert: int, parent: int | None) -> None:
        for router in layer.routers:
            router.suppress(expert, self.config.offset, self.config.steps)


class ZeroOut(Initialiser):
    """Random hidden units with a zero output map; in a softmax mixture it dilutes the others."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of zero_out (none)."""

        kind: str = "zero_out"

    def apply(self, layer: ExpertLayer, expert: int, parent: int | None) -> None:
        layer.expert(expert).zero_output()


class WorstServed(Initialiser):
    """Default draw, its prototype at the mean of the probe inputs that old ones serve worst."""

    needs_inputs = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of worst_served, for routers with prototypes."""

        kind: str = "worst_served"
        share: float = 0.1
        """Share of the probe's tokens that count as badly served."""

        def __post_init__(self) -> None:
            if not 0.0 < self.share <= 1.0:
                raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    def check(self, layer: ExpertLayer, x_TD: Tensor | None) -> None:
        super().check(layer, x_TD)
        for router in layer.routers:
            if type(router).place is Router.place:
                raise InputError(
                    f"{type(router).__name__} has no prototype to put where inputs are badly "
                    "served; use router prototype, or another initialiser than worst_served"
                )

    def place(self, layer: ExpertLayer, expert: int, x_TD: Tensor) -> None:
        for router in layer.routers:  # later rounds of a chain too: by what the first one reads
            router.place(expert, x_TD, self.config.share)


class Unserved(Initialiser):
    """Random expert, its router row towards the tokens that no expert was there for.

    DynMoE (arXiv 2405.14297); its threshold is 0.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of unserved (none)."""

        kind: str = "unserved"

    def check(self, layer: ExpertLayer, x_TD: Tensor | None) -> None:
        super().check(layer, x_TD)
        if layer.selector.unserved() is None:
            raise InputError(
                "initialiser unserved: the layer's selector knows no unserved tokens; use selector "
                "top_any under the policy unserved_tokens, or another initialiser"
            )
        for router in layer.routers:
            if type(router).aim is Router.aim:
                raise InputError(
                    f"{type(router).__name__} cannot be aimed at features; use a router that "
                    "defines aim, or another initialiser than unserved"
                )

    def apply(self, layer: ExpertLayer, expert: int, parent: int | None) -> None:
        features_D = layer.selector.unserved()
        assert features_D is not None
        for router in layer.routers:
            router.aim(expert, features_D)


INITIALISERS: dict[str, type] = {
    "random": Random,
    "clone_split": CloneSplit,
    "logit_offset": LogitOffset,
    "zero_out": ZeroOut,
    "clone_noise": CloneNoise,
    "worst_served": WorstServed,
    "unserved": Unserved,
    "clone_useful": CloneUseful,
}
