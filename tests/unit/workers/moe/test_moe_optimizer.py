"""Optimizer state by parameter name."""

from __future__ import annotations

import pytest
import torch

from workers.adam import MemoryOrderAdam
from workers.contract import InputError
from workers.models.classifier import Classifier
from workers.moe.growth.optimizer_state import load_named_state, named_state, rebind

MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
}


def _model() -> Classifier:
    return Classifier(Classifier.Config(experts=2), (1, 2, 3), 3, 0)


def _step(model, optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(-1, 1, 24).reshape(4, 1, 2, 3)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", MAKERS)
def test_round_trip_continues_with_the_same_bits(kind: str) -> None:
    model = _model()
    optimizer = MAKERS[kind](model.parameters())
    for _ in range(3):
        _step(model, optimizer)
    saved = {name: tensor.clone() for name, tensor in named_state(model, optimizer).items()}
    assert bool(saved) == (kind != "sgd")
    restored = _model()
    restored.load_state_dict(model.state_dict())
    fresh = MAKERS[kind](list(restored.named_parameters()))
    load_named_state(restored, fresh, saved)
    for _ in range(2):
        _step(model, optimizer)
        _step(restored, fresh)
    for a, b in zip(model.parameters(), restored.parameters(), strict=True):
        assert torch.equal(a, b)


def _transposed(optimizer: type, **options):
    """A layer whose weight lies column by column, and its optimizer after two steps."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 16)
    layer.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous().t())
    made = optimizer(list(layer.named_parameters()), 1e-2, **options)
    for step in range(2):
        _learn(layer, made, step)
    return layer, made


def _learn(layer, optimizer, step: int) -> None:
    optimizer.zero_grad()
    x = torch.randn(8, 24, generator=torch.Generator().manual_seed(step))
    # Made as the row sum makes it: a product with the transpose, which lies row by row.
    (x @ layer.weight.t() + layer.bias).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=["adam", "amsgrad"])
def test_adam_in_the_order_of_memory_takes_adams_own_steps(options) -> None:
    plain, _ = _transposed(torch.optim.Adam, fused=True, **options)
    layer, optimizer = _transposed(MemoryOrderAdam, fused=True, **options)
    for a, b in zip(layer.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    state = optimizer.state[layer.weight]
    assert not layer.weight.is_contiguous()
    assert all(
        value.stride() == layer.weight.stride() for value in state.values() if value.dim() == 2
    )


@pytest.mark.parametrize("optimizer", [MemoryOrderAdam, torch.optim.Adam])
def test_no_copy_of_a_transposed_weight_is_made(optimizer) -> None:
    _, made = _transposed(optimizer, fused=True)
    with torch.profiler.profile(record_shapes=True) as seen:
        made.step()
    events = seen.key_averages(group_by_input_shape=True)
    assert "aten::_fused_adam_" in {event.key for event in events}
    matrices = [e for e in events if e.key == "aten::copy_" and len(e.input_shapes[0]) == 2]
    assert bool(matrices) == (optimizer is torch.optim.Adam)  # else the subclass has no use


def test_restored_state_lies_as_its_parameter_does() -> None:
    layer, optimizer = _transposed(MemoryOrderAdam, fused=True)
    saved = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in named_state(layer, optimizer).items()
    }
    again, fresh = _transposed(MemoryOrderAdam, fused=True)
    again.load_state_dict(layer.state_dict())
    load_named_state(again, fresh, saved)
    assert fresh.state[again.weight]["exp_avg"].stride() == again.weight.stride()
    for one, other in ((layer, optimizer), (again, fresh)):
        _learn(one, other, 7)
    assert torch.equal(layer.weight, again.weight)
    with pytest.raises(InputError, match="momentum_buffer"):
        load_named_state(again, fresh, {"weight/momentum_buffer": torch.zeros(16, 24)})


def test_loading_copies_and_replaces() -> None:
    model = _model()
    optimizer = MAKERS["adam"](model.parameters())
    _step(model, optimizer)
    saved = {name: tensor.clone() for name, tensor in named_state(model, optimizer).items()}
    load_named_state(model, optimizer, saved)
    _step(model, optimizer)
    name = next(name for name in saved if name.endswith("exp_avg"))
    assert not torch.equal(named_state(model, optimizer)[name], saved[name])
    load_named_state(model, optimizer, {})
    assert named_state(model, optimizer) == {}


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("nowhere.weight/exp_avg", torch.zeros(1), "no parameter 'nowhere.weight'"),
        ("head.layers.2.bias/momentum_buffer", torch.zeros(3), "Adam keeps exp_avg"),
        ("head.layers.2.bias/exp_avg", torch.zeros(4), r"shape \(4,\), the parameter has \(3,\)"),
    ],
)
def test_foreign_state_is_refused_and_nothing_changes(entry, value, words) -> None:
    model = _model()
    optimizer = MAKERS["adam"](model.parameters())
    _step(model, optimizer)
    before = named_state(model, optimizer)
    with pytest.raises(InputError, match=words):
        load_named_state(model, optimizer, {entry: value})
    assert named_state(model, optimizer).keys() == before.keys()


def test_new_parameters_join_the_group_of_their_namesakes() -> None:
    model = _model()
    decay = [p for name, p in model.named_parameters() if name.endswith("weight")]
    rest = [p for name, p in model.named_parameters() if not name.endswith("weight")]
    optimizer = torch.optim.AdamW([{"params": rest, "weight_decay": 0.0}, {"params": decay}], 1e-3)
    layer = model.head.layers[0]
    layer.add(2, layer.births[0])
    rebind(optimizer, model, keep=True)
    named = {id(p): name for name, p in model.named_parameters()}
    groups = [[named[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert "head.layers.0.experts.2.up.weight" in groups[1]
    assert "head.layers.0.experts.2.up.bias" in groups[0]
    assert "head.layers.0.router.rows.2" in groups[0]
    assert len(groups[0]) + len(groups[1]) == len(named)
