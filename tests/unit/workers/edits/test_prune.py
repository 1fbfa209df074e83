"""Removal of experts: the others stay as they are, ids are never given again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from workers.contract import InputError
from workers.edits import Cause, Grow, Prune, RefreshMask
from workers.models import HEADS
from workers.models.classifier import Classifier
from workers.moe.experts import Bottleneck
from workers.moe.growth import surgery
from workers.moe.growth.optimizer_state import named_state
from workers.moe.growth.schedules import Descending
from workers.moe.layers import MoELayer
from workers.moe.routed import StepContext, routed_layers
from workers.moe.selectors import TopK
from workers.moe.stepping import drop_gradients, stepping
from workers.moe.tallies import take_counts, take_gate_weights

FIRST, SECOND = "head.layers.0", "head.layers.1"
DOMAINS = ("north", "south")


def common(revision: int = 1, seed: int = 3) -> dict[str, Any]:
    cause = Cause(policy="test", trigger="test")
    return {
        "id": f"e{revision}",
        "stage": "s1",
        "after_interval": 0,
        "revision": revision,
        "seed": seed,
        "cause": cause,
    }


def prune(**experts: tuple[int, ...]) -> Prune:
    named = {"first": FIRST, "second": SECOND}
    return Prune(**common(), experts={named[name]: ids for name, ids in experts.items()})


def grow(experts: int, **more: Any) -> Grow:
    return Grow(**common(), experts=experts, **more)


def model(experts: int = 4, schedule: Any = None, **layer: Any) -> Classifier:
    layer = {"selector": TopK.Config(k=2), "expert": Bottleneck.Config(width=3), **layer}
    more = {} if schedule is None else {"schedule": schedule}
    head = HEADS["moe"].Config(hidden=(24, 16), layer=MoELayer.Config(**layer), **more)
    return Classifier(Classifier.Config(experts=experts, max_experts=8, head=head), (1, 3, 4), 3, 2)


def samples(n: int = 32) -> torch.Tensor:
    return torch.randn(n, 1, 3, 4, generator=torch.Generator().manual_seed(0))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    domain_B = torch.arange(32) % 2
    for _ in range(steps):
        optimizer.zero_grad()
        with stepping(net, StepContext(0.0, DOMAINS, domain_B)):
            net(samples()).square().mean().backward()
            drop_gradients(routed_layers(net))
        optimizer.step()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(net.named_parameters()), lr=1e-2)


def test_what_is_left_keeps_its_bits_and_answers_as_if_the_expert_could_not_be_chosen() -> None:
    net = model()
    optimizer = adam(net)
    train(net, optimizer)
    layer = net.get_submodule(FIRST)
    # Eighths, whose sums are exact: some processors add up a product with three columns in another
    # order than one with four.
    x_TD = (torch.randn(20, layer.inputs) * 8).round() / 8
    with torch.no_grad():
        for parameter in layer.router.parameters():
            parameter.copy_((parameter * 8).round() / 8)
    allowed_TE = torch.tensor([True, False, True, True]).expand(20, 4)
    expected = layer(x_TD, allowed_TE)
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    kept = {name: value.clone() for name, value in named_state(net, optimizer).items()}
    report = surgery.apply(net, optimizer, prune(first=(1,)), samples())
    assert torch.equal(layer(x_TD), expected)
    assert report.after.layers[FIRST].removed == (1,)
    assert report.after.layers[FIRST].ids == (0, 2, 3)
    assert report.after.layers[SECOND].removed == ()
    gone = {name for name in weights if name not in dict(net.named_parameters())}
    assert {name.split(".")[-3] for name in gone if ".experts." in name} == {"1"}
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    state = named_state(net, optimizer)
    assert {name.rpartition("/")[0] for name in set(kept) - set(state)} == gone
    assert all(torch.equal(value, kept[name]) for name, value in state.items())
    train(net, optimizer)


def test_applied_twice_and_on_a_replica_it_gives_one_fingerprint() -> None:
    net, replica = model(), model()
    optimizer = adam(net)
    first = surgery.apply(net, optimizer, prune(first=(3, 0), second=(2,)), samples())
    again = surgery.apply(net, optimizer, prune(first=(3, 0), second=(2,)), samples())
    assert again.fingerprint == first.fingerprint
    assert again.probe_change == 0
    assert surgery.apply(replica, None, prune(first=(3, 0), second=(2,)), None).fingerprint == (
        first.fingerprint
    )


def test_ids_are_never_given_again_and_growth_counts_those_removed() -> None:
    net = model()
    widths = net.get_submodule(FIRST).layer_shape().widths
    surgery.apply(net, None, prune(first=(1, 3)), None)
    report = surgery.apply(net, None, grow(6, initialiser="clone_split"), samples())
    assert report.after.layers[FIRST].ids == (0, 2, 4, 5)
    assert report.after.layers[SECOND].ids == (0, 1, 2, 3, 4, 5)
    assert report.parents == {FIRST: [0, 2], SECOND: [0, 1]}
    assert set(report.after.layers[FIRST].widths) == set(widths)
    surgery.apply(net, None, prune(first=(5,)), None)
    report = surgery.apply(net, None, grow(7), None)
    assert report.after.layers[FIRST].ids == (0, 2, 4, 6)


def test_a_schedule_goes_on_from_its_own_count() -> None:
    net = model(schedule=Descending.Config(kind="descending"))
    before = surgery.shape(net).layers
    assert (before[FIRST].experts, before[SECOND].experts) == (4, 1)
    surgery.apply(net, None, grow(8, layers=(SECOND,)), None)
    surgery.apply(net, None, prune(first=(0,)), None)
    after = surgery.apply(net, None, grow(8), None).after.layers
    assert (after[FIRST].ids, after[SECOND].ids) == (tuple(range(1, 8)), (0,))


@pytest.mark.parametrize("router", ["linear", "adaptive"])
def test_architecture_and_values_travel(router: str) -> None:
    from workers.moe import ROUTERS

    made = {"router": ROUTERS[router].Config()}
    net = model(**made)
    surgery.apply(net, None, prune(first=(1,)), None)
    surgery.apply(net, None, grow(6, initialiser="logit_offset"), None)
    surgery.apply(net, None, prune(first=(5,), second=(0, 2)), None)
    others = [model(**made), model(experts=7, **made), model(experts=2, **made)]
    surgery.apply(others[0], None, prune(first=(0, 2)), None)  # 0 and 2 have to come back
    saved = json.loads(json.dumps(surgery.arch(net)))
    for other in others:
        surgery.ensure_arch(other, saved)
        other.load_state_dict(net.state_dict(), strict=True)
        assert surgery.fingerprint(other) == surgery.fingerprint(net)
        assert torch.equal(other(samples()), net(samples()))
        grown = [surgery.apply(one, None, grow(7), None) for one in (other, _copy(net, made))]
        assert grown[0].fingerprint == grown[1].fingerprint
        assert grown[0].after.layers[FIRST].ids == (0, 2, 3, 4, 6)


def _copy(net: nn.Module, made: dict[str, Any]) -> nn.Module:
    other = model(**made)
    surgery.ensure_arch(other, surgery.arch(net))
    other.load_state_dict(net.state_dict(), strict=True)
    return other


def test_a_damaged_numbering_is_refused() -> None:
    net = model()
    surgery.apply(net, None, prune(first=(1,)), None)
    arch = surgery.arch(net)
    arch[FIRST] = arch[FIRST] | {"removed": []}
    with pytest.raises(InputError, match=r"lists the experts \[0, 2, 3\]"):
        surgery.ensure_arch(model(), arch)


def test_weights_and_counts_are_told_by_id() -> None:
    net = model()
    surgery.apply(net, None, prune(first=(1,)), None)
    train(net, adam(net), 1)
    weights = take_gate_weights(net)[FIRST]
    counts, tokens = take_counts(net)
    assert len(weights) == 4
    assert weights[1] == 0
    assert sum(weights) == pytest.approx(1)
    assert [row[1] for row in counts[FIRST].values()] == [0, 0]
    assert sum(sum(row) for row in counts[FIRST].values()) == 2 * sum(tokens.values())


def test_sums_under_way_lose_the_expert_alone() -> None:
    net = model()
    train(net, adam(net), 1)
    twin = model()
    train(twin, adam(twin), 1)
    surgery.apply(net, None, prune(first=(1,)), None)
    left, whole = take_gate_weights(net)[FIRST], take_gate_weights(twin)[FIRST]
    assert left == [whole[0], 0, whole[2], whole[3]]
    rows, all_rows = take_counts(net)[0][FIRST], take_counts(twin)[0][FIRST]
    assert rows == {d: [row[0], 0, row[2], row[3]] for d, row in all_rows.items()}


def masks(version: int, *rows: list[int]) -> RefreshMask:
    return RefreshMask(
        **common(version),
        version=version,
        domains=DOMAINS,
        masks={name: [list(row) for row in rows] for name in (FIRST, SECOND)},
    )


def test_masks_go_by_id() -> None:
    net = model()
    surgery.apply(net, None, masks(1, [1, 1, 0, 0], [0, 0, 0, 1]), None)
    surgery.apply(net, None, prune(first=(0,), second=(0,)), None)
    train(net, torch.optim.SGD(net.parameters(), lr=0.0), 1)
    layer = net.get_submodule(FIRST)
    learnt = {n for n in layer.births if any(p.grad is not None for p in _parts(layer, n))}
    assert learnt == {1, 3}
    trainable = layer.masking.trainable(torch.tensor([0, 1]), DOMAINS, layer.ids)
    assert trainable.tolist() == [[True, False, False], [False, False, True]]


def _parts(layer: MoELayer, number: int) -> list[nn.Parameter]:
    return list(layer.expert(number).parameters())


def test_copies_get_ids_behind_everything_that_ever_was() -> None:
    from workers.edits import Duplicate

    net = model()
    surgery.apply(net, None, prune(first=(3,)), None)
    copies = {FIRST: [Duplicate(expert=4, parent=0, owner="south")]}
    rows = {FIRST: [[1, 1, 1, 0, 0], [0, 1, 1, 0, 1]], SECOND: [[1] * 4] * 2}
    edit = replace(masks(1), masks=rows, copies=copies, exclusive=True)
    surgery.apply(net, None, edit, None)
    layer = net.get_submodule(FIRST)
    assert layer.ids == (0, 1, 2, 4)
    allowed = layer.masking.allowed(torch.tensor([0, 1]), DOMAINS, layer.ids)
    assert allowed.tolist() == [[True, True, True, False], [True] * 4]
    report = surgery.apply(net, None, grow(5), None)
    assert report.after.layers[FIRST].ids == (0, 1, 2, 4, 5)
    surgery.apply(net, None, prune(first=(4,)), None)
    report = surgery.apply(net, None, grow(6), None)
    assert report.after.layers[FIRST].ids == (0, 1, 2, 5, 6)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Prune(**common(), experts={"elsewhere": (0,)}), "no routed layer 'elsewhere'"),
        (prune(first=(4,)), r"there were never experts \[4\]; it has 0, 1, 2, 3"),
        (prune(first=(0, 1, 2)), "1 of the experts .* would be left, and selector TopK needs at"),
        (prune(second=(0, 1)), "no expert that domain 'north' may train would be left"),
    ],
)
def test_what_cannot_go_is_refused_and_nothing_changes(edit: Prune, message: str) -> None:
    net = model()
    surgery.apply(net, None, masks(1, [1, 1, 0, 0], [0, 0, 1, 1]), None)
    before = surgery.fingerprint(net)
    with pytest.raises(InputError, match=message):
        surgery.apply(net, None, edit, None)
    assert surgery.fingerprint(net) == before


def test_a_selector_keeps_what_it_knows_of_the_others() -> None:
    from tests.doors.test_selector_door import BiasedThreshold

    kind = f"{BiasedThreshold.__module__}:BiasedThreshold"
    net = model(selector=BiasedThreshold.Config(kind=kind))
    train(net, adam(net))
    layer = net.get_submodule(FIRST)
    before = layer.selector.bias.clone()
    surgery.apply(net, None, prune(first=(2,)), None)
    assert torch.equal(layer.selector.bias, before[[0, 1, 3]])
