"""Activation checkpointing: the same bits with it, and nothing told twice."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fakes import tiny
from tests.unit.workers.supervised.loop import digests, grow, opened
from tests.unit.workers.supervised.stack import Block, Stack
from workers.contract import InputError
from workers.moe.growth.optimizer_state import named_state
from workers.moe.routed import observing, routed_layers
from workers.supervised.recomputation import recompute_blocks

LAYERS: dict[str, Any] = {
    "topk": {"selector": {"kind": "topk", "k": 2, "noise": 0.5}, "losses": ["balance", "z"]},
    "dense": {"selector": "dense", "grad_max_k": 1, "losses": ["balance"]},
    "chain": {"kind": "chain", "selector": {"kind": "topk", "k": 2}, "losses": ["z"]},
}
DOMAINS = {
    "kind": "domains",
    "train_samples": 96,
    "test_samples": 20,
    "domains": [{"name": "turned", "rotate": 90.0}, {"name": "permuted", "permutation": 1}],
}


def lane(again: bool, layer: str = "topk", **training: Any) -> dict[str, Any]:
    steps = {"steps": 9, "intervals": 3, "batch": 24, "checkpoint_activations": again}
    kind = f"{Stack.__module__}:Stack"
    return {
        "stream": DOMAINS,
        "model": {"kind": kind, "layer": LAYERS[layer]},
        "training": {**steps, **training},
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "in parts": {"accumulate": 3},
    "bfloat16": {"precision": "bfloat16"},
    "clipped": {"clip": 0.1, "accumulate": 2, "learning_rate": "cosine"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_everything_is_bit_for_bit_what_it_is_without(layer: str, variant: str) -> None:
    """Parameters, moments, running statistics, counts, losses, signals."""
    found = []
    for again in (False, True):
        trainer = opened(**lane(again, layer, **VARIANTS[variant]))
        first = trainer.run_interval(1, 0)
        trainer.apply(grow(4, 1, initialiser={"kind": "logit_offset", "steps": 5}))
        second = trainer.run_interval(2, 1)
        told = [(r.metrics, r.signals, r.counts, r.tokens, r.gate_weights) for r in (first, second)]
        state = trainer.model.state_dict() | named_state(trainer.model, trainer.optimizer)
        found.append((told, {name: value.clone() for name, value in state.items()}))
    (plain, kept), (checked, recomputed) = found
    assert checked == plain
    assert kept.keys() == recomputed.keys()
    different = [name for name in kept if not torch.equal(kept[name], recomputed[name])]
    assert different == []
    assert any(name.endswith("running_mean") for name in kept)
    assert float(kept["blocks.1.mean"].abs().sum()) > 0.0


def test_blocks_keep_less_for_the_backward_pass() -> None:
    def saved(again: bool) -> int:
        model = Stack(Stack.Config(width=64), (1, 8, 8), 10, 0)
        if again:
            recompute_blocks(model)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(32, 1, 8, 8))
        return sum(sizes)

    assert saved(True) < 0.3 * saved(False)


def test_observers_see_each_pass_once() -> None:
    model = Stack(Stack.Config(), (1, 8, 8), 10, 0)
    recompute_blocks(model)
    with observing(model) as seen:
        model(torch.randn(4, 1, 8, 8)).sum().backward()
    assert set(seen) == set(routed_layers(model))
    assert all(len(passes) == 1 for passes in seen.values())


def test_names_classes_and_copies_stay() -> None:
    plain, model = (Stack(Stack.Config(), (1, 8, 8), 10, 0) for _ in range(2))
    recompute_blocks(model)
    recompute_blocks(model)  # once more changes nothing
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(isinstance(block, Block) for block in model.blocks)
    assert {type(block).__mro__.index(Block) for block in model.blocks} == {2}
    other = copy.deepcopy(model)
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert float(other.eval()(x).detach().abs().sum()) > 0.0, "it has parameters of its own"
    torch.testing.assert_close(other(x), plain.eval()(x), rtol=0, atol=0)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match=r"checkpoint_activations: model 'classifier' has no"):
        tiny(training={"checkpoint_activations": True})
    config = tiny(**lane(True))
    assert config.lanes[0].sections["training"].checkpoint_activations


def test_taken_up_again_it_gives_the_same_bits(tmp_path: Path) -> None:
    changes = lane(True, precision="bfloat16", accumulate=2)
    assert digests(tmp_path, True, **changes) == digests(tmp_path, False, **changes)


def test_gradients_outside_the_loop_are_the_same() -> None:
    plain, model = (Stack(Stack.Config(), (1, 8, 8), 10, 0) for _ in range(2))
    recompute_blocks(model)
    for one in (plain, model):
        torch.manual_seed(3)
        nn.functional.cross_entropy(
            one(torch.linspace(-1, 1, 512).reshape(8, 1, 8, 8)), torch.arange(8)
        ).backward()
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name
