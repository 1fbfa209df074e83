"""The head of residual blocks against its equation."""

from __future__ import annotations

import torch
from torch.nn import functional

from workers.edits import Cause, Grow
from workers.models.heads import MoEBlocks
from workers.moe.experts import Bottleneck
from workers.moe.growth import surgery
from workers.moe.growth.schedules import SCHEDULES
from workers.moe.layers import MoELayer, ResidualLayer


def head(experts: int = 3, **settings: int) -> MoEBlocks:
    inner = MoELayer.Config(expert=Bottleneck.Config(width=4))
    config = MoEBlocks.Config(
        width=6,
        depth=3,
        layer=ResidualLayer.Config(inner=inner),
        schedule=SCHEDULES["descending"].Config(),
    )
    return MoEBlocks(config, 5, 2, experts=experts, **settings)


def test_blocks_are_layer_norms_of_sums_with_nothing_between() -> None:
    model, x = head(), torch.randn(7, 5)
    h = x @ model.projection.weight.T + model.projection.bias
    for block in model.blocks:
        layer = block.inner
        gates = torch.softmax(layer.router(h, None), -1)
        outputs = torch.stack([expert(h) for expert in layer.experts.values()], -1)
        h = functional.layer_norm(h + (outputs * gates[:, None]).sum(-1), (6,))
    wanted = h @ model.output.weight.T + model.output.bias
    torch.testing.assert_close(model(x), wanted)
    assert [len(block.inner.experts) for block in model.blocks] == [3, 2, 1]


def test_it_grows_by_its_schedule_and_is_restored() -> None:
    model, x = head(), torch.randn(7, 5)
    cause = Cause(policy="test", trigger="test")
    edit = Grow(id="e", stage="s", after_interval=0, revision=1, seed=3, cause=cause, experts=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    surgery.apply(model, None, edit, x)
    assert [len(block.inner.experts) for block in model.blocks] == [5, 3, 1]
    after = model.state_dict()
    assert all(
        torch.equal(value, after[name]) for name, value in before.items() if "router" not in name
    )
    again = head(seed=9)
    surgery.ensure_arch(again, surgery.arch(model))
    again.load_state_dict(after)
    assert torch.equal(again(x), model(x))
