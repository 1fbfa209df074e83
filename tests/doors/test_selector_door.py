"""A selector from outside: a bias for each expert, and as many experts as pass a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.doors.routed_lane import both, routed_lane
from workers.contract import Json
from workers.moe.routed import Birth
from workers.moe.selection import Selection
from workers.moe.selectors import Selector


class BiasedThreshold(Selector):
    """Experts whose probability plus bias is above a level; biases follow the load."""

    bias: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        level: float = 0.3

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.level, self._ids = config.level, ()
        self.register_buffer("bias", torch.zeros(0))

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        old = dict(zip(self._ids, self.bias, strict=True))
        self._ids = tuple(births)
        self.bias = torch.stack([old.get(i, torch.zeros(())) for i in births])

    def active(self, experts: int) -> float:
        return experts / 2

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        all_TE = self.probabilities(logits_TE, allowed_TE)
        chosen_TE = all_TE + self.bias > self.level
        sums = {"load": chosen_TE.sum(0)}
        if training and len(chosen_TE):
            share_E = chosen_TE.float().mean(0)
            self.bias = (self.bias + 0.01 * (share_E.mean() - share_E).sign()).clamp(-0.2, 0.2)
        return Selection(chosen_TE, all_TE * chosen_TE, probabilities_TE=all_TE, sums=sums)

    def summed(self, experts: int) -> Mapping[str, int]:
        return {"load": experts}

    def arch(self) -> Json:
        return None


LAYER = {
    "kind": "moe",
    "selector": {"kind": "tests.doors.test_selector_door:BiasedThreshold"},
    "expert": {"kind": "bottleneck", "width": 6},
}


def test_a_selector_with_state_for_each_expert_goes_through_a_lane(tmp_path: Path) -> None:
    whole = both(tmp_path, routed_lane(LAYER))
    shares = [
        sum(chosen) / told["tokens"][domain]
        for told in whole.intervals.values()
        for by_domain in told["counts"].values()
        for domain, chosen in by_domain.items()
    ]
    assert any(share % 1 for share in shares), "tokens choose different numbers of experts"
    assert max(shares) < 4, shares
    for told in whole.intervals.values():
        for layer, by_domain in told["counts"].items():
            load = [float(sum(chosen)) for chosen in zip(*by_domain.values(), strict=True)]
            assert told["sums"][layer]["load"] == load
