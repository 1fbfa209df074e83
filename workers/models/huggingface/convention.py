"""How transformers 5 holds a mixture: finds the blocks that follow its convention.

A block has a child ``experts`` whose parameters are stacked over experts, and beside it a router
with ``weight`` [E, D] that gives (logits, weights, indices) for tokens [T, D]. Knows nothing of our
layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from workers.contract import InputError

TESTED = (
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "granitemoe",
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
)
"""Families (``model_type``) that our tests load, train, grow, export and load again."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """One mixture of a stock model."""

    name: str
    """Module name of the block."""
    block: nn.Module
    experts: nn.Module
    router_name: str
    """Name of the router inside the block."""
    router: nn.Module

    @property
    def stacked(self) -> dict[str, nn.Parameter]:
        """The experts' parameters by name, each [E, ...]."""
        return dict(self.experts.named_parameters(recurse=False))

    @property
    def count(self) -> int:
        """E."""
        return len(next(iter(self.stacked.values())))

    @property
    def inputs(self) -> int:
        """D: numbers of a token."""
        weight: Tensor = self.router.weight  # type: ignore[assignment]
        return weight.shape[1]


def is_gated(experts: Any) -> bool:
    """Whether an expert is down(act(gate x) * up x), gate and up stacked, without biases."""
    from transformers.integrations.moe import _default_apply_gate

    return (
        {name for name, _ in experts.named_parameters()} == {"gate_up_proj", "down_proj"}
        and type(experts)._apply_gate is _default_apply_gate
        and experts.is_concatenated
        and experts.has_gate
        and not (experts.is_transposed or experts.has_bias or experts.has_post_expert_norm)
    )


def mixtures(model: nn.Module, family: str) -> list[Mixture]:
    """Every mixture of a stock model, in module order.

    ``family``: its ``model_type``, for messages. Raises InputError where there is none, or where
    one does not follow the convention.
    """
    found = []
    for name, block in model.named_modules():
        experts = getattr(block, "experts", None)
        if isinstance(experts, nn.Module) and _are_stacked(experts):
            routers = {
                child: part for child, part in block.named_children() if _routes(part, experts)
            }
            if len(routers) != 1:
                raise _unknown(family, f"{name} has {len(routers)} routers beside its experts")
            ((router_name, router),) = routers.items()
            found.append(Mixture(name, block, experts, router_name, router))
            odd = _odd(found[-1])
            if odd:
                raise _unknown(family, f"{name}.{odd} belongs to experts in a way of its own")
    if not found:
        raise _unknown(family, "no part with stacked experts beside a router was found")
    return found


def _odd(mixture: Mixture) -> str | None:
    """A tensor that growth would not follow: of a part inside the experts, or of the router with a
    number for each expert in another shape than [E]."""
    for name, _ in mixture.experts.named_parameters():
        if "." in name:
            return f"experts.{name}"
    router = mixture.router
    for name, own in (*router.named_parameters(), *router.named_buffers()):
        plain = name in ("weight", "bias") or ("." not in name and own.dim() == 1)
        if mixture.count in own.shape and not plain:
            return f"{mixture.router_name}.{name}"
    return None


def _are_stacked(experts: nn.Module) -> bool:
    own = dict(experts.named_parameters(recurse=False))
    sizes = {len(parameter) for parameter in own.values() if parameter.dim() >= 2}
    return any(p.dim() == 3 for p in own.values()) and len(sizes) == 1


def _routes(part: nn.Module, experts: nn.Module) -> bool:
    weight = dict(part.named_parameters(recurse=False)).get("weight")
    count = len(next(experts.parameters()))
    return (
        weight is not None
        and not isinstance(part, nn.Linear)
        and weight.dim() == 2
        and len(weight) == count
    )


def _unknown(family: str, what: str) -> InputError:
    return InputError(
        f"model of type {family!r}: {what}, so it does not hold mixtures as this version of "
        f"transformers does elsewhere; known to work: {', '.join(TESTED)}; for a dense model set "
        "model.upcycle"
    )
