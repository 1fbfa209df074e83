"""MoELayer: a linear map replaced by routed experts within the same parameter budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from workers.moe.compression import compressed
from workers.moe.dispatch import FREE, Limits, dispatch, reached
from workers.moe.experts import EXPERTS
from workers.moe.experts.base import kernel_of, sequences
from workers.moe.layers.expert_layer import ExpertLayer
from workers.moe.losses import LOSSES, Loss
from workers.moe.routed import Routed
from workers.moe.routers import ROUTERS, Router, RouterContext
from workers.moe.selection import Selection, exact
from workers.moe.selectors import SELECTORS, Selector
from workers.tables import choice, choices, construct


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds in one forward of a layer, over all its rounds."""

    context: RouterContext
    allowed_TE: Tensor | None
    """Experts that a token may choose, bool [T, E]; None = all."""
    limits: Limits
    """Which tokens experts learn from."""
    training: bool
    """A training forward with gradients."""


class MoELayer(ExpertLayer):
    """One linear map as a mixture of experts with its own router (DynamicMoE, arXiv 2511.18987).

    Takes [..., inputs], gives [..., outputs]. ``max_experts`` is the final number N that sets the
    width of the experts; ``experts`` are there from the start. Under ``place`` both numbers are
    the model's, and the layer takes its share.
    """

    adds_up: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of one mixture-of-experts layer."""

        kind: str = "moe"
        router: Any = choice(ROUTERS, "linear")
        """What scores the experts."""
        selector: Any = choice(SELECTORS, "dense")
        """Which experts run for a token, and their weights."""
        expert: Any = choice(EXPERTS, "bottleneck")
        """What an expert is made of."""
        more_experts: tuple[Any, ...] = choices(EXPERTS)
        """Further forms of experts: new ones take ``expert`` and these by turns."""
        shared: int = 0
        """Experts that run for every token beside the chosen ones."""
        shared_experts: tuple[Any, ...] = choices(EXPERTS)
        """Forms that these take by turns; none = ``expert``."""
        shared_gate: Literal["one", "sigmoid"] = "one"
        """Weight of a shared expert: 1, or sigmoid(w x) with a w of its own."""
        losses: tuple[Any, ...] = choices(LOSSES)
        """What the layer adds to the task's loss in training."""
        grad_max_k: int | None = None
        """Only the k experts of a token with the largest weights learn from it; None = all."""
        match_active: bool = False
        """Widths such that the experts one token passes, not all, cost one dense layer."""

        def __post_init__(self) -> None:
            if self.grad_max_k is not None and self.grad_max_k < 1:
                raise ValueError(f"grad_max_k must be at least 1, got {self.grad_max_k}")
            if self.shared < 0:
                raise ValueError(f"shared must not be negative, got {self.shared}")
            for expert in (self.expert, *self.more_experts):
                if sequences(expert):
                    raise ValueError(
                        f"expert {expert.kind!r} reads whole sequences, of which a router would "
                        "hand it some tokens only; use it among shared_experts"
                    )
            if not self.shared and (self.shared_experts or self.shared_gate != "one"):
                raise ValueError(
                    "shared must be at least 1 where shared_experts or shared_gate are given, got 0"
                )

        @property
        def routes_to_all(self) -> bool:
            """See ``workers.contract.WithRoutedLayers``."""
            found: bool = self.selector.chooses_all
            return found

        @property
        def fewest(self) -> int:
            """See ``workers.contract.WithRoutedLayers``."""
            made: Selector = construct(SELECTORS, self.selector)
            return made.fewest

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        below: Tensor | None = None,
    ) -> Tensor:
        """[..., inputs] -> [..., outputs]; ``allowed``: bool [..., live], experts that may be
        chosen. The rest goes to the router (``RouterContext``)."""
        x_TD = x.reshape(-1, self.inputs)
        allowed_TE = None if allowed is None else allowed.reshape(-1, self.live)
        steps = x.shape[1] if x.dim() == 3 else None
        conditions = self._begin(x_TD, allowed_TE, positions, lengths, below, steps)
        y_TO = self._pass(x_TD, conditions)
        self._end()
        return y_TO.reshape(*x.shape[:-1], self.outputs)

    def _begin(
        self,
        x_TD: Tensor,
        allowed_TE: Tensor | None = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        below: Tensor | None = None,
        steps: int | None = None,
    ) -> Conditions:
        """Begin a forward: what holds in it, from what the layer was told about the step."""
        training = self.training and torch.is_grad_enabled()
        step, record = self.record.step, self.record
        domain_T, limits = record.domain_of(len(x_TD)), FREE
        if self.begins or below is not None:
            self.walk.state = below
        if training:
            record.losses = {}
            if step.first:
                self.selector.step_begins()
            trainable_TE = None
            if domain_T is not None:
                record.counters.add_tokens(domain_T)
                trainable_TE = self.masking.trainable(domain_T, step.domains, self.ids)
                open_TE = self.masking.allowed(domain_T, step.domains, self.ids)
                allowed_TE = _both(allowed_TE, open_TE)
            k = self.config.grad_max_k
            limits = Limits(k if k is not None and k < self.live else None, trainable_TE)
        context = RouterContext(
            progress=step.progress,
            domain_T=domain_T,
            positions=positions,
            lengths=lengths,
            steps=steps,
            first=step.first,
        )
        return Conditions(context, allowed_TE, limits, training)

    def _end(self) -> None:
        """End a forward: what the last layer's router handed on is for nobody."""
        if self.ends:
            self.walk.state = None

    def _scored(self, router: Router, x_TD: Tensor, conditions: Conditions) -> Tensor:
        """Logits [T, E] of one round, which hears what the one before handed on."""
        context = replace(conditions.context, below=self.walk.state)
        logits_TE, self.walk.state = router.route(x_TD, context)
        return logits_TE

    def _pass(self, x_TD: Tensor, conditions: Conditions) -> Tensor:
        """All rounds; a plain layer has one."""
        return self._round(self.router, x_TD, conditions)

    def _round(self, router: Router, x_TD: Tensor, conditions: Conditions) -> Tensor:
        """Route T tokens and run their experts, [T, O]."""
        logits_TE = self._scored(router, x_TD, conditions)
        selection: Selection = self.selector(
            x_TD, logits_TE, conditions.allowed_TE, conditions.training
        )
        return self._run(router, x_TD, logits_TE, selection, conditions)

    def _run(
        self,
        router: Router,
        x_TD: Tensor,
        logits_TE: Tensor,
        selection: Selection,
        conditions: Conditions,
    ) -> Tensor:
        """Run the selected experts and the shared ones, [T, O], and record the pass."""
        training, limits, context = conditions.training, conditions.limits, conditions.context
        run_TD, run = x_TD, selection
        if self.main is not None:
            experts, trainable_TE = self.experts.values(), limits.trainable_TE
            run_TD, run = compressed(experts, x_TD, selection, self.main, trainable_TE)
        y_TO = dispatch(kernel_of(list(self.experts.values())), run_TD, run, limits)
        shared_TO = self.shared(x_TD, conditions.context.steps)
        if shared_TO is not None:
            y_TO = y_TO + shared_TO
        record = self.record
        losses: tuple[Loss, ...] = ()
        if training:
            losses = (*self.losses, *router.losses(), *self.selector.losses())
            record.counters.add_weights(selection)
            record.counters.add_sums(selection.sums)
            record.reach(reached(selection, limits))
            self._watch(x_TD, y_TO)
            if context.domain_T is not None:
                record.counters.add_choices(selection, context.domain_T)
        if losses or record.observers:
            routed = self._routed(router, x_TD, logits_TE, selection, conditions)
            self._add_losses(losses, routed)
            for observer in record.observers:
                observer(routed)
        return y_TO

    def _watch(self, x_TD: Tensor, y_TO: Tensor) -> None:
        """Let experts look on that may change, by phase and by themselves."""
        if self.phase is not None and "experts" not in self.phase:
            return
        for number in self.births:
            expert = self.expert(number)
            if expert.watches and number not in self.frozen:
                expert.watch(x_TD.detach(), y_TO.detach())

    def _routed(
        self,
        router: Router,
        x_TD: Tensor,
        logits_TE: Tensor,
        selection: Selection,
        conditions: Conditions,
    ) -> Routed:
        context, probabilities_TE = conditions.context, selection.probabilities_TE
        if probabilities_TE is None:
            probabilities_TE = self.selector.probabilities(logits_TE, conditions.allowed_TE)
        return Routed(
            x=x_TD,
            logits=exact(logits_TE),
            probabilities=exact(probabilities_TE),
            chosen=selection.chosen_TE,
            weights=exact(selection.weights_TE),
            progress=context.progress,
            births=tuple(self.births.values()),
            domain_T=context.domain_T,
            router=router,
            selector=self.selector,
        )

    def _add_losses(self, losses: Sequence[Loss], routed: Routed) -> None:
        """Weighted losses of one round, by name; over several rounds their mean."""
        found = self.record.losses
        for loss in losses:
            value = loss.loss(routed)
            if value is None:
                continue
            weighted = value * (loss.weight / self.rounds)
            found[loss.name] = found[loss.name] + weighted if loss.name in found else weighted


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """What two permissions allow; None allows everything."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
