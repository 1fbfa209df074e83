"""Entries of parameters that an edit has the optimizer forget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from workers.edits import Cause, Change, Edit, EditProbe, Forward
from workers.moe.growth import surgery
from workers.moe.growth.optimizer_state import MASTER
from workers.supervised.precision import MasterWeights, lower

ROWS = torch.tensor([0, 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear(Edit):
    """Clears two rows of the weight, and the whole bias."""

    noun: ClassVar[str] = "clearing"
    kind: str = "clear"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        return lambda: Change(rebind=False, cleared={"weight": ((0, ROWS),), "bias": None})


def stepped(lowered: bool) -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    if lowered:
        lower(layer)
    inner = torch.optim.AdamW(layer.parameters(), lr=0.1)
    optimizer = MasterWeights(inner) if lowered else inner
    for _ in range(2):
        layer(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return layer, optimizer


@pytest.mark.parametrize("lowered", [False, True])
def test_only_the_named_entries_are_forgotten(lowered: bool) -> None:
    layer, optimizer = stepped(lowered)
    before = {key: value.clone() for key, value in optimizer.state[layer.weight].items()}
    cause = Cause(policy="p", trigger="t")
    edit = Clear(id="e", stage="s", after_interval=0, revision=1, seed=0, cause=cause)
    report, change = surgery.follow(layer, optimizer, edit, None)
    assert report.probe_change is None
    assert change.cleared["weight"] == ((0, ROWS),)
    assert layer.bias not in optimizer.state
    after = optimizer.state[layer.weight]
    assert set(after) == set(before)
    for key, value in before.items():
        if key in (MASTER, "step"):
            assert torch.equal(after[key], value), key
        else:
            assert not after[key][ROWS].any()
            assert torch.equal(after[key][1::2], value[1::2])
            assert value[ROWS].all()
