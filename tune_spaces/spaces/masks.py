"""Gradient masks by usage: when a domain's tokens choose an expert often enough to train it.

Everything here acts after the first stage (``from_stage = 1``): trials share it.
"""

from __future__ import annotations

from tune_spaces.space import Choice, Space


class Masks(Space):
    """Gradient masks from usage: threshold, momentum, sharing of experts, phases."""

    base = "configs/digits_growth.toml"
    lane = "finetune"
    fixed = {  # noqa: RUF012  (typed in the base class)
        "stream.kind": "domains",
        "stream.order": "sequential",
        "policies.growth": "none",
        "model.experts": 4,
        "model.head.layer.selector.kind": "topk",
        "model.head.layer.selector.k": 2,
        "policies.phases.kind": "three_phases",
        "policies.phases.from_stage": 1,
        "policies.masks.kind": "usage_masks",
        "policies.masks.from_stage": 1,
    }
    parameters = {  # noqa: RUF012
        "policies.masks.threshold": Choice((0.4, 0.6, 0.8)),
        "policies.masks.momentum": Choice((0.5, 0.9)),
        "policies.masks.sharing": Choice(("share", "claim")),
        "policies.phases.warmup_until": Choice((0.0, 0.2)),
    }
