"""A stock mixture as a routed layer: its routers, experts, masks and growth are ours.

The family's block keeps its code, shared experts included. Its router is replaced by a ``Gate`` and
its ``experts`` by a ``StockLayer``; the family's own rule still turns logits into chosen experts
and weights. Letters: T tokens, E experts, K slots, D inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from workers.contract import InputError
from workers.models.huggingface.convention import Mixture
from workers.models.huggingface.experts import EXPERTS, form_of, take_over
from workers.moe.growth.growable import Growth
from workers.moe.layers.moe import Conditions, MoELayer
from workers.moe.losses import LOSSES
from workers.moe.routed import Birth
from workers.moe.routers import ROUTERS
from workers.moe.selection import Selection, Slots
from workers.moe.selectors import Selector
from workers.tables import choice, choices

Rule = tuple[Tensor, Tensor, Tensor]
"""What a stock router gives: logits [T, E], weights [T, K], places of experts [T, K]."""
FORBIDDEN = -1e30
"""Logit of an expert that a token may not choose; finite, since it is multiplied by 0 and 1."""


class StockRule(Selector):
    """The selection rule of a stock router: its own code, reading logits instead of features.

    The router's weight is the identity, so that its linear map gives the logits back exactly.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """The router whose rule it is; made from a stock mixture, never written in a file."""

        kind: str = "stock"
        router: Any = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        router = config.router
        experts, like = len(router.weight), router.weight
        for name in ("weight", "bias"):
            if router._parameters.pop(name, None) is not None:
                router.register_buffer(name, like.new_zeros(0), persistent=False)
        self.router = router
        own = (*router.named_parameters(), *router.named_buffers())
        self._first = {
            name: value.detach().clone() for name, value in own if value.shape == (experts,)
        }
        """The rule's own numbers of the first experts, e.g. corrections that balance them."""
        self._ids: tuple[int, ...] = ()
        self.parents: dict[int, int] = {}
        """Copied expert -> the one it is a copy of."""

    @property
    def k(self) -> int:
        """Experts for each token."""
        found: int = self.router.top_k
        return found

    def active(self, experts: int) -> float:
        return min(self.k, experts)

    @property
    def fewest(self) -> int:
        return self.k

    @property
    def corrects(self) -> bool:
        """Whether the rule adds numbers of the experts after it has scored them."""
        return bool(self._first)

    def rule(self, logits_TE: Tensor, allowed_TE: Tensor | None) -> Rule:
        """The family's choice, from logits of which those not allowed are out of reach.

        In float32, as the identity is, whatever the precision of the model.
        """
        if allowed_TE is not None:
            logits_TE = logits_TE.masked_fill(~allowed_TE, FORBIDDEN)
        found: Rule = self.router(logits_TE.to(self.router.weight.dtype))
        return found

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        _, weights_TK, index_TK = self.rule(logits_TE, allowed_TE)
        return chosen(index_TK, weights_TK, logits_TE.shape[1], allowed_TE)

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        """Read so many logits.

        Of the rule's own numbers a copy takes its parent's (``parents``), another new expert the
        mean of those that are there.
        """
        router, count, ids = self.router, len(births), tuple(births)
        router.weight = torch.eye(count, dtype=router.weight.dtype, device=router.weight.device)
        if "bias" in router._buffers:
            router.bias = router.bias.new_zeros(count)
        for name in ("num_experts", "hidden_dim"):
            if name in vars(router):
                setattr(router, name, count)
        for name, first in self._first.items():
            values = self._widened(first, getattr(router, name).detach(), ids)
            if name in router._parameters:
                trains = router._parameters[name].requires_grad
                setattr(router, name, nn.Parameter(values, requires_grad=trains))
            else:
                setattr(router, name, values)
        self._ids = tuple(ids)

    def _widened(self, first: Tensor, old: Tensor, ids: Sequence[int]) -> Tensor:
        values = first.new_empty(len(ids))
        known = dict(zip(self._ids, old, strict=False)) or dict(enumerate(first))
        mean = torch.stack(list(known.values())).mean()
        for place, number in enumerate(ids):
            parent = self.parents.get(number)
            inherited = mean if parent is None else known.get(parent, mean)
            values[place] = known.get(number, inherited)
        return values


def chosen(
    index_TK: Tensor, weights_TK: Tensor, experts: int, allowed_TE: Tensor | None
) -> Selection:
    """The selection of these slots; slots of experts that a token may not choose are unused."""
    if allowed_TE is not None:
        open_TK = allowed_TE.gather(1, index_TK)
        index_TK = index_TK.where(open_TK, -1)
        weights_TK = weights_TK.where(open_TK, 0.0)
    places_E = torch.arange(experts, device=index_TK.device)
    counts_E = (index_TK.reshape(-1, 1) == places_E).sum(0)
    return Selection(slots=Slots(index_TK, weights_TK, counts_E))


class StockLayer(MoELayer):
    """The mixture of a stock model's block, in the place of its ``experts``."""

    expert_table = EXPERTS
    selector_table: ClassVar[dict[str, type]] = {"stock": StockRule}
    compresses: ClassVar[bool] = False

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """What a layer of a stock model is made of; made from the model's settings."""

        kind: str = "stock"
        router: Any = choice(ROUTERS, "linear")
        selector: Any = None
        expert: Any = None
        more_experts: tuple[Any, ...] = ()
        shared: int = 0
        shared_experts: tuple[Any, ...] = ()
        shared_gate: str = "one"
        losses: tuple[Any, ...] = choices(LOSSES)
        grad_max_k: int | None = None
        match_active: bool = False

    selector: StockRule

    def __init__(self, config: Config, mixture: Mixture) -> None:
        """Takes the tensors of the mixture over; ``Gate`` and this layer then belong together."""
        bias = mixture.router._parameters.get("bias")
        weight: Any = mixture.router.weight
        self._stock = mixture, weight, bias
        super().__init__(config, mixture.inputs, mixture.inputs, mixture.count)
        del self._stock
        self._pending: tuple[Tensor, Conditions] | None = None

    def _populate(self, experts: int, seed: int) -> None:
        """Take over the mixture's experts and router rows; nothing is drawn or copied."""
        mixture, weight, bias = self._stock
        for number in range(experts):
            with torch.device("meta"):
                expert = self.experts.make(0, self.experts.width(0, self._final_width))
            take_over(expert, mixture, number)
            self.experts.put(number, expert, 0, Birth(), self)
            self.router.add(number)
        self.router.start_from(weight.detach(), None if bias is None else bias.detach())
        self._tell_selector()

    def route(self, x: Tensor) -> Rule:
        """What the block's router answers for tokens [..., D]; the experts' forward follows."""
        x_TD = x.reshape(-1, self.inputs)
        conditions = self._begin(x_TD)
        logits_TE = self.router(x_TD, conditions.context)
        self._pending = logits_TE, conditions
        return self.selector.rule(logits_TE, conditions.allowed_TE)

    def forward(self, x_TD: Tensor, index_TK: Tensor, weights_TK: Tensor) -> Tensor:  # type: ignore[override]
        """Run the experts that the family's block names, weighted as it says, [T, D]."""
        assert self._pending is not None, "the block's router runs first"
        (logits_TE, conditions), self._pending = self._pending, None
        assert x_TD.shape[1] == self.inputs, (x_TD.shape, self.inputs)
        allowed_TE = conditions.allowed_TE
        if self.selector.steered:
            selection = self.selector(x_TD, logits_TE, allowed_TE, conditions.training)
        else:
            selection = chosen(index_TK, weights_TK.to(x_TD.dtype), self.live, allowed_TE)
        return self._run(self.router, x_TD, logits_TE, selection, conditions)

    def _tell_selector(self) -> None:
        births = self.births.items()
        self.selector.parents = {n: birth.parent for n, birth in births if birth.parent is not None}
        super()._tell_selector()

    def check(self, growth: Growth) -> None:
        super().check(growth)
        self._check_groups(self.target(growth.experts))

    def check_removal(self, experts: Sequence[int]) -> None:
        super().check_removal(experts)
        self._check_groups(self.live - len(experts))

    def check_copies(self, experts: int, exclusive: bool) -> None:
        self._check_groups(experts)
        if exclusive and self.selector.corrects:
            raise InputError(
                "the model's rule adds corrections after it has scored experts, so none can be "
                "kept from a token; set exclusive_copies = false"
            )

    def _check_groups(self, experts: int) -> None:
        groups = int(getattr(self.selector.router, "num_group", 1) or 1)
        if experts % groups:
            raise InputError(
                f"{experts} experts: the model chooses among {groups} groups of equal size; ask "
                f"for a multiple of {groups}"
            )


class Gate(nn.Module):
    """In the place of a stock router: asks the layer."""

    def __init__(self, layer: StockLayer) -> None:
        super().__init__()
        self._layer = (layer,)  # in a tuple: the layer is a part of the block, not of this

    def forward(self, x: Tensor) -> Rule:
        """Tokens [..., D] -> logits [T, E], weights [T, K], places of experts [T, K]."""
        return self._layer[0].route(x)


def replace_mixture(mixture: Mixture, router: Any, losses: tuple[Any, ...]) -> StockLayer:
    """Put a layer of ours into a stock block; its tensors go on living in it.

    ``router``: Config of what scores the experts, and at first does as the stock router did.
    """
    if any(item.name == "bias" for item in fields(router)):
        router = replace(router, bias="bias" in mixture.router._parameters)
    config = StockLayer.Config(
        router=router,
        losses=losses,
        expert=form_of(mixture),
        selector=StockRule.Config(router=mixture.router),
    )
    layer = StockLayer(config, mixture)
    setattr(mixture.block, mixture.router_name, Gate(layer))
    mixture.block.experts = layer
    return layer
