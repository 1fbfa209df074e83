"""Steers routed layers from outside: which experts run, and with which weights, inside a block.

Layers, routers and selectors are left as they are; a layer asks its selector, and the selector's
answer goes through a rule. Letters: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from workers.moe.routed import routed_layers
from workers.moe.selection import Selection, exact
from workers.moe.selectors import Selector

Select = Callable[[Tensor, Tensor | None], Selection]
"""The layer's own selector: logits [T, E], allowed (bool [T, E], None = all) -> what it chooses."""

Rule = Callable[[Select, Tensor, Tensor | None], Selection]
"""What is chosen instead, given the selector, the router's logits [T, E] and what is allowed."""

Rules = Mapping[str, Rule | tuple[Rule, ...]]
"""Layer -> its rule; several are for its rounds, first round first."""

NAMES = ("forward", "steered")
"""What a steered selector has of its own for a while, over what its class says."""


def steerable(model: torch.nn.Module) -> dict[str, Any]:
    """Routed layers by name in which there is something to choose: at least two experts."""
    return {name: layer for name, layer in routed_layers(model).items() if layer.live > 1}


@contextmanager
def steered(layers: Mapping[str, Any], rules: Rules) -> Iterator[None]:
    """Forwards inside the block choose by the rules; layers without one by their own selector."""
    with ExitStack() as stack:
        for name, rule in rules.items():
            several = rule if isinstance(rule, tuple) else (rule,) * layers[name].rounds
            stack.enter_context(_steered(layers[name].selector, several))
        yield


@contextmanager
def _steered(selector: Selector, rules: tuple[Rule, ...]) -> Iterator[None]:
    """One selector, asked once for each round of a forward."""
    own, asked = selector.forward, 0

    def forward(
        x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        nonlocal asked
        rule = rules[asked % len(rules)]
        asked += 1
        return rule(
            lambda logits, allowed: own(x_TD, logits, allowed, training), logits_TE, allowed_TE
        )

    own_attributes = vars(selector)
    before = {name: own_attributes[name] for name in NAMES if name in own_attributes}
    selector.forward, selector.steered = forward, True  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name in NAMES:
            del own_attributes[name]
        own_attributes.update(before)


# ---------------------------------------------------------------- rules


def without(off_E: Tensor) -> Rule:
    """Experts marked in bool [E] may not be chosen (logit minus infinity)."""

    def rule(select: Select, logits_TE: Tensor, allowed_TE: Tensor | None) -> Selection:
        open_TE = (~off_E).expand_as(logits_TE)
        return select(logits_TE, open_TE if allowed_TE is None else open_TE & allowed_TE)

    return rule


def only(choose: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Rule:
    """``choose``: float32 logits [T, E], minus infinity where not allowed -> (chosen, weights)."""

    def rule(select: Select, logits_TE: Tensor, allowed_TE: Tensor | None) -> Selection:
        open_TE = exact(logits_TE)
        if allowed_TE is not None:
            open_TE = open_TE.masked_fill(~allowed_TE, float("-inf"))
        return Selection(*choose(open_TE))

    return rule


def weighted(weights_TE: Tensor) -> Rule:
    """These weights; experts whose weight is not 0 run."""

    def rule(select: Select, logits_TE: Tensor, allowed_TE: Tensor | None) -> Selection:
        allowed = weights_TE if allowed_TE is None else weights_TE.masked_fill(~allowed_TE, 0.0)
        return Selection(allowed.detach() != 0, allowed)

    return rule
