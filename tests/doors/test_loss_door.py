"""A loss from outside: the entropy of the router, which appears in the report by its name."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tests.doors.routed_lane import both, routed_lane
from workers.moe.losses import Loss
from workers.moe.routed import Routed


class Entropy(Loss):
    """Mean entropy of the routing probabilities."""

    def loss(self, routed: Routed) -> Tensor:
        return -(routed.probabilities * routed.probabilities.clamp_min(1e-9).log()).sum(-1).mean()


LAYER = {
    "kind": "moe",
    "expert": {"kind": "bottleneck", "width": 6},
    "losses": [
        {"kind": "tests.doors.test_loss_door:Entropy", "weight": 0.1},
        {"kind": "balance", "weight": 0.02},
        "z",
    ],
}


def test_a_loss_goes_through_a_lane_and_is_reported_by_its_name(tmp_path: Path) -> None:
    whole = both(tmp_path, routed_lane(LAYER))
    metrics = [told["metrics"] for told in whole.intervals.values()]
    names = {f"loss/{kind}/head.layers.0" for kind in ("Entropy", "balance", "z")}
    told = [stage["training"] for stage in whole.lane["stages"]]
    assert all(names <= set(found) for found in told), "growstage show --json"
    assert metrics
    assert all(names <= set(found) for found in metrics)
    assert all(0 < found["loss/Entropy/head.layers.0"] < 0.1 * 2 for found in metrics)
