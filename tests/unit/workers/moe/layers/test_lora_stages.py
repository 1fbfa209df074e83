"""Low-rank stages: the sum of equation, what learns in which stage, restoring, refusals."""

from __future__ import annotations

import copy

import pytest
import torch

from orchestrator.config.file import ConfigError
from tests.fakes import tiny
from workers.contract import InputError
from workers.edits import Cause, Grow
from workers.moe.growth import surgery
from workers.moe.layers import LoRAStagesLayer
from workers.moe.layers.lora_stages import LoRAStagesLayer as Layer

CONFIG = LoRAStagesLayer.Config(rank=3)


def _x() -> torch.Tensor:
    return torch.randn(16, 10, generator=torch.Generator().manual_seed(3))


def _layer() -> Layer:
    return Layer(CONFIG, 10, 7, seed=4)


def _optimizer(layer: Layer) -> torch.optim.Optimizer:
    return torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.1)


def _train(layer: Layer, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        (layer(_x()) - 1).square().mean().backward()
        optimizer.step()


def _grow(layer: Layer, optimizer: torch.optim.Optimizer | None, experts: int) -> float | None:
    where = {"id": "e1", "stage": "s1", "after_interval": 0, "revision": 1, "seed": 7}
    cause = Cause(policy="test", trigger="test")
    return surgery.apply(
        layer, optimizer, Grow(**where, experts=experts, cause=cause), _x()
    ).probe_change


def _trained(layers: int = 3) -> tuple[Layer, torch.optim.Optimizer]:
    layer = _layer()
    optimizer = _optimizer(layer)
    for stage in range(1, layers):
        _train(layer, optimizer)
        _grow(layer, optimizer, stage + 1)
    _train(layer, optimizer)
    return layer, optimizer


def test_it_is_the_sum_over_stages() -> None:
    layer, _ = _trained()
    weight = layer.scales["0"] * layer.weight
    for stage in ("1", "2"):
        weight = weight + layer.scales[stage] * layer.up[stage] @ layer.down[stage]
    torch.testing.assert_close(layer(_x()), _x() @ weight.t() + layer.bias)


def test_each_stage_trains_its_pair_and_the_factors_before_it_and_nothing_else() -> None:
    layer = _layer()
    optimizer = _optimizer(layer)
    learns = (
        {"weight", "bias"},
        {"scales.0", "down.1", "up.1"},
        {"scales.0", "scales.1", "down.2", "up.2"},
    )
    for stage, names in enumerate(learns):
        if stage:
            assert _grow(layer, optimizer, stage + 1) == 0.0, "B starts at 0"
        assert {n for n, p in layer.named_parameters() if p.requires_grad} == names
        before = {n: p.clone() for n, p in layer.named_parameters()}
        _train(layer, optimizer)
        moved = {n for n, p in layer.named_parameters() if not torch.equal(p, before[n])}
        assert moved == names


def test_growth_by_two_adds_two_pairs_of_which_the_last_learns() -> None:
    layer = _layer()
    _grow(layer, None, 3)
    assert layer.layer_shape().widths == (0, 3, 3)
    assert not layer.up["1"].requires_grad
    assert layer.up["2"].requires_grad
    with pytest.raises(InputError, match="growth only adds"):
        _grow(layer, None, 2)


def test_restored_in_its_shape_values_and_frozen_parts() -> None:
    layer, _ = _trained()
    for start in (_layer(), _trained(4)[0]):
        start.ensure_arch(copy.deepcopy(layer.arch()))
        start.load_state_dict(layer.state_dict())
        assert torch.equal(start(_x()), layer(_x()))
        assert surgery.fingerprint(start) == surgery.fingerprint(layer)
    with pytest.raises(InputError, match="rank 3"):
        Layer(LoRAStagesLayer.Config(rank=2), 10, 7).ensure_arch(layer.arch())


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="rank"):
        LoRAStagesLayer.Config(rank=0)
    with pytest.raises(InputError, match=r"model\.experts = 1"):
        Layer(CONFIG, 10, 7, 2)
    phases = {"kind": "three_phases"}
    model = {"head": {"kind": "moe", "hidden": [12], "layer": "lora_stages"}}
    with pytest.raises(ConfigError, match=r"lora_stages|phases"):
        tiny(model=model, policies={"phases": phases})
