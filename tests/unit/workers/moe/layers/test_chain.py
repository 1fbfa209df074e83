"""Chains of experts with shared ones inside the rounds."""

from __future__ import annotations

import torch

from workers.moe.experts import Bottleneck, LinearExpert
from workers.moe.layers import ChainLayer, MoELayer
from workers.moe.routed import observing
from workers.moe.selectors import TopK


def _x() -> torch.Tensor:
    return torch.randn(30, 20, generator=torch.Generator().manual_seed(5))


SETTINGS = {
    "expert": Bottleneck.Config(width=4),
    "selector": TopK.Config(k=2),
    "shared": 1,
    "shared_experts": (LinearExpert.Config(),),
    "shared_gate": "sigmoid",
}


def test_one_round_is_the_plain_layer_with_a_residual_shared_experts_included() -> None:
    chain = ChainLayer(ChainLayer.Config(rounds=1, **SETTINGS), 20, 20, 4, seed=1)
    plain = MoELayer(MoELayer.Config(**SETTINGS), 20, 20, 4, seed=1)
    assert list(chain.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(chain(_x()), _x() + plain(_x()))


def test_shared_experts_run_in_each_round_on_what_the_round_reads() -> None:
    chain = ChainLayer(ChainLayer.Config(rounds=3, **SETTINGS), 20, 20, 4, seed=1)
    with observing(chain) as seen:
        y = chain(_x())
    x = _x()
    for routed in seen[""]:
        torch.testing.assert_close(routed.x, x)
        outputs = torch.stack([expert(x) for expert in chain.experts.values()], 1)
        mixed = (routed.weights.unsqueeze(-1) * outputs).sum(1)
        gate = torch.sigmoid(x @ chain.shared.gates_KD.t())
        x = x + mixed + gate * chain.shared[0](x)
    assert len(seen[""]) == 3
    torch.testing.assert_close(y, x)
