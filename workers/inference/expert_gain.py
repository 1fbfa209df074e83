"""Experts switched off, forced on, or made louder or quieter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from workers.contract import InputError
from workers.diagnostics import Gates
from workers.diagnostics.use import contrast, npmi_of, used
from workers.inference.base import Forward, InferencePolicy, Subject
from workers.inference.steering import Rule, Select, steered, without
from workers.moe.selection import Selection, exact

FORCED = 1e4
"""Logit of an expert that is forced on: it leaves the others nothing, and fits half types."""

Marked = dict[str, tuple[int, ...]]
"""Layer -> places of experts."""


class ExpertGain(InferencePolicy):
    """Given or ranked experts switched off, forced on, or their gate weights multiplied.

    ``off``: ``r_e = -inf``, so that others are chosen instead; ``on``: ``r_e`` = a large number
    (MoTE, arXiv 2502.11096); ``scale``: ``w_e <- gain * w_e``, the others' as they are (RICE,
    arXiv 2505.14681). Ranked experts are the ``top`` of all layers together, by routing on
    validation parts: ``contrast`` ``a_e(A) - a_e(B)``, the share of tokens that use an expert in
    the task or domain ``on``, less that in the others; ``npmi`` the normalised pointwise mutual
    information of expert and ``on``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(InferencePolicy.Config):
        """Which experts, and what becomes of them."""

        kind: str = "expert_gain"
        mode: Literal["off", "on", "scale"] = "off"
        """``off``: chosen by no token; ``on``: by all; ``scale``: made louder by ``gain``."""
        gain: float = 2.0
        """Factor of gate weights under mode ``scale``."""
        experts: dict[str, tuple[int, ...]] = field(default_factory=dict)
        """Layer -> places of experts, from 0; empty = ranked."""
        on: str | None = None
        """Task or domain that experts are ranked for."""
        rank: Literal["contrast", "npmi"] = "contrast"
        """What experts are ranked by."""
        top: int = 1
        """Ranked experts that are taken, of all layers together."""

        def __post_init__(self) -> None:
            if bool(self.experts) == (self.on is not None):
                raise ValueError(
                    "give either experts = {layer = [places]} or on = a task or domain to rank for"
                )
            if self.top < 1 or self.gain < 0:
                raise ValueError(
                    f"top must be at least 1 and gain not negative, got {self.top} and {self.gain}"
                )

    config: ExpertGain.Config

    def prepare(self, subject: Subject) -> None:
        super().prepare(subject)
        self.marked = dict(self.config.experts) or self._ranked()
        for name, places in self.marked.items():
            self._check(name, places)
        self._rules = {name: self._rule(name) for name in self.marked}

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        with steered(self.subject.layers, self._rules):
            return forward(x)

    def figures(self) -> dict[str, float]:
        """``marked/<layer>/<expert>``: its score where it was ranked, else 1."""
        return {
            f"marked/{name}/{place}": self._scores.get((name, place), 1.0)
            for name, places in self.marked.items()
            for place in places
        }

    _scores: Mapping[tuple[str, int], float] = {}

    def _ranked(self) -> Marked:
        assert self.config.on is not None
        self._scores = ranking(self.subject, self.config.on, self.config.rank)
        best = sorted(self._scores, key=lambda found: -self._scores[found])[: self.config.top]
        return {
            name: tuple(place for layer, place in best if layer == name)
            for name in dict.fromkeys(layer for layer, _ in best)
        }

    def _check(self, name: str, places: Sequence[int]) -> None:
        layers = self.subject.layers
        if name not in layers:
            raise InputError(
                f"policy 'expert_gain': no routed layer {name!r}; there are: {', '.join(layers)}"
            )
        live = layers[name].live
        if not places or not all(0 <= place < live for place in places):
            raise InputError(
                f"policy 'expert_gain': layer {name!r} has experts 0 to {live - 1}, got "
                f"{list(places)}"
            )
        if self.config.mode == "off" and len(set(places)) == live:
            raise InputError(
                f"policy 'expert_gain': all {live} experts of layer {name!r} would be off; leave "
                "at least one"
            )

    def _rule(self, name: str) -> Rule:
        layer = self.subject.layers[name]
        marked_E = torch.zeros(layer.live, dtype=torch.bool, device=next(layer.parameters()).device)
        marked_E[list(self.marked[name])] = True
        if self.config.mode == "off":
            return without(marked_E)
        if self.config.mode == "on":
            return lambda select, logits, allowed: select(
                logits.masked_fill(marked_E, FORCED), allowed
            )
        return _multiplied(marked_E, self.config.gain)


def _multiplied(marked_E: Tensor, gain: float) -> Rule:
    """Weights of these experts times ``gain``; what is chosen stays."""

    def rule(select: Select, logits_TE: Tensor, allowed_TE: Tensor | None) -> Selection:
        own = select(logits_TE, allowed_TE)
        weights_TE = exact(own.weights_TE)
        return Selection(own.chosen_TE, torch.where(marked_E, gain * weights_TE, weights_TE))

    return rule


def ranking(subject: Subject, on: str, by: str) -> dict[tuple[str, int], float]:
    """(layer, expert) -> how much it belongs to the task or domain ``on``.

    Raises InputError where there is none of that name, or nothing beside it.
    """
    of = {task.name: task for task in subject.tasks}
    inside = [n for n, task in of.items() if on == n or task.domains == (on,)]
    if not inside or len(inside) == len(of):
        names = ", ".join(dict.fromkeys([*of, *(d for task in of.values() for d in task.domains)]))
        raise InputError(
            f"policy 'expert_gain': experts are ranked for one task or domain against others, "
            f"{on!r} is none of several; there are: {names}"
        )
    gates = subject.gates()
    found: dict[tuple[str, int], float] = {}
    for name in subject.layers:
        sides = [[gates[n][name] for n in of if (n in inside) == side] for side in (True, False)]
        scores = contrast(*sides) if by == "contrast" else _association(*sides)
        found |= {(name, place): score for place, score in enumerate(scores)}
    return found


def _association(one: Sequence[Gates], others: Sequence[Gates]) -> list[float]:
    used_TE = torch.cat([used(gates) for gates in (*one, *others)])
    tokens = sum(len(gates.chosen) for gates in one)
    return npmi_of(used_TE, torch.arange(len(used_TE), device=used_TE.device) < tokens)
