"""Old and new experts of a pass, as losses of growth tell them apart. Letters: T tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.moe.routed import Routed, newest


def new_experts(routed: Routed) -> Tensor | None:
    """Bool [E]: experts of the latest growth; None where all are of one age."""
    new = newest(routed.births)
    if not any(new) or all(new):
        return None
    return torch.tensor(new, device=routed.logits.device)


def scores(routed: Routed) -> Tensor:
    """Softmax over all experts [T, E], also over those that the selector kept from a token."""
    found: Tensor = routed.selector.probabilities(routed.logits, None)
    return found
